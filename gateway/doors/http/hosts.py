"""By which names the gateway may be asked."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Collection
from functools import lru_cache
from typing import TYPE_CHECKING

from gateway.doors.asgi import Answering, RawHeaders, Receive, Scope, Send

if TYPE_CHECKING:
    from gateway.transcoding.responder import Response
    from gateway.transcoding.unary import WholeRequest

_PORT = re.compile(r":[0-9]*\Z")
_REMEMBERED = 256
_OPEN = "/api/v1/health"
"""What probes ask by an address; it tells nobody's data."""

_BODY = json.dumps(
    {"code": 3, "message": "The Host header names none of this gateway's hosts.", "details": []}
).encode()


class AllowedHosts:
    """An ASGI application in front of another, for requests by the names that are allowed: others get 421.

    A page whose own name was made to lead here (DNS rebinding) gets no further. `hosts` are names and
    addresses without ports, `*.example.com` any name below that one.
    """

    def __init__(self, application: Answering, hosts: Collection[str]) -> None:
        self._application = application
        names = {host.lower() for host in hosts}
        self._names = frozenset(name for name in names if not name.startswith("*."))
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))
        self._allows = lru_cache(_REMEMBERED)(self._look_up)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if self._is_asked_by_name(scope["headers"]) or scope["path"].startswith(_OPEN):
            await self._application(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]
        await send({"type": "http.response.start", "status": 421, "headers": headers})
        await send({"type": "http.response.body", "body": _BODY})

    def answer(self, request: WholeRequest) -> Awaitable[Response] | None:
        """The application's own answer, if it is asked by a name that is allowed."""
        return self._application.answer(request) if self._is_asked_by_name(request.headers.pairs) else None

    def _is_asked_by_name(self, headers: RawHeaders) -> bool:
        return self._allows(next((value for name, value in headers if name == b"host"), b""))

    def _look_up(self, value: bytes) -> bool:
        name = _PORT.sub("", value.decode("latin-1").lower())
        return name in self._names or name.endswith(self._endings)
