"""Whether Redis answers, and the one error of everything that needs it while it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from redis.exceptions import OutOfMemoryError, RedisError

from gateway.rpc.errors import Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis


class RedisFull(Unavailable):
    """Redis takes nothing from anybody, and has done nothing of what it was asked."""


async def ping(redis: Redis) -> None:
    """Raises Unavailable when Redis does not answer."""
    try:
        await redis.ping()
    except RedisError:
        raise unavailable() from None


def unavailable() -> Unavailable:
    """The error of everything that needs Redis while it is away."""
    return Unavailable("Redis does not answer.", reason="REDIS_UNREACHABLE", retry_after=1)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Wait for Redis for so long; raises `unavailable` then, and for each fault of the connection.

    Raises RedisFull where Redis has no memory left for what it is asked to keep.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except OutOfMemoryError as error:
        raise RedisFull("Redis has no memory left.", reason="REDIS_FULL", retry_after=1) from error
    except (RedisError, OSError) as error:
        raise unavailable() from error
