"""Leases with a real Valkey. How streams use them: tests/limits/test_limiter.py."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway.adapters.redis_leases import LEASE_SECONDS, RedisLeases


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture
async def leases(redis: Redis) -> AsyncIterator[RedisLeases]:
    made = RedisLeases(redis, "leases:", timeout=10)
    yield made
    await made.close()


async def test_what_is_given_back_can_be_taken(leases: RedisLeases) -> None:
    assert await leases.take("t", "one", most=1)
    assert not await leases.take("t", "other", most=1)
    await leases.give_back("t", "one")
    await leases.give_back("t", "nobody's")
    assert await leases.take("t", "other", most=1)


async def test_a_lease_is_there_for_whoever_asks_again(leases: RedisLeases) -> None:
    for _ in range(2):
        assert await leases.take("t", "one", most=1)


async def test_renewing_holds_what_was_forgotten(redis: Redis, leases: RedisLeases) -> None:
    await leases.renew("t", [f"{number}" for number in range(1001)])
    assert await redis.zcard("leases:t") == 1001
    assert LEASE_SECONDS - 1 <= await redis.ttl("leases:t") <= LEASE_SECONDS
