"""The port for whoever watches the gateway, apart from those for callers: /metrics in Prometheus' forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import make_asgi_app

from gateway.metrics import REGISTRY

if TYPE_CHECKING:
    from gateway.doors.asgi import Application, Receive, Scope, Send


def metrics_application() -> Application:
    """An ASGI application that answers at /metrics alone."""
    metrics: Application = make_asgi_app(REGISTRY)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/metrics":
            await metrics(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    return application
