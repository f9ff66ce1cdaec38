"""An n8n that answers at once, in n8n's own wire format: what a run costs beside the workflow itself."""

from __future__ import annotations

import asyncio
import json

import httptools

LINES, LINE_BYTES = 100, 1024
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"


def _document(value: object) -> bytes:
    body = json.dumps(value).encode()
    return _HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _line(kind: str, content: str | None = None) -> bytes:
    metadata = {"nodeId": "1", "nodeName": "Agent", "itemIndex": 0, "runIndex": 0, "timestamp": 1795299897827}
    value = {"type": kind} | ({} if content is None else {"content": content}) | {"metadata": metadata}
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _stream() -> bytes:
    lines = [_line("begin"), *[_line("item", "x" * LINE_BYTES)] * LINES, _line("end")]
    body = b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in lines)
    return _HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


_ANSWERS = {b"/webhook/answer": _document({"answer": 42, "text": "x" * 200}), b"/webhook/stream": _stream()}


class QuickN8n(asyncio.Protocol):
    """One connection, kept alive, with one request at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_message_complete(self) -> None:
        self._transport.write(_ANSWERS[self._path])  # type: ignore[attr-defined]
