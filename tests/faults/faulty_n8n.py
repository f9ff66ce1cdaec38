"""An n8n whose workflows behave badly in one way each, and which counts what it was asked to run."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

STEPS = 8
_LONG_LINES, _LONG_LINE_BYTES = 512, 8 << 10
_FLOOD_BYTES = 1 << 30
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"


def _document(value: object) -> bytes:
    body = json.dumps(value).encode()
    return _HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _line(kind: str, content: str) -> bytes:
    metadata = {"nodeId": "1", "nodeName": "Agent", "itemIndex": 0, "runIndex": 0, "timestamp": 1795299897827}
    line = json.dumps({"type": kind, "content": content, "metadata": metadata}).encode() + b"\n"
    return b"%x\r\n%b\r\n" % (len(line), line)


class Served(NamedTuple):
    """A request that was answered, and when it was in hand."""

    key: str
    begun: float
    ended: float


class FaultyN8n:
    """Serves `/webhook/{name}` for the names of `WORKFLOWS` on a loopback port that it keeps.

    `calls` counts the requests by the `key` in their payload, `served` has those that were answered.
    """

    WORKFLOWS = ("quick", "steps", "long", "hang", "half", "twice", "flood", "gated", "handled")

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.served: list[Served] = []
        self.gate = asyncio.Event()
        """What `gated` waits for."""
        self.asked = asyncio.Event()
        """Set when `gated` is called."""
        self.awake = asyncio.Event()
        """Without it connections are made, and nothing is read of them nor written."""
        self.awake.set()
        self._port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listen, on the port that it had before if it had one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=1 << 24)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Go away as a killed process does: nothing that was begun is answered."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while True:
                await self.awake.wait()
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
                body = await reader.readexactly(length)
                await self._answer(head.split(" ")[1], body, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            return
        finally:
            writer.transport.abort()

    async def _answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        name = path.removeprefix("/webhook/")
        if name not in self.WORKFLOWS:
            writer.write(_document({"status": "ok"}))
            return
        key = str(json.loads(body)["key"])
        self.calls[key] += 1
        behave: dict[str, Callable[[str, asyncio.StreamWriter], Awaitable[None]]] = {
            "quick": self._quick,
            "steps": self._steps,
            "long": self._long,
            "hang": self._hang,
            "half": self._half,
            "twice": self._twice,
            "flood": self._flood,
            "gated": self._gated,
            "handled": self._quick,
        }
        begun = time.monotonic()
        await behave[name](key, writer)
        self.served.append(Served(key, begun, time.monotonic()))

    async def _quick(self, key: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(random.uniform(0, 0.2))
        writer.write(_document({"key": key}))

    async def _gated(self, key: str, writer: asyncio.StreamWriter) -> None:
        self.asked.set()
        await self.gate.wait()
        writer.write(_document({"key": key}))

    async def _steps(self, key: str, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for step in range(STEPS):
            await self.awake.wait()
            writer.write(_line("item", f"{key} step {step}\n"))
            await writer.drain()
            await asyncio.sleep(random.uniform(0, 0.1))
        writer.write(b"0\r\n\r\n")

    async def _long(self, _key: str, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(_LONG_LINES):
            writer.write(_line("item", "x" * _LONG_LINE_BYTES))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def _hang(self, _key: str, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def _half(self, key: str, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + _line("item", key))
        writer.write(b'400\r\n{"type":"item","content":"cut in the mi')
        await writer.drain()
        raise ConnectionError

    async def _twice(self, key: str, writer: asyncio.StreamWriter) -> None:
        writer.write(_document({"key": key}) * 2)

    async def _flood(self, _key: str, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD + b"Content-Length: %d\r\n\r\n" % _FLOOD_BYTES)
        for _ in range(_FLOOD_BYTES >> 20):
            writer.write(b"[" * (1 << 20))
            await writer.drain()
