"""Leases with a real Valkey. How streams use them: tests/limits/test_limiter.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.adapters.redis.leases import LEASE_SECONDS, RedisLeases
from gateway.rpc.errors import Unavailable


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


async def test_all_that_come_at_once_share_a_connection(redis: Redis, leases: RedisLeases) -> None:
    before = (await redis.info("stats"))["total_connections_received"]
    taken = await asyncio.gather(*(leases.take("t", f"{number}", most=900) for number in range(1000)))
    assert taken == [True] * 900 + [False] * 100
    await asyncio.gather(*(leases.give_back("t", f"{number}") for number in range(900)))
    assert await redis.zcard("leases:t") == 0
    assert (await redis.info("stats"))["total_connections_received"] - before == 1


async def test_one_that_was_not_waited_for_can_be_given_back(redis: Redis, leases: RedisLeases) -> None:
    taking = asyncio.create_task(leases.take("t", "one", most=1))
    await asyncio.sleep(0)
    taking.cancel()
    await leases.give_back("t", "one")
    assert await redis.zcard("leases:t") == 0


async def test_without_redis_all_are_told(tmp_path: Path) -> None:
    async with Redis(unix_socket_path=str(tmp_path / "none")) as nowhere:
        leases = RedisLeases(nowhere, "leases:", timeout=10)
        told = await asyncio.gather(
            *(leases.take("t", f"{number}", most=1) for number in range(100)), return_exceptions=True
        )
    assert {type(error) for error in told} == {Unavailable}
