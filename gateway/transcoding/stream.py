"""The forms of a server stream, each of which always shows an error as an error.

| form | message | an error after the first message | end |
|---|---|---|---|
| JSON array | one element | a last element ``{"error": google.rpc.Status}`` | ``]`` |
| NDJSON | one line | a last line ``{"error": google.rpc.Status}`` | |
| event stream | ``data:``, with ``id:`` from a field `sequence` | ``event: error`` with a Status | |
| google.api.HttpBody | its bytes | the connection breaks | |
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeAlias

from protobuf import DescFieldValueScalar, DescMessage, Message

from gateway.transcoding.fields import INTEGERS, field_named
from gateway.transcoding.json_encoder import JsonEncoder
from gateway.transcoding.metadata import RequestMetadata
from gateway.transcoding.negotiation import EVENT_STREAM, JSON, NDJSON
from gateway.transcoding.outgoing import Outgoing
from gateway.transcoding.responder import OCTETS, Responder, header_part, raw_headers

Ready: TypeAlias = Outgoing | list[Outgoing]
"""A message of a stream, or several that are there at one time; none say that the stream has begun."""

STREAM_TYPES = (JSON, NDJSON, EVENT_STREAM)
"""The media types of server streams of messages; the first is the default."""

_HEARTBEAT = b":\n\n"
"""A comment of an event stream: keeps a silent connection open."""


class BrokenStream(Exception):
    """A byte stream failed half-way: the server must break the connection to show it."""


class Framing(Protocol):
    """How messages become bytes; one instance for each response."""

    content_type: str

    def message(self, message: Outgoing) -> bytes:
        """The bytes of one message."""

    def error(self, status: bytes) -> bytes:
        """The last bytes of a stream that failed; `status` is google.rpc.Status as JSON."""

    def end(self) -> bytes:
        """The last bytes of a stream that went well."""


class ArrayFraming:
    """One JSON array that can be read while it grows."""

    content_type = JSON

    def __init__(self, encode: JsonEncoder) -> None:
        self._encode = encode
        self._separator = b"["

    def message(self, message: Outgoing) -> bytes:
        """An element, after what comes before it."""
        encoded = self._separator + self._encode(message)
        self._separator = b",\n"
        return encoded

    def error(self, status: bytes) -> bytes:
        """A last element."""
        return b'%b{"error":%b}]' % (self._separator, status)

    def end(self) -> bytes:
        """The closing bracket."""
        return b"[]" if self._separator == b"[" else b"]"


class LineFraming:
    """One JSON value a line."""

    content_type = NDJSON

    def __init__(self, encode: JsonEncoder) -> None:
        self._encode = encode

    def message(self, message: Outgoing) -> bytes:
        """A line."""
        return self._encode(message) + b"\n"

    def error(self, status: bytes) -> bytes:
        """A last line."""
        return b'{"error":%b}\n' % status

    def end(self) -> bytes:
        """Nothing."""
        return b""


class EventFraming:
    """Server-sent events (HTML, 9.2)."""

    content_type = EVENT_STREAM

    def __init__(self, encode: JsonEncoder, sequence: Callable[[Outgoing], int] | None) -> None:
        self._encode = encode
        self._sequence = sequence

    def message(self, message: Outgoing) -> bytes:
        """An event, with its id when messages have a sequence."""
        if self._sequence is None:
            return b"data: %b\n\n" % self._encode(message)
        return b"id: %d\ndata: %b\n\n" % (self._sequence(message), self._encode(message))

    def error(self, status: bytes) -> bytes:
        """An event of type error."""
        return b"event: error\ndata: %b\n\n" % status

    def end(self) -> bytes:
        """Nothing."""
        return b""


class BytesFraming:
    """The data of google.api.HttpBody messages; the first one says the content type."""

    def __init__(self, read: Callable[[Message], tuple[str, bytes]]) -> None:
        self.content_type = ""
        self._read = read

    def message(self, message: Any) -> bytes:
        """The bytes as they are."""
        content_type, data = self._read(message)
        self.content_type = self.content_type or content_type or OCTETS
        return data

    def error(self, status: bytes) -> bytes:
        """Raises BrokenStream: bytes have no place for an error."""
        raise BrokenStream(status)

    def end(self) -> bytes:
        """Nothing."""
        return b""


def sequence_getter(message: DescMessage) -> Callable[[Outgoing], int] | None:
    """Reads the number that a stream is resumed after: an integer field named `sequence`."""
    field = field_named(message, "sequence")
    if field is None or not isinstance(field.value, DescFieldValueScalar):
        return None
    if field.value.scalar not in INTEGERS or field.value.oneof is not None:
        return None
    name = field.local_name

    def get(message: Outgoing) -> int:
        value: int = getattr(message, name)
        return value

    return get


async def send_stream(
    answer: AsyncIterator[Ready],
    frames: Framing,
    metadata: RequestMetadata,
    responder: Responder,
    heartbeat: float | None,
) -> None:
    """Send messages as soon as they are there, those of a list in one piece.

    The response starts with the first one, or with an empty list where the media type
    is known before. An event stream that is silent for `heartbeat` seconds gets a
    comment, so it can start earlier. `answer` is closed
    whatever happens; what it raises is raised here, and then the stream is still
    to be ended.
    """
    beat = None
    if heartbeat is not None and frames.content_type == EVENT_STREAM and not responder.head:
        beat = _Heartbeat(metadata, responder, heartbeat)
    try:
        async for ready in answer:
            messages = ready if isinstance(ready, list) else (ready,)
            encoded = b"".join(map(frames.message, messages))
            if beat is not None and not beat.idle.is_set():
                await beat.idle.wait()
            if not responder.started and frames.content_type:
                await _start(frames.content_type, metadata, responder)
                if responder.head:
                    break
            await responder.write(encoded)
    finally:
        if beat is not None:
            beat.stop()
        close = getattr(answer, "aclose", None)
        if close is not None:
            await close()
    if not responder.started:
        await _start(frames.content_type or OCTETS, metadata, responder)
    trailers = raw_headers([], metadata.trailers)
    await responder.finish(frames.end())
    if responder.trailers:
        await responder.send_trailers(trailers)


async def _start(content_type: str, metadata: RequestMetadata, responder: Responder) -> None:
    # Proxies must hand on each message at once, and never store a stream.
    fixed = [
        (b"content-type", header_part(content_type)),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
        (b"vary", b"accept"),
    ]
    headers = raw_headers(fixed, metadata.response_headers)
    await responder.start(metadata.http_status or 200, headers, trailers=responder.trailers)


class _Heartbeat:
    """Writes a comment after each interval of silence, beside what writes the messages.

    `idle` is set unless a comment is just being written; nobody else may write then.
    """

    def __init__(self, metadata: RequestMetadata, responder: Responder, interval: float) -> None:
        self.idle = asyncio.Event()
        self.idle.set()
        self._metadata = metadata
        self._responder = responder
        self._interval = interval
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Write no more."""
        self._task.cancel()

    async def _run(self) -> None:
        responder = self._responder
        while True:
            writes = responder.writes
            await asyncio.sleep(self._interval)
            if responder.writes == writes and not responder.busy:
                self.idle.clear()
                try:
                    await self._beat()
                except (OSError, ValueError):
                    # The next message meets the same fault, and its error is told.
                    return
                finally:
                    self.idle.set()

    async def _beat(self) -> None:
        if not self._responder.started:
            await _start(EVENT_STREAM, self._metadata, self._responder)
        await self._responder.write(_HEARTBEAT)
