"""Request bodies: read within limits, and freed of their content coding."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Final, Protocol

from gateway.transcoding.errors import Code, StatusError
from gateway.transcoding.metadata import Headers
from gateway.transcoding.responder import Receive

_WINDOW: Final = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""Content coding -> zlib window bits; deflate is zlib's format (RFC 9110, 8.4.1.2)."""
ACCEPTED_CODINGS: Final = "gzip, deflate"
_PIECE: Final = 1024 * 1024


class Inflater(Protocol):
    """The part of zlib's decompression object that is used."""

    @property
    def unused_data(self) -> bytes:
        """Bytes after the end of the compressed data."""

    @property
    def unconsumed_tail(self) -> bytes:
        """Input that the length limit left over."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """At most `max_length` bytes of output. Raises zlib.error."""


class Disconnected(Exception):
    """The client went away before its request was complete."""


def too_large(limit: int) -> StatusError:
    """413 for a body over the limit. The rest of it is not read, so the connection closes."""
    return StatusError(
        Code.RESOURCE_EXHAUSTED,
        f"the request body is larger than {limit} bytes",
        headers={"connection": "close"},
        http_status=413,
    )


async def read_body(receive: Receive, headers: Headers, limit: int, seconds: float) -> bytes:
    """The whole body, without content coding, of at most `limit` bytes.

    Raises StatusError (413, 415, 408, 400) and Disconnected. `limit` holds for
    the bytes on the wire and for those that come out of the decompressor.
    """
    declared = headers.raw(b"content-length")
    if declared is not None and declared.isdigit() and int(declared[:20]) > limit:
        raise too_large(limit)
    coding = content_coding(headers)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Disconnected
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        try:
            async with asyncio.timeout(seconds):
                body = await _read_rest(receive, body, limit)
        except TimeoutError:
            raise StatusError(
                Code.DEADLINE_EXCEEDED,
                f"the request body did not come within {seconds:g} seconds",
                headers={"connection": "close"},
                http_status=408,
            ) from None
    if len(body) > limit:
        raise too_large(limit)
    return body if coding is None or not body else inflate(body, coding, limit)


async def _read_rest(receive: Receive, first: bytes, limit: int) -> bytes:
    chunks = [first]
    size = len(first)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
        more = bool(message.get("more_body"))
    return b"".join(chunks)


def content_coding(headers: Headers) -> bytes | None:
    """The body's content coding, None for none. Raises StatusError 415 for one that is not taken."""
    if headers.raw(b"content-encoding") is None:
        return None
    value = headers.joined(b"content-encoding").strip().lower()
    if value in (b"", b"identity"):
        return None
    if value not in _WINDOW:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"the Content-Encoding must be one of {ACCEPTED_CODINGS}",
            headers={"accept-encoding": ACCEPTED_CODINGS},
            http_status=415,
        )
    return value


async def body_chunks(receive: Receive, headers: Headers) -> AsyncIterator[bytes]:
    """The body as it comes, without content coding, in pieces of at most 1 MiB.

    Raises StatusError (415, 400), and CANCELLED when the client goes away.
    """
    coding = content_coding(headers)
    decompressor = None if coding is None else zlib.decompressobj(_WINDOW[coding])
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise StatusError(Code.CANCELLED, "the client went away")
        chunk, more = message.get("body", b""), bool(message.get("more_body"))
        if decompressor is None or coding is None:
            for start in range(0, len(chunk), _PIECE):
                yield chunk[start : start + _PIECE]
        else:
            for piece in _inflate_pieces(decompressor, chunk, coding):
                yield piece
    if decompressor is not None and coding is not None and not decompressor.eof:
        raise _broken(coding)


def _inflate_pieces(inflater: Inflater, chunk: bytes, coding: bytes) -> Iterator[bytes]:
    data, piece = chunk, b""
    while data or len(piece) == _PIECE:
        try:
            piece = inflater.decompress(data, _PIECE)
        except zlib.error:
            raise _broken(coding) from None
        if inflater.unused_data:
            raise _broken(coding)
        if piece:
            yield piece
        data = inflater.unconsumed_tail


def inflate(body: bytes, coding: bytes, limit: int) -> bytes:
    """Decompress at most `limit` bytes. Raises StatusError: 413 beyond, 400 for broken data."""
    decompressor = zlib.decompressobj(_WINDOW[coding])
    try:
        plain = decompressor.decompress(body, limit + 1)
    except zlib.error:
        raise _broken(coding) from None
    if len(plain) > limit:
        raise too_large(limit)
    if not decompressor.eof or decompressor.unused_data:
        raise _broken(coding)
    return plain


def _broken(coding: bytes) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, f"the request body is not valid {coding.decode()} data")
