"""The replicas that share one Redis: whether it can be reached, and how many there are."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from gateway import metrics
from gateway.rpc.periodic import stop

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger("gateway.redis")

KEY = "n8n-gateway:replicas"
LEASE_SECONDS = 15
"""A replica that has not been heard of for that long is no more."""

_BEAT_SECONDS = 5.0
_RETRY_SECONDS = 0.5

_BEAT = """
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time[1])
redis.call('ZADD', KEYS[1], time[1] + ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""


class Replicas:
    """This process among the replicas, known to them while it beats.

    It is the breaker of all that has a way to go on without Redis: whoever finds that Redis does not answer,
    or that it does, says so. When nothing has got through for `patience` seconds, nobody asks it again
    (`is_reachable`) until a beat gets through, which may take `timeout`. `count` is the last number of
    replicas that Redis told, `expected` until it has told one. `changed` hears when Redis goes and comes,
    `after_beat` runs after each beat that gets through.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        expected: int = 1,
        patience: float = 0.25,
        timeout: float = 1.0,
        changed: Callable[[bool], None] = lambda _reachable: None,
    ) -> None:
        self._redis = redis
        self._beat = redis.register_script(_BEAT)
        self._changed = changed
        self._name = secrets.token_urlsafe(9)
        self._beating: asyncio.Task[None] | None = None
        self._at_once = asyncio.Event()
        self.after_beat: list[Callable[[], Awaitable[None]]] = []
        self.count = expected
        self.is_reachable = True
        self._patience = patience
        self._timeout = timeout
        self._failing_since: float | None = None

    async def start(self) -> None:
        """Beat from now on. Redis may be away."""
        await self._try()
        self._beating = asyncio.create_task(self._go_on())

    async def close(self) -> None:
        """Be no replica any more."""
        await stop(self._beating)
        if self.is_reachable:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._redis.zrem(KEY, self._name)
            except (RedisError, OSError) as error:
                log.warning("replica not signed off", error=type(error).__name__)

    def found(self) -> None:
        """Redis has answered."""
        self._failing_since = None

    def lost(self) -> None:
        """Redis has not answered. That once may be the fault of this process, which was busy meanwhile."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if self.is_reachable and now - self._failing_since >= self._patience:
            self.is_reachable = False
            log.warning("redis does not answer: limits are kept by each replica", replicas=self.count)
            self._changed(False)
            self._at_once.set()

    async def _go_on(self) -> None:
        while True:
            pause = _BEAT_SECONDS if self.is_reachable else _RETRY_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._at_once.wait()
            except TimeoutError:
                await self._try()
            self._at_once.clear()

    async def _try(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                self.count = int(await self._beat(keys=[KEY], args=[self._name, LEASE_SECONDS]))
            metrics.REPLICAS.set(self.count)
        except (RedisError, OSError):
            self._failing_since = float("-inf")
            self.lost()
            return
        self.found()
        if not self.is_reachable:
            self.is_reachable = True
            log.info("redis answers again", replicas=self.count)
            self._changed(True)
        for run in self.after_beat:
            await run()
