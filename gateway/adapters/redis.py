"""Redis, or Valkey: one connection pool for all that the replicas share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from gateway.rpc.errors import Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger("gateway.redis")

_NONCE = "n8n-gateway:nonce:"
_NONCE_SECONDS = 2.0


async def ping(redis: Redis) -> None:
    """Raises Unavailable when Redis does not answer."""
    try:
        await redis.ping()
    except RedisError:
        raise unavailable() from None


def unavailable() -> Unavailable:
    """The error of everything that needs Redis while it is away."""
    return Unavailable("Redis does not answer.", reason="REDIS_UNREACHABLE", retry_after=1)


class Nonces:
    """What may be used once, by whichever replica."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def take(self, name: str, seconds: int) -> bool:
        """Take a nonce for so long, and say whether nobody had it.

        Raises Unavailable when Redis cannot be asked: nothing that may be a replay goes on.
        """
        try:
            async with within(_NONCE_SECONDS):
                return bool(await self._redis.set(_NONCE + name, b"", nx=True, ex=seconds))
        except Unavailable as error:
            log.warning("nonce not taken", error=type(error.__cause__).__name__)
            msg = "Nobody can tell now whether this signed request is a replay: try again."
            raise Unavailable(msg, reason="REPLAY_PROTECTION_AWAY", retry_after=1) from None


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Wait for Redis for so long; raises `unavailable` then, and for each fault of the connection."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (RedisError, OSError) as error:
        raise unavailable() from error
