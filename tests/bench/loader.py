"""The bundled load generator, for machines without wrk and h2load: raw sockets, HTTP/1.1 and HTTP/2.

``python -m tests.bench.loader`` reads a Load as JSON from standard input and prints a Result as JSON.
It checks statuses and that responses end, and decodes no more than that.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Iterator
from functools import partial

import uvloop

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_WINDOW = (1 << 31) - 1
_OPENED_WINDOW = _WINDOW - 65_535


class Counts:
    """What all connections of a run have done."""

    def __init__(self) -> None:
        self.calls = self.errors = self.bytes = 0


class Http1(asyncio.Protocol):
    """One connection with one request in flight."""

    def __init__(self, request: bytes, counts: Counts) -> None:
        self._request = request
        self._counts = counts
        self._tail = b""
        self._left = -1
        self._started = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        self._counts.errors += 1

    def data_received(self, data: bytes) -> None:
        self._counts.bytes += len(data)
        if not self._started:
            data = self._read_head(self._tail + data)
            if not self._started:
                return
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                self._done()
            return
        self._tail = (self._tail + data)[-7:]
        if self._tail.endswith(b"\r\n0\r\n\r\n"):
            self._done()

    def _read_head(self, data: bytes) -> bytes:
        head, end, body = data.partition(b"\r\n\r\n")
        if not end:
            self._tail = data
            return b""
        self._started = True
        self._tail = b"\r\n"
        self._counts.errors += head[9:10] != b"2"
        length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        self._left = int(length) if length else -1
        return body

    def _done(self) -> None:
        self._counts.calls += 1
        self._send()

    def _send(self) -> None:
        self._started, self._tail = False, b""
        self._transport.write(self._request)  # type: ignore[attr-defined]


class Http2(asyncio.Protocol):
    """One connection with several gRPC calls in flight."""

    def __init__(self, headers: bytes, body: bytes, streams: int, counts: Counts) -> None:
        self._headers = headers
        self._body = body
        self._streams = streams
        self._counts = counts
        self._buffer = bytearray()
        self._next = 1
        self._with_data: set[int] = set()
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        settings = b"\0\4" + _WINDOW.to_bytes(4, "big")
        opened = _OPENED_WINDOW.to_bytes(4, "big")
        self._write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(8, 0, 0, opened))
        self._write(b"".join(self._call() for _ in range(self._streams)))

    def data_received(self, data: bytes) -> None:
        self._counts.bytes += len(data)
        self._buffer += data
        answer = b"".join(self._handle(*frame) for frame in self._frames())
        if self._received > 1 << 30:
            answer += _frame(8, 0, 0, self._received.to_bytes(4, "big"))
            self._received = 0
        if answer:
            self._write(answer)

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        buffer, start = self._buffer, 0
        while len(buffer) - start >= 9:
            end = start + 9 + int.from_bytes(buffer[start : start + 3], "big")
            if len(buffer) < end:
                break
            stream = int.from_bytes(buffer[start + 5 : start + 9], "big")
            yield buffer[start + 3], buffer[start + 4], stream, bytes(buffer[start + 9 : end])
            start = end
        del buffer[:start]

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if kind == _DATA:
            self._received += len(payload)
            self._with_data.add(stream)
        elif kind == _SETTINGS and not flags & _ACK:
            return _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            return _frame(_PING, _ACK, 0, payload)
        elif kind in (_RESET, _GOAWAY):
            self._counts.errors += 1
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
            self._counts.calls += 1
            # A call that fails ends without a message.
            self._counts.errors += stream not in self._with_data
            self._with_data.discard(stream)
            return self._call()
        return b""

    def _call(self) -> bytes:
        stream, self._next = self._next, self._next + 2
        return _frame(_HEADERS, _END_HEADERS, stream, self._headers) + _frame(
            _DATA, _END_STREAM, stream, self._body
        )

    def _write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3, "big"), kind, flags, stream.to_bytes(4, "big"), payload)


def _literal(name: str, value: str) -> bytes:
    """A header field that leaves the compression tables alone (RFC 7541, 6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(text: str) -> bytes:
    """A string without Huffman coding (RFC 7541, 5.1 and 5.2)."""
    data, length = text.encode(), len(text.encode())
    if length < 127:
        return bytes([length]) + data
    prefix, length = [127], length - 127
    while length >= 128:
        prefix.append(length % 128 + 128)
        length //= 128
    return bytes([*prefix, length]) + data


def http1_request(method: str, path: str, port: int, headers: dict[str, str], body: bytes) -> bytes:
    """The bytes of one request."""
    lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{port}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def http2_headers(path: str, port: int, headers: dict[str, str]) -> bytes:
    """The header block of one call."""
    pseudo = {":method": "POST", ":scheme": "http", ":path": path, ":authority": f"127.0.0.1:{port}"}
    return b"".join(_literal(name, value) for name, value in (pseudo | headers).items())


async def run(load: dict[str, object]) -> dict[str, float]:
    counts = Counts()
    path, port, headers = str(load["path"]), int(str(load["port"])), load["headers"]
    assert isinstance(headers, dict)
    body = base64.b64decode(str(load["body"]))
    connections, streams = int(str(load["connections"])), int(str(load["streams"]))
    tokens = load["tokens"]
    assert isinstance(tokens, list)

    def connection(number: int) -> Http1 | Http2:
        sent = headers | {"authorization": f"Bearer {tokens[number % len(tokens)]}"}
        if load["http2"]:
            return Http2(http2_headers(path, port, sent), body, streams, counts)
        return Http1(http1_request(str(load["method"]), path, port, sent, body), counts)

    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for number in range(connections):
        await loop.create_connection(partial(connection, number), "127.0.0.1", port)
    await asyncio.sleep(float(str(load["seconds"])))
    seconds = time.perf_counter() - started
    return {"calls": counts.calls, "errors": counts.errors, "seconds": seconds, "bytes": counts.bytes}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(uvloop.run(run(json.load(sys.stdin)))))
