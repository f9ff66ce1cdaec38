"""Redis, or Valkey: one connection pool for all that the replicas share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from gateway.rpc.errors import Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger("gateway.redis")

_KEYS_CHANNEL = "n8n-gateway:api-keys"
_PUBLISH_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_CANCEL_SECONDS = 0.1


async def ping(redis: Redis) -> None:
    """Raises Unavailable when Redis does not answer."""
    try:
        await redis.ping()
    except RedisError:
        msg = "Redis does not answer."
        raise Unavailable(msg, reason="REDIS_UNREACHABLE", retry_after=1) from None


class KeyChanges:
    """Tells every replica of API keys that are no longer as they were (Redis publish and subscribe).

    `forget` is called with the public id of such a key, and with None when some may have been missed.
    Without Redis nobody else is told, and nothing raises: each replica then finds out as its own memory ages.
    """

    def __init__(self, redis: Redis, forget: Callable[[str | None], None]) -> None:
        self._redis = redis
        self._forget = forget
        self._listening: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen, from now on, to what other replicas tell."""
        self._listening = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Stop listening."""
        # redis-py loses a cancellation that comes while it connects.
        while self._listening is not None and not self._listening.done():
            self._listening.cancel()
            await asyncio.wait([self._listening], timeout=_CANCEL_SECONDS)

    async def publish(self, public_id: str) -> None:
        """Tell of a change, here at once and to the others as far as they can be reached."""
        self._forget(public_id)
        try:
            async with asyncio.timeout(_PUBLISH_SECONDS):
                await self._redis.publish(_KEYS_CHANNEL, public_id)
        except (RedisError, OSError) as error:
            log.warning("change of a key not published", error=type(error).__name__)

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError):
                await self._hear()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _hear(self) -> None:
        async with self._redis.pubsub() as channel:
            await channel.subscribe(_KEYS_CHANNEL)
            async for message in channel.listen():
                # A subscription, the first or one after a broken connection: who knows what was told before.
                is_change = message["type"] == "message"
                self._forget(message["data"].decode() if is_change else None)
