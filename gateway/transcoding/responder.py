"""Sending an HTTP response over ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]
AsgiMessage: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[AsgiMessage]]
Send: TypeAlias = Callable[[AsgiMessage], Awaitable[None]]

OCTETS: Final = "application/octet-stream"
"""The type of bytes of which nothing is known."""


class Response(NamedTuple):
    """Status, headers and body as they are sent; `compressible` says that gzip is worth it."""

    status: int
    headers: RawHeaders
    body: bytes
    compressible: bool = False


class Responder:
    """The sending side of one request.

    `head` says that only the headers are wanted, `trailers` that the server and
    the client can do HTTP trailers, `started` that a status has been sent,
    `finished` that the last part has been, `busy` that a part is being taken by
    the server, and `writes` counts the parts.
    """

    __slots__ = ("_send", "busy", "finished", "head", "started", "trailers", "writes")

    def __init__(self, send: Send, *, head: bool, trailers: bool = False) -> None:
        self._send = send
        self.head = head
        self.trailers = trailers and not head
        self.started = self.finished = self.busy = False
        self.writes = 0

    async def start(self, status: int, headers: RawHeaders, *, trailers: bool = False) -> None:
        """Send the status and headers of a body that follows in parts."""
        self.started = True
        message: AsgiMessage = {"type": "http.response.start", "status": status, "headers": headers}
        if trailers:
            message["trailers"] = True
        self.busy = True
        await self._send(message)
        self.busy = False

    async def write(self, data: bytes) -> None:
        """Send a part of the body at once, if there is anything in it."""
        if not data:
            return
        self.writes += 1
        self.busy = True
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self.busy = False

    async def finish(self, data: bytes) -> None:
        """Send the last part of the body."""
        self.finished = True
        body = b"" if self.head else data
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def send_trailers(self, trailers: RawHeaders) -> None:
        """Send the trailers of a response that was started with them."""
        await self._send({"type": "http.response.trailers", "headers": trailers, "more_trailers": False})

    async def respond(self, response: Response) -> None:
        """Send a whole response."""
        self.started = self.finished = True
        status, headers, body, _ = response
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        sent = b"" if self.head else body
        await self._send({"type": "http.response.body", "body": sent, "more_body": False})


def raw_headers(fixed: RawHeaders, added: Iterable[tuple[str, str]]) -> RawHeaders:
    """Headers as ASGI takes them; an added one replaces the fixed one of its name.

    Raises ValueError for a name or value that would end its line, or that
    Latin-1 cannot carry.
    """
    extra = [
        (_name(name), value.encode("latin-1") if value.isprintable() else header_part(value))
        for name, value in added
    ]
    replaced = dict(extra)
    return [pair for pair in fixed if pair[0] not in replaced] + extra


@lru_cache(maxsize=256)
def _name(text: str) -> bytes:
    return header_part(text).lower()


def header_part(text: str) -> bytes:
    """A name or value as ASGI takes it. Raises ValueError as raw_headers does."""
    if not text.isprintable() and ("\n" in text or "\r" in text or "\0" in text):
        message = "a response header contains a line break or NUL"
        raise ValueError(message)
    return text.encode("latin-1")
