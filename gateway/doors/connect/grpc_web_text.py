"""gRPC-Web in text (application/grpc-web-text): the same frames, in base64 both ways.

Browsers that can read a response only as text ask for it (gRPC-Web protocol,
"HTTP wire protocols").
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error

from gateway.doors.asgi import Application, Event, Receive, Scope, Send

TEXT = b"application/grpc-web-text"
_BINARY = b"application/grpc-web"
_QUANTUM = 4
_SEGMENT = re.compile(rb"[^=]+={0,2}")


class GrpcWebText:
    """An ASGI application in front of one that speaks binary gRPC-Web."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, with its body and its answer in base64 when its content type says so."""
        if not any(name == b"content-type" and value.startswith(TEXT) for name, value in scope["headers"]):
            await self._application(scope, receive, send)
            return
        headers = [
            (name, value.replace(TEXT, _BINARY, 1) if name == b"content-type" else value)
            for name, value in scope["headers"]
        ]
        await self._application({**scope, "headers": headers}, _Decoded(receive), _Encoded(send))


class _Decoded:
    """The request's body out of base64; one that is none ends as a broken body does."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._rest = b""

    async def __call__(self) -> Event:
        event = await self._receive()
        if event["type"] != "http.request":
            return event
        more = event.get("more_body", False)
        text = self._rest + event.get("body", b"")
        whole = len(text) - len(text) % _QUANTUM if more else len(text)
        self._rest = text[whole:]
        try:
            body = b"".join(_decode(segment) for segment in _SEGMENT.findall(text[:whole]))
        except Base64Error:
            return {"type": "http.request", "body": _NO_FRAME, "more_body": False}
        return {"type": "http.request", "body": body, "more_body": more}


_NO_FRAME = b"\xff"
"""Half a frame with flags that no frame has: it is refused as such."""


def _decode(segment: bytes) -> bytes:
    return b64decode(segment, validate=True)


class _Encoded:
    """The answer's body in base64, each part by itself, so that it can be read as soon as it is there."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            headers = [
                (name, value.replace(_BINARY, TEXT, 1) if name == b"content-type" else value)
                for name, value in event["headers"]
            ]
            event = {**event, "headers": headers}
        elif event["type"] == "http.response.body" and event.get("body"):
            event = {**event, "body": b64encode(event["body"])}
        await self._send(event)
