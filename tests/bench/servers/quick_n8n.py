"""An n8n that answers at once, in n8n's own wire format: what a run costs beside the workflow itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import cast

import httptools

LINES, LINE_BYTES = 100, 1024
DRIP_SECONDS = 0.01
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"


def _document(value: object) -> bytes:
    body = json.dumps(value).encode()
    return _HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _line(kind: str, content: str | None = None) -> bytes:
    metadata = {"nodeId": "1", "nodeName": "Agent", "itemIndex": 0, "runIndex": 0, "timestamp": 1795299897827}
    value = {"type": kind} | ({} if content is None else {"content": content}) | {"metadata": metadata}
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _parts() -> list[bytes]:
    """A stream as it is written: its head, then a line at a time, then its end."""
    lines = [_line("begin"), *[_line("item", "x" * LINE_BYTES)] * LINES, _line("end")]
    return [_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *map(_chunk, lines), b"0\r\n\r\n"]


_PARTS = _parts()
_AT_ONCE = {
    b"/webhook/answer": _document({"answer": 42, "text": "x" * 200}),
    b"/webhook/stream": b"".join(_PARTS),
    b"/webhook/held": b"".join(_PARTS[:2]),
}
"""What is written in one go; a stream that is held has only begun, and does not end."""


class QuickN8n(asyncio.Protocol):
    """One connection, kept alive, with one request at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_message_complete(self) -> None:
        if self._path == b"/webhook/dripped":
            self._drip(iter(_PARTS))
        elif self._path == b"/webhook/stamped":
            self._transport.write(_PARTS[0] + _PARTS[1])
            asyncio.get_running_loop().call_later(DRIP_SECONDS, self._stamp)
        else:
            self._transport.write(_AT_ONCE[self._path])

    def _stamp(self) -> None:
        """Write a line that tells when it was written, and the end a little later."""
        line = _line("item", f"@{time.monotonic_ns()}@ {'x' * LINE_BYTES}")
        self._drip(iter([_chunk(line), _PARTS[-1]]))

    def _drip(self, parts: Iterator[bytes]) -> None:
        """Write a line each DRIP_SECONDS."""
        part = next(parts, None)
        if part is not None and not self._transport.is_closing():
            self._transport.write(part)
            asyncio.get_running_loop().call_later(DRIP_SECONDS, self._drip, parts)
