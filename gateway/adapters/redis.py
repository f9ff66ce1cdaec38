"""Redis, or Valkey: one connection pool for all that the replicas share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from gateway.rpc.errors import Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis


async def ping(redis: Redis) -> None:
    """Raises Unavailable when Redis does not answer."""
    try:
        await redis.ping()
    except RedisError:
        msg = "Redis does not answer."
        raise Unavailable(msg, reason="REDIS_UNREACHABLE", retry_after=1) from None
