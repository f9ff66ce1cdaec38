"""What an endpoint is told of an event: the body that is signed."""

from __future__ import annotations

from typing import Any

import orjson
import structlog

from gateway.gen.n8ngateway.v1.api_key_pb import ApiKey
from gateway.gen.n8ngateway.v1.credit_pb import CreditBalance
from gateway.gen.n8ngateway.v1.execution_pb import Execution
from gateway.gen.n8ngateway.v1.security_event_pb import SecurityEvent
from gateway.rpc.resource_json import ResourceJson, resource_json, time_json

_RESOURCES: dict[str, ResourceJson] = {
    "api_key": resource_json(ApiKey),
    "balance": resource_json(CreditBalance),
    "execution": resource_json(Execution),
    "security_event": resource_json(SecurityEvent),
}
"""What is a resource of the API in the data of an event."""

log = structlog.get_logger("gateway.webhooks")


def body_of(payload: str) -> bytes:
    """The body of an event that the database keeps: {"type", "timestamp", "data"}, as the API would print it.

    The same for each attempt. What cannot be read as a resource of the API is sent as it is kept.
    """
    event: dict[str, Any] = orjson.loads(payload)
    try:
        shown = event | {
            "timestamp": time_json(event["timestamp"]),
            "data": {name: _shown(name, value) for name, value in event["data"].items()},
        }
    except (ValueError, TypeError, KeyError):
        log.exception("event not in the form of the API", type=event.get("type"))
        return payload.encode()
    return orjson.dumps(shown)


def _shown(name: str, value: Any) -> Any:
    resource = _RESOURCES.get(name)
    return value if resource is None else resource(value)
