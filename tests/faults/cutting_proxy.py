"""A network that breaks connections, in the middle of whatever goes over them."""

from __future__ import annotations

import asyncio
import random
from types import TracebackType
from typing import Self

_MOST_BYTES = 6000
"""About two answers of Execute, or one stream."""


class CuttingProxy:
    """Hands a loopback port's bytes on, and cuts each connection after a random number of them."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            writer.transport.abort()
            return
        left = random.randrange(_MOST_BYTES)
        up = asyncio.create_task(_pipe(reader, upstream_writer, left))
        down = asyncio.create_task(_pipe(upstream_reader, writer, left))
        await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        for pipe in (up, down):
            pipe.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        writer.transport.abort()
        upstream_writer.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int) -> None:
    while left > 0 and (data := await reader.read(min(left, 1024))):
        left -= len(data)
        writer.write(data)
        await writer.drain()
