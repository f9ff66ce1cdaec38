"""One HTTP request to n8n and its answer, with deadlines.

An aborted request leaves at once, whatever is still unsent. Compressed answers are decoded in steps, so that
a small one cannot fill the memory.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.adapters.n8n import faults
from gateway.adapters.n8n.faults import Fate

if TYPE_CHECKING:
    from gateway.adapters.n8n.connection import Connection
    from gateway.adapters.n8n.pool import Pool

_PLAIN = {"", "identity"}
_DECODED = {"gzip", "x-gzip", "deflate"}
_INFLATE_STEP = 2**18
_MOST_EMPTY_MEMBERS = 64
"""In a row. One takes twenty bytes, and a decoder of its own."""
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds.

    `connect` covers name, TCP and TLS; waiting before that for a free connection may take as
    long again. `first_byte` runs from the start to the answer's headers, which a workflow
    that does not stream sends only when it is done; None leaves it to `total`. `idle` is the
    longest silence within the body, while the reader waits. `total` is from the start to
    the end of the body, whatever the reader does.
    """

    connect: float
    idle: float
    total: float
    first_byte: float | None = None

    @property
    def head(self) -> float:
        """How long it may take until the answer's headers are there."""
        return self.total if self.first_byte is None else min(self.first_byte, self.total)


def always() -> bool:
    """Nothing stands against it."""
    return True


@dataclass(frozen=True, slots=True)
class Request:
    """What to send: request line and headers, complete, and the body that they tell of.

    `may_send` is asked just before, when there is a connection.
    """

    head: bytes = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    may_send: Callable[[], bool] = always


async def send(pool: Pool, request: Request, timeouts: Timeouts) -> Answer:
    """Send a request; give the answer once it has headers.

    Raises N8N_UNREACHABLE, N8N_ADDRESS_REFUSED, N8N_WITHHELD, N8N_CONNECTION_LOST,
    N8N_FIRST_BYTE_TIMEOUT, N8N_TIMEOUT, N8N_MALFORMED_RESPONSE.
    """
    begun = asyncio.get_running_loop().time()
    connection = pool.kept() or await _connected(pool, timeouts)
    if not request.may_send():
        pool.give_back(connection)
        raise faults.withheld()
    answer = Answer(pool, connection, timeouts, begun)
    try:
        await answer.begin(request)
    except BaseException:
        answer.close()
        raise
    return answer


async def _connected(pool: Pool, timeouts: Timeouts) -> Connection:
    try:
        async with asyncio.timeout(timeouts.head):
            return await pool.connect(timeouts.connect)
    except TimeoutError as error:
        raise _late_head(timeouts, Fate.NEVER_SENT) from error


def _late_head(timeouts: Timeouts, fate: Fate) -> faults.N8nDeadlineExceeded:
    reason = "N8N_TIMEOUT" if timeouts.head == timeouts.total else "N8N_FIRST_BYTE_TIMEOUT"
    return faults.timed_out(reason, timeouts.head, fate)


class Answer:
    """An answer, or what will be one. `close` it, whatever happens."""

    __slots__ = (
        "_begun",
        "_coding",
        "_connection",
        "_inflater",
        "_is_in_body",
        "_loop",
        "_pool",
        "_timeouts",
        "_timer",
        "_waiting_since",
    )

    def __init__(self, pool: Pool, connection: Connection, timeouts: Timeouts, begun: float) -> None:
        self._pool = pool
        self._connection = connection
        self._timeouts = timeouts
        self._begun = begun
        self._coding = ""
        self._inflater: _Inflater | None = None
        self._is_in_body = False
        self._waiting_since: float | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_at(begun + timeouts.head, self._look)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._connection.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The HTTP headers; names in any case."""
        return self._connection.headers

    async def begin(self, request: Request) -> None:
        """Send the request and wait for the answer's headers."""
        self._connection.ask(request.head, request.body)
        await self._connection.answered()
        self._coding = self.headers.get("Content-Encoding", "").strip().lower()
        self._inflater = _Inflater() if self._coding in _DECODED else None

    async def read(self) -> bytes:
        """Give the next bytes of the body, decoded, as soon as there are any; b"" at its end.

        Raises N8N_CONNECTION_LOST, N8N_IDLE_TIMEOUT, N8N_TIMEOUT, N8N_MALFORMED_RESPONSE.
        """
        inflater = self._inflater
        if inflater is None:
            if self._coding not in _PLAIN:
                raise faults.malformed("it is compressed in a way that was not asked for")
            return await self._receive()
        if inflater.has_more:
            await asyncio.sleep(0)  # a turn for others: few bytes may hold a thousand times as many
        while not (decoded := inflater.step()):
            data = await self._receive()
            if not data:
                inflater.finish()
                return b""
            inflater.put(data)
        return decoded

    async def read_all(self, limit: int) -> bytes:
        """Give the whole body, or at least its first `limit` bytes."""
        body = bytearray()
        while len(body) < limit and (data := await self.read()):
            body += data
        return bytes(body)

    def close(self) -> None:
        """Keep the connection when the answer is complete, else abort it at once."""
        self._timer.cancel()
        self._pool.give_back(self._connection)

    async def _receive(self) -> bytes:
        if self._connection.has_news:
            return await self._connection.read()
        self._waiting_since = self._loop.time()
        if not self._is_in_body:
            self._is_in_body = True
            self._timer.cancel()
            self._look_again(self._waiting_since)
        try:
            return await self._connection.read()
        finally:
            self._waiting_since = None

    def _look_again(self, since: float) -> None:
        """Look when the next deadline could pass: one timer a period, not one a read."""
        end = self._begun + self._timeouts.total
        self._timer = self._loop.call_at(min(since + self._timeouts.idle, end), self._look)

    def _look(self) -> None:
        now, since, timeouts = self._loop.time(), self._waiting_since, self._timeouts
        if not self.status:
            self._fail(_late_head(timeouts, Fate.UNKNOWN))
        elif now >= self._begun + timeouts.total:
            self._fail(faults.timed_out("N8N_TIMEOUT", timeouts.total))
        elif since is not None and now >= since + timeouts.idle:
            self._fail(faults.timed_out("N8N_IDLE_TIMEOUT", timeouts.idle))
        else:
            self._look_again(now if since is None else since)

    def _fail(self, fault: faults.N8nDeadlineExceeded) -> None:
        """End it here, with what of it was not read or not decoded."""
        self._connection.fail(fault)
        if self._inflater is not None:
            self._inflater.put(b"")


class _Inflater:
    """Decodes gzip (members one after the other) and zlib, in steps of bounded size."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._data = b""
        self._begun = False
        self._empty_members = 0

    @property
    def has_more(self) -> bool:
        """Whether `step` has something left to decode."""
        return bool(self._data)

    def put(self, data: bytes) -> None:
        """Take the next bytes, in place of any that are left."""
        self._data = data
        self._begun = True

    def step(self) -> bytes:
        """Give the next decoded bytes; b"" when more must be put first."""
        while self._data:
            if self._decoder.eof:
                self._next_member()
            try:
                decoded = self._decoder.decompress(self._data, _INFLATE_STEP)
            except zlib.error as error:
                raise faults.malformed("it is not compressed as it says") from error
            self._data = self._decoder.unconsumed_tail or self._decoder.unused_data
            if decoded:
                self._empty_members = 0
                return decoded
        return b""

    def _next_member(self) -> None:
        self._empty_members += 1
        if self._empty_members > _MOST_EMPTY_MEMBERS:
            raise faults.malformed("it is compressed in many parts with nothing in them")
        self._decoder = zlib.decompressobj(_GZIP_OR_ZLIB)

    def finish(self) -> None:
        """Take the end."""
        if self._begun and not self._decoder.eof:
            raise faults.malformed("its compressed body was cut")
