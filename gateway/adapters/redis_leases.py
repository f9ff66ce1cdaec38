"""Leases in Redis: how many of a thing all replicas hold together, forgotten when a replica dies."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from gateway.adapters.redis import within

if TYPE_CHECKING:
    from typing import Any

    from redis.asyncio import Redis

LEASE_SECONDS = 30
_MOST = 1000
"""Leases that are renewed at a time."""

# ARGV: how many there may be (empty: the leases are held already), seconds of the lease, the leases.
_TAKE = """
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time[1])
if ARGV[1] ~= '' and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
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

    Every method raises Unavailable when Redis does not answer within `timeout` seconds.
    """

    def __init__(self, redis: Redis, prefix: str, *, timeout: float) -> None:
        self._redis = redis
        self._prefix = prefix
        self._timeout = timeout
        self._script = redis.register_script(_TAKE)

    async def take(self, name: str, lease: str, *, most: int) -> bool:
        """Take a lease unless there are as many as there may be."""
        return bool(await self._run(name, most, [lease]))

    async def renew(self, name: str, leases: Collection[str]) -> None:
        """Hold leases for LEASE_SECONDS from now on, also those that were forgotten meanwhile."""
        held = list(leases)
        for start in range(0, len(held), _MOST):
            await self._run(name, "", held[start : start + _MOST])

    async def give_back(self, name: str, lease: str) -> None:
        """Hold it no longer."""
        async with within(self._timeout):
            await self._redis.zrem(self._prefix + name, lease)

    async def _run(self, name: str, most: int | str, leases: list[str]) -> Any:
        async with within(self._timeout):
            return await self._script(keys=[self._prefix + name], args=[most, LEASE_SECONDS, *leases])
