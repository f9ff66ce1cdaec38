"""n8n as the gateway calls it: over HTTP, through webhooks and the public API."""

from __future__ import annotations

from gateway.adapters.n8n.breaker import Circuit
from gateway.adapters.n8n.client import Limits, N8n, Response, StopResult
from gateway.adapters.n8n.exchange import Timeouts
from gateway.adapters.n8n.faults import Fate, N8nFault

__all__ = ["Circuit", "Fate", "Limits", "N8n", "N8nFault", "Response", "StopResult", "Timeouts"]
