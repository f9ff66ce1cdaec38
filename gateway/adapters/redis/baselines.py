"""Baselines of fingerprints in Redis, which all replicas share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from gateway.adapters.redis.availability import unavailable, within
from gateway.rpc.errors import Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.adapters.redis.replicas import Replicas

KEPT_SECONDS = 7 * 24 * 3600
"""After the last call; the database's record outlives it."""

_PREFIX = "n8n-gateway:baseline:"


class RedisBaselines:
    """gateway.chain.fingerprint.Baselines. While Redis counts as away it is not asked.

    No answer within `timeout` seconds is none.
    """

    def __init__(self, redis: Redis, replicas: Replicas, *, timeout: float) -> None:
        self._redis = redis
        self._replicas = replicas
        self._timeout = timeout

    async def find(self, subject: str) -> str | None:
        """The baseline, kept for KEPT_SECONDS more."""
        return _text(await self._bounded(lambda: self._redis.getex(_PREFIX + subject, ex=KEPT_SECONDS)))

    async def settle(self, subject: str, fingerprint: str) -> str:
        """This one, unless there is one."""
        earlier = await self._bounded(
            lambda: self._redis.set(_PREFIX + subject, fingerprint, nx=True, get=True, ex=KEPT_SECONDS)
        )
        return _text(earlier) or fingerprint

    async def replace(self, subject: str, fingerprint: str) -> None:
        """This one."""
        await self._bounded(lambda: self._redis.set(_PREFIX + subject, fingerprint, ex=KEPT_SECONDS))

    async def _bounded(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        if not self._replicas.is_reachable:
            raise unavailable()
        try:
            async with within(self._timeout):
                answer = await ask()
        except Unavailable:
            self._replicas.lost()
            raise
        self._replicas.found()
        return answer


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
