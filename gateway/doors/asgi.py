"""The ASGI interface (version 3), as far as types go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gateway.transcoding.responder import Response
    from gateway.transcoding.unary import WholeRequest

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]

CACHE_CONTROL = "private, no-cache"
"""Of answers to GET: no cache keeps one caller's for another, and each is asked for again by its ETag."""


class Answering(Protocol):
    """An ASGI application that can be asked for the whole answer to a whole request, without events."""

    def __call__(self, scope: Scope, receive: Receive, send: Send, /) -> Awaitable[None]:
        """Serve one request."""

    def answer(self, request: WholeRequest, /) -> Awaitable[Response] | None:
        """The answer; None for a request that is to be served as usual."""
