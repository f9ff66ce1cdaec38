"""A server that says to each connection exactly what a test wants, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

SECRET = "s3cret-internal-0123456789"
API_KEY = "key-of-the-api-0123456789"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Peer:
    """One connection of the gateway, seen from n8n."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def head(self) -> bytes:
        """Take the request line and headers of the next request. Raises EOFError at the end."""
        return await self._reader.readuntil(b"\r\n\r\n")

    async def request(self) -> tuple[bytes, bytes]:
        """Take the next request: its head and body."""
        head = await self.head()
        length = _LENGTH.search(head)
        return head, await self._reader.readexactly(int(length[1]) if length else 0)

    async def send(self, *parts: bytes) -> None:
        """Send each part in a packet of its own, as far as TCP lets a program say so."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def gone(self) -> int:
        """Wait until the gateway has closed; give how many bytes came before that."""
        received = 0
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(2**16):
                received += len(data)
        return received

    def reset(self) -> None:
        """End the connection with RST."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        """End the connection with FIN."""
        self._writer.close()


Play = Callable[[Peer], Awaitable[None]]


class Server:
    """Plays for each connection; counts them, and keeps the heads of the requests that `answer` took."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.requests: list[tuple[bytes, bytes]] = []
        self.play: Play = self.answer(b"")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, *parts: bytes, close: bool = False) -> Play:
        """Answer each request with these parts; then `close`, or wait for the next request."""

        async def play(peer: Peer) -> None:
            while True:
                self.requests.append(await peer.request())
                await peer.send(*parts)
                if close:
                    return

        return play

    def answers(self, *answers: bytes) -> Play:
        """Answer one request after the other, over all connections, then close."""
        left = list(answers)

        async def play(peer: Peer) -> None:
            while left:
                self.requests.append(await peer.request())
                await peer.send(left.pop(0))

        return play

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with contextlib.suppress(EOFError, ConnectionError):
                await self.play(Peer(reader, writer))
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Run a server on a free port; end its connections at the end."""
    server = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await server._connected(reader, writer)
        finally:
            tasks.discard(task)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls, limit=2**20)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


def http(body: bytes, *, status: int = 200, **headers: str) -> bytes:
    """An answer with a Content-Length; header names with `_` for `-`."""
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*chunks: bytes, ended: bool = True, **headers: str) -> list[bytes]:
    """An answer in HTTP chunks: its head, each chunk, and its end."""
    lines = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Content-Type: application/json; charset=utf-8"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    parts = ["\r\n".join([*lines, "", ""]).encode()]
    parts += [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]
    return [*parts, b"0\r\n\r\n"] if ended else parts
