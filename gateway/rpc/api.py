"""The services of the API, as their descriptors have them."""

from __future__ import annotations

from gateway.gen.n8ngateway.v1 import (
    api_key_service_pb,
    credit_service_pb,
    execution_service_pb,
    health_service_pb,
    internal_service_pb,
    organization_service_pb,
    webhook_service_pb,
    workflow_service_pb,
)

EXECUTION = execution_service_pb.desc().services[0]
WORKFLOW = workflow_service_pb.desc().services[0]
ORGANIZATION = organization_service_pb.desc().services[0]
API_KEY = api_key_service_pb.desc().services[0]
CREDIT = credit_service_pb.desc().services[0]
WEBHOOK = webhook_service_pb.desc().services[0]
HEALTH = health_service_pb.desc().services[0]
INTERNAL = internal_service_pb.desc().services[0]

SERVICES = (EXECUTION, WORKFLOW, ORGANIZATION, API_KEY, CREDIT, WEBHOOK, HEALTH, INTERNAL)
"""All of them, those that customers call most first."""
