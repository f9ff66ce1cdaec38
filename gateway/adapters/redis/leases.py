"""Leases in Redis: how many of a thing all replicas hold together, forgotten when a replica dies.

Calls that wait at the same time go out together, and in the order in which they came: thousands of streams
may begin or end at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from gateway.adapters.redis.availability import unavailable
from gateway.adapters.redis.script import RedisScript
from gateway.rpc.limit import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis.asyncio import Redis

log = structlog.get_logger("gateway.limits")

LEASE_SECONDS = 30
_MOST = 1000
"""Leases that are renewed at a time."""
_MOST_CALLS = 64
"""In one batch."""

_Waiting = tuple[tuple[Sequence[str], Sequence[int | str]], "asyncio.Future[bool]"]

# ARGV: how many there may be (empty: the leases are held already), seconds of the lease (0: they are given
# back), the leases. One that is held is taken again, for whoever did not hear that it was taken.
_TAKE = """
if ARGV[2] == '0' then
    return redis.call('ZREM', KEYS[1], unpack(ARGV, 3))
end
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time[1])
if ARGV[1] ~= '' and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1])
    and not redis.call('ZSCORE', KEYS[1], ARGV[3]) then
    return 0
end
for index = 3, #ARGV do
    redis.call('ZADD', KEYS[1], time[1] + ARGV[2], ARGV[index])
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""


class RedisLeases:
    """Leases by the name of what they are for.

    Every method raises Unavailable when Redis does not answer within `timeout` seconds. A call that was
    cancelled may have been made; one that comes after it is made after it.
    """

    def __init__(self, redis: Redis, prefix: str, *, timeout: float) -> None:
        self._prefix = prefix
        self._limits = Limits(timeout)
        self._script = RedisScript(redis, _TAKE)
        self._waiting: list[_Waiting] = []
        self._sending: asyncio.Task[None] | None = None

    async def take(self, name: str, lease: str, *, most: int) -> bool:
        """Take a lease unless there are as many as there may be."""
        return await self._run(name, most, LEASE_SECONDS, [lease])

    async def renew(self, name: str, leases: Collection[str]) -> None:
        """Hold leases for LEASE_SECONDS from now on, also those that were forgotten meanwhile."""
        held = list(leases)
        for start in range(0, len(held), _MOST):
            await self._run(name, "", LEASE_SECONDS, held[start : start + _MOST])

    async def give_back(self, name: str, lease: str) -> None:
        """Hold it no longer."""
        await self._run(name, "", 0, [lease])

    async def close(self) -> None:
        """Let go of the connection."""
        await self._script.close()

    async def _run(self, name: str, most: int | str, seconds: int, leases: Iterable[str]) -> bool:
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((([self._prefix + name], [most, seconds, *leases]), answered))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await answered

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST_CALLS], self._waiting[_MOST_CALLS:]
                with self._limits.limit():
                    answers = await self._script.run_all([call for call, _ in batch])
                for (_, answered), answer in zip(batch, answers, strict=True):
                    if not answered.done():
                        answered.set_result(bool(answer))
        except Exception as error:
            if not isinstance(error, RedisError | OSError):
                log.exception("leases not asked for")
            self._fail(batch, error)
        finally:
            self._sending = None

    def _fail(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Whoever waits is told at once: a second try would make it wait again."""
        waiting, self._waiting = self._waiting, []
        for _, answered in (*batch, *waiting):
            if not answered.done():
                failure = unavailable()
                failure.__cause__ = error
                answered.set_exception(failure)
