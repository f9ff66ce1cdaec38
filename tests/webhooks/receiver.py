"""Receivers of webhooks, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.adapters.n8n_server import Peer, Server, http, serving

FINE = http(b"", status=204)


@dataclass(frozen=True)
class Got:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Answers each path as told, 204 if not told; `hold` keeps the answers to a path back."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.got: list[Got] = []
        self.answers: dict[str, list[bytes]] = {}
        self.held: dict[str, asyncio.Event] = {}
        self._came = asyncio.Condition()
        server.play = self._play

    def url(self, path: str = "/hook") -> str:
        return f"{self.server.url}{path}"

    def hold(self, path: str) -> asyncio.Event:
        return self.held.setdefault(path, asyncio.Event())

    def at(self, path: str) -> list[Got]:
        return [one for one in self.got if one.path == path]

    async def received(self, count: int, path: str = "/hook") -> list[Got]:
        """Wait until so many requests have come to a path."""
        async with asyncio.timeout(30), self._came:
            await self._came.wait_for(lambda: len(self.at(path)) >= count)
        return self.at(path)

    async def _play(self, peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            request, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            path = request.split(" ")[1]
            async with self._came:
                self.got.append(Got(path, headers, body))
                self._came.notify_all()
            if path in self.held:
                await self.held[path].wait()
            queue = self.answers.get(path, [])
            await peer.send(queue.pop(0) if len(queue) > 1 else queue[0] if queue else FINE)


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Run a receiver on a free port."""
    async with serving() as server:
        yield Receiver(server)
