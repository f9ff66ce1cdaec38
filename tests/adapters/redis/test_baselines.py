"""Baselines in a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.adapters.redis.baselines import KEPT_SECONDS, RedisBaselines
from gateway.adapters.redis.replicas import Replicas
from gateway.local.valkey import LocalValkey
from gateway.rpc.errors import Unavailable

PATIENCE = 10.0


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    """A server of its own, for one that is paused answers nobody else either."""
    async with LocalValkey(tmp_path) as server:
        client = Redis.from_url(server.url)
        yield client
        await client.aclose()


async def test_the_first_of_all_replicas_settles_it(redis: Redis) -> None:
    baselines = RedisBaselines(redis, Replicas(redis), timeout=PATIENCE)
    assert await baselines.find("s") is None
    settled = await asyncio.gather(*(baselines.settle("s", letter * 64) for letter in "abcdef"))
    [baseline] = set(settled)
    assert await baselines.find("s") == baseline
    assert await baselines.find("t") is None
    await baselines.replace("s", "z" * 64)
    assert await baselines.settle("s", "a" * 64) == "z" * 64


async def test_it_is_kept_as_long_as_it_is_asked_for(redis: Redis) -> None:
    baselines = RedisBaselines(redis, Replicas(redis), timeout=PATIENCE)
    await baselines.settle("s", "a" * 64)
    [key] = await redis.keys()
    assert 0 < await redis.ttl(key) <= KEPT_SECONDS
    await redis.expire(key, 10)
    await baselines.find("s")
    assert await redis.ttl(key) > 10


async def test_redis_may_take_its_time_as_long_as_was_said(redis: Redis) -> None:
    replicas = Replicas(redis)
    await redis.client_pause(300)  # milliseconds
    assert await RedisBaselines(redis, replicas, timeout=PATIENCE).settle("s", "a" * 64) == "a" * 64
    await redis.client_pause(60_000)
    with pytest.raises(Unavailable):
        await RedisBaselines(redis, replicas, timeout=0.1).find("s")


async def test_redis_that_is_away_is_found_to_be() -> None:
    client = Redis.from_url("redis://127.0.0.1:1")
    replicas = Replicas(client, patience=0)
    baselines = RedisBaselines(client, replicas, timeout=PATIENCE)
    assert replicas.is_reachable
    for ask in (baselines.find, baselines.settle, baselines.replace):
        with pytest.raises(Unavailable) as away:
            await ask("s", *["a" * 64] * (ask != baselines.find))
        assert away.value.reason == "REDIS_UNREACHABLE"
        assert not replicas.is_reachable


async def test_it_is_not_asked_until_it_is_back(redis: Redis) -> None:
    replicas = Replicas(redis, patience=0)
    baselines = RedisBaselines(redis, replicas, timeout=PATIENCE)
    replicas.lost()
    with pytest.raises(Unavailable):
        await baselines.settle("s", "a" * 64)
    assert not await redis.keys()
    await replicas.start()  # beats
    assert await baselines.settle("s", "a" * 64) == "a" * 64
    await replicas.close()
