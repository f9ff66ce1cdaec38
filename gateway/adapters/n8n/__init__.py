"""n8n as the gateway calls it: over HTTP, through webhooks and the public API."""

from __future__ import annotations

from gateway.adapters.n8n.body import Expected
from gateway.adapters.n8n.breaker import Circuit
from gateway.adapters.n8n.client import Limits, N8n, StopResult, check_base_url
from gateway.adapters.n8n.exchange import Timeouts
from gateway.adapters.n8n.faults import Fate, N8nFault, N8nWithheld
from gateway.adapters.n8n.instances import API_KEY, INTERNAL_SECRET, N8nInstances
from gateway.adapters.n8n.redaction import Redactor
from gateway.adapters.n8n.response import Response

__all__ = [
    "API_KEY",
    "INTERNAL_SECRET",
    "Circuit",
    "Expected",
    "Fate",
    "Limits",
    "N8n",
    "N8nFault",
    "N8nInstances",
    "N8nWithheld",
    "Redactor",
    "Response",
    "StopResult",
    "Timeouts",
    "check_base_url",
]
