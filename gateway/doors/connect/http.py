"""The HTTP side of the Connect door: what connectrpc leaves to the server in front of it.

Answers are compressed only where it is worth it, and carry their length; those to GET
have an entity tag, HEAD is answered where GET is. Paths that nobody serves, and gRPC
without HTTP/2, are refused in the caller's own protocol. Header values that are no
UTF-8 are read as ISO 8859-1, which every byte is (RFC 9110, 5.5).
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

from gateway.doors.asgi import CACHE_CONTROL, Application, Event, RawHeaders, Receive, Scope, Send
from gateway.doors.connect.gzip import WORTHWHILE, compress
from gateway.transcoding.conditional import entity_tag, none_match
from gateway.transcoding.negotiation import accepts_gzip

if TYPE_CHECKING:
    from gateway.rpc.methods import Method

_UNIMPLEMENTED = 12
_HEAD = struct.Struct(">BI")
"""Of an envelope: flags, and the length of the message (Connect protocol, "Enveloped-Message")."""
_COMPRESSED = 1
_FRAMED = (b"application/connect+", b"application/grpc")
_MESSAGE_ENCODINGS = (b"connect-content-encoding", b"grpc-encoding")
_ACCEPTED_MESSAGE_ENCODINGS = (b"connect-accept-encoding", b"grpc-accept-encoding")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")


class ConnectHttp:
    """An ASGI application in front of connectrpc's, for the methods that it serves.

    What connectrpc takes for one message of a stream is to be a batch of them, each in its envelope
    (`in_envelopes`): they leave in one piece.
    """

    def __init__(self, application: Application, methods: Iterable[Method]) -> None:
        self._application = application
        self._streams = {method.path: method.server_streaming for method in methods}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = _Request(scope)
        is_stream = self._streams.get(scope["path"])
        if is_stream is None:
            await _refuse(send, request.content_type, "This service has no such method.")
        elif request.is_grpc:
            await _refuse(send, request.content_type, "gRPC needs HTTP/2: it has a port of its own.")
        else:
            answer = _Answer(request, send, in_batches=is_stream)
            await self._application(request.scope(), receive, answer)


class _Request:
    """A request's headers, without those that the answer's compression depends on."""

    __slots__ = ("_scope", "accept_encoding", "content_type", "headers", "if_none_match", "message_encoding")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self.accept_encoding = self.message_encoding = self.content_type = self.if_none_match = b""
        self.headers: RawHeaders = []
        for name, value in scope["headers"]:
            if name == b"accept-encoding":
                self.accept_encoding += b"," + value
                continue
            if name in _ACCEPTED_MESSAGE_ENCODINGS:
                self.message_encoding += b"," + value
                continue
            if name == b"content-type":
                self.content_type = value
            elif name == b"if-none-match":
                self.if_none_match = value
            self.headers.append((name, value if value.isascii() else _utf8(value)))

    @property
    def is_grpc(self) -> bool:
        """Whether it is gRPC as it is over HTTP/2."""
        return self.content_type.startswith(b"application/grpc") and not self.content_type.startswith(
            b"application/grpc-web"
        )

    @property
    def is_read(self) -> bool:
        """Whether it asks for a representation (GET or HEAD)."""
        return self._scope["method"] in ("GET", "HEAD")

    def scope(self) -> Scope:
        """The request as connectrpc is to see it."""
        query = self._scope["query_string"]
        if not query.isascii():
            query = _NOT_ASCII.sub(lambda byte: b"%%%02X" % ord(byte[0]), query)
        method = "GET" if self._scope["method"] == "HEAD" else self._scope["method"]
        return {**self._scope, "headers": self.headers, "query_string": query, "method": method}


class _Answer:
    """The answer on its way out."""

    __slots__ = ("_compress", "_framed", "_in_batches", "_request", "_send", "_start")

    def __init__(self, request: _Request, send: Send, *, in_batches: bool) -> None:
        self._in_batches = in_batches
        self._request = request
        self._send = send
        self._start: Event = {}
        self._framed = self._compress = False

    async def __call__(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            await self._begin(event)
        elif self._framed:
            await self._send_frame(event)
        else:
            await self._send_whole(event.get("body", b""))

    async def _begin(self, event: Event) -> None:
        """Frames leave as they come; a whole body decides on its headers."""
        headers = event["headers"]
        self._framed = any(name == b"content-type" and value.startswith(_FRAMED) for name, value in headers)
        if not self._framed:
            self._start = event
            return
        accepted = self._request.message_encoding.split(b",")
        self._compress = any(coding.strip() == b"gzip" for coding in accepted)
        coding = b"gzip" if self._compress else b"identity"
        event["headers"] = [
            (name, coding if name in _MESSAGE_ENCODINGS else value) for name, value in headers
        ]
        await self._send(event)

    async def _send_frame(self, event: Event) -> None:
        """Send what is in one envelope: a message, a batch of them, or the end of a stream."""
        frame: bytes = event.get("body", b"")
        if frame and frame[0] == 0:
            if self._in_batches:
                frame = frame[_HEAD.size :]
            if self._compress and len(frame) >= WORTHWHILE:
                frame = b"".join([await in_small_envelope(message) for message in _in(frame)])
            event["body"] = frame
        await self._send(event)

    async def _send_whole(self, body: bytes) -> None:
        status: int = self._start["status"]
        headers = [pair for pair in self._start["headers"] if pair[0] != b"content-encoding"]
        if status == 200 and self._request.is_read:  # noqa: PLR2004 (OK)
            tag = entity_tag(body)
            headers += [(b"etag", tag), (b"cache-control", CACHE_CONTROL.encode())]
            if none_match(self._request.if_none_match, tag):
                status, body = 304, b""
        if len(body) >= WORTHWHILE and accepts_gzip(self._request.accept_encoding):
            body = await compress(body)
            headers.append((b"content-encoding", b"gzip"))
        if status != 304:  # noqa: PLR2004 (Not Modified)
            headers.append((b"content-length", b"%d" % len(body)))
        await self._send({**self._start, "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def in_envelopes(messages: Iterable[bytes]) -> bytes:
    """Messages of a stream as they are on the wire, one after the other."""
    return b"".join([_HEAD.pack(0, len(message)) + message for message in messages])


def only_message(body: bytes) -> bytes | None:
    """What is in the envelope that a body consists of; None if it is compressed, not whole, or not alone."""
    if len(body) < _HEAD.size or _HEAD.unpack_from(body) != (0, len(body) - _HEAD.size):
        return None
    return body[_HEAD.size :]


def _in(envelopes: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(envelopes):
        _, length = _HEAD.unpack_from(envelopes, at)
        at += _HEAD.size
        yield envelopes[at : at + length]
        at += length


async def in_small_envelope(message: bytes) -> bytes:
    """A message in its envelope, compressed if that is worth it."""
    if len(message) < WORTHWHILE:
        return _HEAD.pack(0, len(message)) + message
    message = await compress(message)
    return _HEAD.pack(_COMPRESSED, len(message)) + message


def _utf8(value: bytes) -> bytes:
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
    return value


async def _refuse(send: Send, content_type: bytes, message: str) -> None:
    """Answer UNIMPLEMENTED: in headers to gRPC and gRPC-Web, else as Connect's JSON."""
    status, body = 404, b""
    if content_type.startswith(b"application/grpc"):
        status = 200
        headers = [
            (b"content-type", content_type),
            (b"grpc-status", b"%d" % _UNIMPLEMENTED),
            (b"grpc-message", quote(message, safe=" ").encode()),
        ]
    else:
        body = json.dumps({"code": "unimplemented", "message": message}).encode()
        headers = [(b"content-type", b"application/json")]
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
