"""The rate limiter alone, behind nothing but an HTTP server: through Redis, without Redis, and not at all.

``python -m tests.bench.servers.limiter REDIS_URL``
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis

from gateway.adapters.redis.replicas import Replicas
from gateway.adapters.redis.windows import RedisWindows
from gateway.limits.limiter import Limiter
from gateway.rpc.quota import Quota
from tests.bench.servers import serving

_QUOTAS = (
    Quota("organization", "bench:organization", 1_000_000, 60),
    Quota("key", "bench:key", 1_000_000, 1),
    Quota("address", "bench:address", 1_000_000, 60),
)


def _limiter(url: str, *, is_reachable: bool) -> Limiter:
    redis = Redis.from_url(url)
    replicas = Replicas(redis)
    replicas.is_reachable = is_reachable
    return Limiter(RedisWindows(redis), replicas)


def _application(take: Callable[[], Awaitable[bool]]) -> Any:
    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        body = b"admitted" if await take() else b"refused"
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


def _taken_from(limiter: Limiter) -> Callable[[], Awaitable[bool]]:
    async def take() -> bool:
        return (await limiter.take(_QUOTAS)).is_admitted

    return take


async def _nothing() -> bool:
    await asyncio.sleep(0)
    return True


if __name__ == "__main__":
    serving.serve(
        {
            "limited": _application(_taken_from(_limiter(sys.argv[1], is_reachable=True))),
            "alone": _application(_taken_from(_limiter(sys.argv[1], is_reachable=False))),
            "open": _application(_nothing),
        }
    )
