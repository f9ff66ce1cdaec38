"""Bytes on sockets: HTTP/1.1 and HTTP/2 as no client library would send them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """An HTTP/1.1 response, its body without chunks."""

    status: int
    headers: dict[str, str]
    body: bytes


class Http1:
    """One connection to the HTTP port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def post(self, path: str, content_type: str, body: bytes, **headers: str) -> Answer:
        """Send a request and read its answer; `_` in header names stands for `-`."""
        fields = {"content-type": content_type} | {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.request("POST", path, fields, body)

    async def request(
        self, method: str, path: str, headers: Mapping[str, str | bytes], body: bytes = b""
    ) -> Answer:
        self.writer.write(request_bytes(method, path, headers, body))
        return await self.answer(head=method == "HEAD")

    async def answer(self, *, head: bool = False) -> Answer:
        async with asyncio.timeout(SECONDS):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            if head:
                body = b""
            elif headers.get("transfer-encoding") == "chunked":
                body = await self._chunks()
            else:
                body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(lines[0].split(" ")[1]), headers, body)

    async def closed(self) -> bool:
        """Whether the server closes the connection, without another byte."""
        async with asyncio.timeout(SECONDS):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return body


def request_bytes(method: str, path: str, headers: Mapping[str, str | bytes], body: bytes = b"") -> bytes:
    """An HTTP/1.1 request; its length is told unless the headers tell one."""
    fields: dict[str, str | bytes] = {"host": "localhost", "content-length": str(len(body)), **headers}
    lines = [f"{method} {path} HTTP/1.1".encode()]
    for name, value in fields.items():
        lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Http1]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Http1(reader, writer)
    finally:
        writer.close()


def frame(message: bytes, *, flags: int = 0, length: int | None = None) -> bytes:
    """A message in its frame (Connect streams, gRPC, gRPC-Web); `length` may be a lie."""
    return struct.pack(">BI", flags, len(message) if length is None else length) + message


def frames(body: bytes) -> list[tuple[int, bytes]]:
    """The flags and messages of a body."""
    found = []
    while body:
        flags, length = struct.unpack(">BI", body[:5])
        found.append((flags, body[5 : 5 + length]))
        body = body[5 + length :]
    return found


class Http2:
    """One connection to the gRPC port, just enough of HTTP/2 (RFC 9113) for a call a stream."""

    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
    END_STREAM, END_HEADERS = 1, 4

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        writer.write(self.PREFACE + self._frame(self.SETTINGS, 0, 0, b""))

    def start(
        self, stream: int, path: str, *more: tuple[bytes, bytes], content_type: bytes = b"application/grpc"
    ) -> None:
        """Open a stream with the headers of a gRPC call."""
        fields = [
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"x"),
            (b"content-type", content_type), (b"te", b"trailers"), *more,
        ]  # fmt: skip
        block = b"".join(_literal(name, value) for name, value in fields)
        self._writer.write(self._frame(self.HEADERS, self.END_HEADERS, stream, block))

    def send(self, stream: int, data: bytes, *, end: bool = True) -> None:
        self._writer.write(self._frame(self.DATA, self.END_STREAM if end else 0, stream, data))

    async def ended(self, stream: int) -> bytes:
        """All that comes on a stream until it ends; the headers are packed, and readable without Huffman."""
        seen = b""
        async with asyncio.timeout(SECONDS):
            while True:
                kind, flags, number, payload = await self._read()
                if number != stream:
                    continue
                seen += payload
                if kind == self.RST_STREAM or (kind in (self.DATA, self.HEADERS) and flags & self.END_STREAM):
                    return seen

    async def until(self, wanted: int) -> bytes:
        """The payload of the next frame of a kind."""
        async with asyncio.timeout(SECONDS):
            while True:
                kind, _, _, payload = await self._read()
                if kind == wanted:
                    return payload

    async def _read(self) -> tuple[int, int, int, bytes]:
        head = await self._reader.readexactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        return kind, flags, int.from_bytes(head[5:], "big"), await self._reader.readexactly(length)

    @staticmethod
    def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing and without Huffman coding (RFC 7541, 6.2.2)."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, more = len(text) - 127, b"\x7f"
    while rest >= 128:
        more += bytes([rest % 128 + 128])
        rest //= 128
    return more + bytes([rest]) + text


@asynccontextmanager
async def connect_http2(port: int) -> AsyncIterator[Http2]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Http2(reader, writer)
    finally:
        writer.close()
