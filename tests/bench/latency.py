"""How long callers wait: calls timed one by one, in turn or at half of what the server can do."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from itertools import cycle
from statistics import quantiles
from typing import TYPE_CHECKING

from tests.bench.load import headers
from tests.bench.loader import http1_request
from tests.bench.processes import LOAD_CORE, BenchError, on_core
from tests.bench.report import Latency

if TYPE_CHECKING:
    from tests.bench.rows import Row

_MOST_SECONDS = 30
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STAMP = re.compile(rb"@(\d+)@")


def measure(
    row: Row, port: int, tokens: Sequence[str], seconds: float, per_second: float | None = None
) -> Latency:
    """Time calls for so long: `per_second` of them at even times, or without it each after the one before.

    Of a stream, the time is that from n8n's writing of its first chunk to the reading of it here. Raises
    BenchError when a call fails.
    """

    async def run() -> list[float]:
        callers = _Callers(row, port, tokens)
        try:
            async with asyncio.timeout(seconds + _MOST_SECONDS):
                if per_second is None:
                    return await _in_turn(callers, seconds)
                return await _paced(callers, seconds, per_second)
        finally:
            callers.close()

    with on_core(LOAD_CORE):
        taken = asyncio.run(run())
    cuts = quantiles(taken, n=100)
    return Latency(p50_ms=cuts[49] * 1e3, p99_ms=cuts[98] * 1e3)


async def _in_turn(callers: _Callers, seconds: float) -> list[float]:
    until = time.monotonic() + seconds
    taken = [await callers.call(), await callers.call()]
    while time.monotonic() < until:
        taken.append(await callers.call())
    return taken


async def _paced(callers: _Callers, seconds: float, per_second: float) -> list[float]:
    """Begin each call when it is due, whatever became of those before it."""
    calls: list[asyncio.Task[float]] = []
    begun = time.monotonic()
    for number in range(max(2, round(seconds * per_second))):
        await asyncio.sleep(begun + number / per_second - time.monotonic())
        calls.append(asyncio.create_task(callers.call()))
    return await asyncio.gather(*calls)


class _Callers:
    """As many connections as there are calls at one time; those of calls that have ended are used again."""

    def __init__(self, row: Row, port: int, tokens: Sequence[str]) -> None:
        sent = (headers(row, token) for token in tokens)
        self._requests = cycle([http1_request(row.method, row.path, port, each, row.body) for each in sent])
        self._row = row
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self) -> float:
        """Make one call, and say how many seconds it took."""
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        begun = time.monotonic()
        writer.write(next(self._requests))
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"{self._row.key} answers {head[:300]!r}")
        length = _LENGTH.search(head)
        if length is None:
            taken = await _first_stamp(reader)
            writer.close()
            return taken
        await reader.readexactly(int(length[1]))
        self._idle.append((reader, writer))
        return time.monotonic() - begun

    def close(self) -> None:
        """Close what is open."""
        for _, writer in self._idle:
            writer.close()


async def _first_stamp(reader: asyncio.StreamReader) -> float:
    """The age of the first stamp, by the clock that all processes share. Reads the stream to its end."""
    line = await reader.readuntil(b"\n")
    while (stamp := _STAMP.search(line)) is None:
        line = await reader.readuntil(b"\n")
    taken = time.monotonic() - int(stamp[1]) / 1e9
    while not line.endswith(b"0\r\n"):
        line = await reader.readuntil(b"\n")
    return taken
