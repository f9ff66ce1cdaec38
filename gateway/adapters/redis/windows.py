"""Sliding windows in Redis, which all replicas share.

Calls that wait at the same time go out together, as one run of the script: a round trip costs more than a
call within it. One batch is under way at a time, so a call waits for at most the
rest of the one before. The keys of a batch belong to many tenants, which Redis Cluster would refuse: Redis
is one primary here, whatever stands behind it to take its place.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import count, islice
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from gateway.adapters.redis.script import RedisScript
from gateway.rpc.errors import Unavailable
from gateway.rpc.limit import Limits
from gateway.rpc.quota import Quota, Standing

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger("gateway.limits")

PREFIX = "n8n-gateway:limit:"
LOGGED = 1000
"""The largest quota that is counted exactly, as in the script."""

_MOST_CALLS = 64
"""In one batch, because Redis does nothing else meanwhile: about a millisecond."""
_MICROSECONDS = 1_000_000
_REMEMBERED = 4096

_Waiting = tuple[tuple[Quota, ...], Sequence[int], "asyncio.Future[tuple[Standing, ...]]"]


class RedisWindows:
    """Counts calls against quotas by the clock of the Redis server.

    A quota of up to LOGGED requests is exact: no window, wherever it begins, holds more. A larger one is
    kept as two numbers, which take earlier calls for evenly spread over their window.
    Redis has `timeout` seconds to answer. `clock` takes the server's place, in microseconds.
    """

    def __init__(
        self, redis: Redis, *, timeout: float = 0.1, clock: Callable[[], int | str] = lambda: ""
    ) -> None:
        self._script = RedisScript(redis, (files("gateway.adapters.redis") / "windows.lua").read_text())
        self._limits = Limits(timeout)
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._sending: asyncio.Task[None] | None = None
        self._tokens = map(f"{secrets.token_urlsafe(6)}:{{}}".format, count())

    async def take(self, quotas: Sequence[Quota], owed: Sequence[int] = ()) -> tuple[Standing, ...]:
        """Count a call by all of its quotas, or by none when one of them refuses it.

        `owed` are calls of each quota that were admitted while they could not be counted here: they are
        now, whatever becomes of this one. Raises Unavailable when Redis does not answer; all may have
        been counted then.
        """
        counted: asyncio.Future[tuple[Standing, ...]] = asyncio.get_running_loop().create_future()
        self._waiting.append((tuple(quotas), owed, counted))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await counted

    async def close(self) -> None:
        """Let go of the connection."""
        await self._script.close()

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST_CALLS], self._waiting[_MOST_CALLS:]
                await self._run(batch)
        except Exception as error:
            self._fail(batch, type(error).__name__)
            if not isinstance(error, RedisError | OSError):
                log.exception("calls not counted")
        finally:
            self._sending = None

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        keys: list[str] = []
        arguments: list[int | str] = [self._clock(), next(self._tokens)]
        for quotas, owed, _ in batch:
            keys += _keys(quotas)
            arguments += _arguments(quotas, owed) if any(owed) else _without_debts(quotas)
        with self._limits.limit():
            numbers = iter(await self._script.run(keys, arguments))
        standings = map(_standing, numbers, numbers)
        for quotas, _, counted in batch:
            found = tuple(islice(standings, len(quotas)))
            if not counted.done():
                counted.set_result(found)

    def _fail(self, batch: Sequence[_Waiting], why: str) -> None:
        """Whoever waits is told at once: a second try would make it wait again."""
        waiting, self._waiting = self._waiting, []
        for *_, counted in (*batch, *waiting):
            if not counted.done():
                msg = f"Redis does not answer ({why})."
                counted.set_exception(Unavailable(msg, reason="REDIS_UNREACHABLE", retry_after=1))


@lru_cache(_REMEMBERED)
def _keys(quotas: tuple[Quota, ...]) -> list[str]:
    return [_key(quota) for quota in quotas]


def _key(quota: Quota) -> str:
    # The two forms are of different types, and a counter of another window says nothing.
    form = "log" if quota.requests <= LOGGED else f"counter:{quota.seconds}"
    return f"{PREFIX}{quota.key}:{form}"


def _arguments(quotas: tuple[Quota, ...], owed: Sequence[int]) -> list[int]:
    arguments = [len(quotas)]
    for quota, calls in zip(quotas, owed, strict=True):
        arguments += (quota.requests, quota.seconds * _MICROSECONDS, calls)
    return arguments


@lru_cache(_REMEMBERED)
def _without_debts(quotas: tuple[Quota, ...]) -> list[int]:
    return _arguments(quotas, [0] * len(quotas))


def _standing(remaining: int, reset: int) -> Standing:
    return Standing(max(0, remaining), reset / _MICROSECONDS, remaining < 0)
