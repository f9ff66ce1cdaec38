"""A bounded list of asyncpg connections, at a third of the cost of asyncpg's own pool: it resets nothing.

Nothing needs a reset: role and claims are set for one statement only, and nothing else is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import asyncpg

from gateway.rpc.limit import Limits

if TYPE_CHECKING:
    from asyncpg import Connection

_CHECK_SECONDS = 2.0


class ClosedError(asyncpg.InterfaceError):
    """The list was closed."""


class Connections:
    """At most `limit` connections, made when needed and used last in, first out.

    `connect` makes one. Who finds none free waits, first come first served, for at most `wait_seconds`. One
    that was idle for longer than `idle_seconds` is asked whether it still lives before it is given out.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        limit: int,
        wait_seconds: float,
        idle_seconds: float,
    ) -> None:
        self._connect = connect
        self._limit = limit
        self._waits = Limits(wait_seconds)
        self._idle_seconds = idle_seconds
        self._idle: list[tuple[Connection, float]] = []
        self._all: set[Connection] = set()
        self._connecting = 0
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._recovering: set[asyncio.Task[None]] = set()
        self._closed = False

    def states(self) -> dict[str, int]:
        """How many connections are idle, in use, and being made, and how many callers wait for one."""
        return {
            "idle": len(self._idle),
            "used": len(self._all) - len(self._idle),
            "connecting": self._connecting,
            "waiting": len(self._waiting),
        }

    async def acquire(self) -> Connection:
        """Return a connection for this caller alone, to be given to `release`, `recover` or `discard`.

        Raises TimeoutError when none came free in time, and whatever connecting raises.
        """
        while True:
            if self._closed:
                raise ClosedError("the connections are closed")
            if self._idle:
                connection, since = self._idle.pop()
                if not connection.is_closed() and (
                    asyncio.get_running_loop().time() - since < self._idle_seconds
                    or await self._answers(connection)
                ):
                    return connection
                self.discard(connection)
            elif len(self._all) + self._connecting < self._limit:
                return await self._new()
            elif connection_or_place := await self._wait():
                return connection_or_place

    def release(self, connection: Connection) -> None:
        """Take a connection back whose statement has ended, well or not."""
        if self._closed or connection.is_closed():
            self.discard(connection)
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append((connection, asyncio.get_running_loop().time()))

    def recover(self, connection: Connection) -> None:
        """Take a connection back whose statement was cancelled or timed out, to be used once it is idle."""
        task = asyncio.get_running_loop().create_task(self._recover(connection))
        self._recovering.add(task)
        task.add_done_callback(self._recovering.discard)

    def discard(self, connection: Connection) -> None:
        """Drop a connection that is of no use any more."""
        self._all.discard(connection)
        connection.terminate()
        self._offer_place()

    async def close(self) -> None:
        """Drop all connections, also those in use; whoever waits gets `ClosedError`."""
        self._closed = True
        for task in self._recovering:
            task.cancel()
        await asyncio.gather(*self._recovering, return_exceptions=True)
        idle = [connection for connection, _ in self._idle]
        self._idle.clear()
        await asyncio.gather(*(self._close(connection) for connection in idle))
        for connection in list(self._all):
            self.discard(connection)
        while self._waiting:
            self._offer_place()

    async def _new(self) -> Connection:
        self._connecting += 1
        try:
            connection = await self._connect()
        except BaseException:
            self._connecting -= 1
            self._offer_place()
            raise
        self._connecting -= 1
        self._all.add(connection)
        if self._closed:
            self.discard(connection)
            raise ClosedError("the connections are closed")
        return connection

    async def _wait(self) -> Connection | None:
        """Wait for a connection, or (None) for the place to make one."""
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            with self._waits.limit():
                return await waiter
        except BaseException:
            # Cancelled in the same turn in which it was served: pass on what was got.
            if waiter.done() and not waiter.cancelled():
                if connection := waiter.result():
                    self.release(connection)
                else:
                    self._offer_place()
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def _offer_place(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _answers(self, connection: Connection) -> bool:
        try:
            await connection.fetchval("select 1", timeout=_CHECK_SECONDS)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        except BaseException:
            self.recover(connection)
            raise
        return True

    async def _recover(self, connection: Connection) -> None:
        # asyncpg has asked the server to cancel and lets nothing through before that is done. The request can
        # reach the server late, so this statement, and not a caller's, is there to be hit by it.
        for _ in range(2):
            try:
                await connection.fetchval("select 1", timeout=_CHECK_SECONDS)
            except asyncpg.QueryCanceledError:
                continue
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                break
            except BaseException:
                self.discard(connection)
                raise
            self.release(connection)
            return
        self.discard(connection)

    async def _close(self, connection: Connection) -> None:
        self._all.discard(connection)
        try:
            await connection.close(timeout=_CHECK_SECONDS)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection.terminate()
