"""Nonces in Redis: what may be used once, by whichever replica."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gateway.adapters.redis.availability import within
from gateway.rpc.errors import Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger("gateway.redis")

_KEY = "n8n-gateway:nonce:"
_SECONDS = 2.0


class Nonces:
    """What may be used once, by whichever replica."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def take(self, name: str, seconds: int) -> bool:
        """Take a nonce for so long, and say whether nobody had it.

        Raises Unavailable when Redis cannot be asked: nothing that may be a replay goes on.
        """
        try:
            async with within(_SECONDS):
                return bool(await self._redis.set(_KEY + name, b"", nx=True, ex=seconds))
        except Unavailable as error:
            log.warning("nonce not taken", error=type(error.__cause__).__name__)
            msg = "Nobody can tell now whether this signed request is a replay: try again."
            raise Unavailable(msg, reason="REPLAY_PROTECTION_AWAY", retry_after=1) from None
