"""gRPC client of n8n-gateway.

Client (threads) and AsyncClient (asyncio) carry the generated stubs of every service and present an
identity on each call; error_info reads what the gateway says about a call that failed. Messages are in
the modules of n8n_gateway_client.v1.
"""

from __future__ import annotations

from n8n_gateway_client.clients import AsyncClient, Client
from n8n_gateway_client.errors import ErrorInfo, FieldViolation, error_info

__all__ = ["AsyncClient", "Client", "ErrorInfo", "FieldViolation", "error_info"]
