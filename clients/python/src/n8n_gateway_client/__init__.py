"""gRPC client of n8n-gateway.

Client (threads) and AsyncClient (asyncio) carry the generated stubs of every service, present an identity on
each call and repeat what is safe to repeat; follow and follow_async read a run to its end and tell where its
stream broke; error_info reads what the gateway says about a call that failed; RequestSigner signs what other
HTTP clients send. Messages are in the modules of n8n_gateway_client.v1.
"""

from __future__ import annotations

from n8n_gateway_client.clients import AsyncClient, Client
from n8n_gateway_client.errors import ErrorInfo, FieldViolation, error_info
from n8n_gateway_client.following import Break, follow, follow_async
from n8n_gateway_client.retries import RetryPolicy
from n8n_gateway_client.signing import RequestSigner

__all__ = [
    "AsyncClient",
    "Break",
    "Client",
    "ErrorInfo",
    "FieldViolation",
    "RequestSigner",
    "RetryPolicy",
    "error_info",
    "follow",
    "follow_async",
]
