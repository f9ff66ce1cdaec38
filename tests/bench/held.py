"""What open streams that nothing comes on take of a server's memory."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.load import headers
from tests.bench.loader import http1_request
from tests.bench.processes import BenchError, Server
from tests.bench.report import Held

if TYPE_CHECKING:
    from tests.bench.rows import Row

FEW, MANY = 50, 5000
"""Streams that show a server all of its code, and those that are measured."""
_FILES_EACH, _OTHER_FILES = 2, 250
"""What a server has open: for a stream its client and its n8n, and all else."""
_AT_A_TIME = 32
_SECONDS = 300
_SETTLE_SECONDS = 1.0


def allowed() -> int:
    """How many streams may be measured: MANY, or as many as servers may have files open for.

    Servers that this process starts from now on may have as many open as they are allowed at all.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most == resource.RLIM_INFINITY:
        return MANY
    return max(1, min(MANY, (most - _OTHER_FILES) // _FILES_EACH - FEW))


def measure(row: Row, server: Server, tokens: Sequence[str], count: int) -> Held:
    """What `count` open streams take. The server is to be new: memory is not given back.

    Raises BenchError when a stream does not begin.
    """
    return asyncio.run(_measure(row, server, tokens, count))


async def _measure(row: Row, server: Server, tokens: Sequence[str], count: int) -> Held:
    port = server.ports[row.port]
    few = await _opened(row, port, tokens, FEW)
    before = _resident_kib(server.pids)
    many = await _opened(row, port, tokens, count)
    await asyncio.sleep(_SETTLE_SECONDS)
    after = _resident_kib(server.pids)
    for writer in few + many:
        writer.close()
    return Held(count, (after - before) / count)


async def _opened(row: Row, port: int, tokens: Sequence[str], count: int) -> list[asyncio.StreamWriter]:
    turn = asyncio.Semaphore(_AT_A_TIME)

    async def opened(number: int) -> asyncio.StreamWriter:
        sent = headers(row, tokens[number % len(tokens)])
        async with turn:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(http1_request(row.method, row.path, port, sent, row.body))
            head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"{row.key}: a stream was not opened: {head[:300]!r}")
        return writer

    async with asyncio.timeout(_SECONDS):
        return list(await asyncio.gather(*map(opened, range(count))))


def _resident_kib(pids: Iterable[int]) -> int:
    return sum(
        int(line.split()[1])
        for pid in pids
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    )
