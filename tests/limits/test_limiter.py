"""The limiter with a real Valkey that goes and comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.adapters.redis.leases import RedisLeases
from gateway.adapters.redis.replicas import KEY, Replicas
from gateway.adapters.redis.windows import RedisWindows
from gateway.limits.limiter import Limiter
from gateway.limits.streams import OpenStreams
from gateway.local.valkey import LocalValkey
from gateway.rpc.quota import Quota

PATIENCE = 10.0
QUOTA = Quota("organization", "o", 12, 3600)


class Replica:
    """What one gateway process has of it."""

    def __init__(self, url: str) -> None:
        self.heard: asyncio.Queue[bool] = asyncio.Queue()
        self.redis = Redis.from_url(url)
        self.replicas = Replicas(self.redis, patience=0, changed=self.heard.put_nowait)
        self.limiter = Limiter(RedisWindows(self.redis, timeout=PATIENCE), self.replicas)
        self.streams = OpenStreams(RedisLeases(self.redis, "streams:", timeout=PATIENCE), self.replicas)
        self.replicas.after_beat.append(self.streams.renew)

    async def admitted(self, calls: int) -> int:
        decisions = [await self.limiter.take([QUOTA]) for _ in range(calls)]
        return sum(decision.is_admitted for decision in decisions)

    async def beat(self) -> None:
        await self.replicas._try()


@asynccontextmanager
async def running(url: str, count: int = 2) -> AsyncIterator[list[Replica]]:
    replicas = [Replica(url) for _ in range(count)]
    for replica in replicas:
        await replica.replicas.start()
    for replica in replicas:
        await replica.beat()
    yield replicas
    for replica in replicas:
        await replica.streams.drained()
        await replica.replicas.close()
        await replica.redis.aclose()


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[LocalValkey]:
    async with LocalValkey(tmp_path) as server:
        yield server


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Other processes' doings tell nobody here: ask again and again."""
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_replicas_count_together(valkey: LocalValkey) -> None:
    async with running(valkey.url) as (one, other):
        assert await one.admitted(8) + await other.admitted(8) == 12
        assert one.replicas.count == other.replicas.count == 2
        decision = await one.limiter.take([QUOTA])
        assert decision.is_shared
        assert not decision.is_admitted


async def test_a_lone_replica_keeps_its_quota_when_redis_goes_and_comes(valkey: LocalValkey) -> None:
    async with running(valkey.url, count=1) as (replica,):
        assert await replica.admitted(5) == 5
        await valkey.stop()
        with capture_logs() as logs:
            decisions = [await replica.limiter.take([QUOTA]) for _ in range(4)]
        assert all(decision.is_admitted and not decision.is_shared for decision in decisions)
        assert [line["event"] for line in logs] == ["redis does not answer: limits are kept by each replica"]
        assert await replica.heard.get() is False
        await valkey.start()
        async with asyncio.timeout(30):
            assert await replica.heard.get() is True
        # It is told of the four calls meanwhile.
        assert await replica.admitted(20) == 12 - 5 - 4
        assert (await replica.limiter.take([QUOTA])).is_shared


async def test_what_one_replica_admitted_alone_holds_for_all_afterwards(valkey: LocalValkey) -> None:
    async with running(valkey.url) as (one, other):
        await valkey.stop()
        assert await one.admitted(20) == await other.admitted(20) == 6
        await valkey.start()
        for replica in (one, other):
            await until(partial(_is_back, replica))
        # The first to call has told of its six only, so that one more may get through.
        assert await one.admitted(20) + await other.admitted(20) <= 6
        assert await one.admitted(20) + await other.admitted(20) == 0


async def _is_back(replica: Replica) -> bool:
    await replica.beat()
    return replica.replicas.is_reachable


async def test_each_of_two_replicas_admits_its_share_without_redis(valkey: LocalValkey) -> None:
    async with running(valkey.url) as (one, other):
        await valkey.stop()
        assert await one.admitted(20) == await other.admitted(20) == 6


async def test_without_redis_no_call_waits_for_it(valkey: LocalValkey) -> None:
    async with running(valkey.url, count=1) as (replica,):
        await valkey.stop()
        await replica.admitted(1)
        asked = 0

        async def count(*_arguments: object) -> None:
            nonlocal asked
            asked += 1

        replica.limiter._shared.take = count  # type: ignore[assignment,method-assign]
        await replica.admitted(100)
        assert asked == 0


async def test_a_gateway_starts_without_redis_and_finds_it(tmp_path: Path) -> None:
    server = LocalValkey(tmp_path)
    await server.start()
    url = server.url
    await server.stop()
    async with running(url, count=1) as (replica,):
        assert not (await replica.limiter.take([QUOTA])).is_shared
        await server.start()
        await until(lambda: _is_shared(replica))
    await server.stop()


async def _is_shared(replica: Replica) -> bool:
    return (await replica.limiter.take([Quota("user", "u", 1000, 1)])).is_shared


async def test_a_replica_that_signs_off_counts_no_more(valkey: LocalValkey) -> None:
    async with running(valkey.url, count=3) as (one, other, third):
        await third.replicas.close()
        await one.beat()
        assert one.replicas.count == 2
        # One that died without a word: its lease has run out.
        await one.redis.zadd(KEY, {other.replicas._name: 1})
        await one.beat()
        assert one.replicas.count == 1


async def test_streams_are_counted_over_all_replicas(valkey: LocalValkey) -> None:
    async with running(valkey.url) as (one, other):
        first = await one.streams.open("t", 3)
        assert first
        assert [bool(await other.streams.open("t", 3)) for _ in range(3)] == [True, True, False]
        assert await other.streams.open("another", 1)
        one.streams.close("t", first)
        await one.streams.drained()
        assert await other.streams.open("t", 3)
        assert len(other.streams) == 4
        assert len(one.streams) == 0


async def test_streams_of_a_dead_replica_are_forgotten_and_living_ones_are_not(valkey: LocalValkey) -> None:
    async with running(valkey.url) as (one, dead):
        assert await dead.streams.open("t", 2)
        kept = await one.streams.open("t", 2)
        assert not await one.streams.open("t", 2)
        # A lease later: the living have renewed theirs.
        for lease in await one.redis.zrange("streams:t", 0, -1):
            await one.redis.zadd("streams:t", {lease: 1})
        await one.beat()
        assert await one.streams.open("t", 2)
        assert not await one.streams.open("t", 2)
        assert kept


async def test_without_redis_streams_have_a_share_and_are_told_when_it_is_back(valkey: LocalValkey) -> None:
    async with running(valkey.url) as (one, other):
        before = await one.streams.open("t", 4)
        await valkey.stop()
        assert [bool(await one.streams.open("t", 4)) for _ in range(2)] == [True, False]
        assert before
        one.streams.close("t", before)
        assert await one.streams.open("t", 4)
        await valkey.start()
        await until(lambda: _knows(other, "streams:t", 2))


async def _knows(replica: Replica, key: str, count: int) -> bool:
    await replica.beat()
    return replica.replicas.is_reachable and int(await replica.redis.zcard(key)) >= count


async def test_a_stream_given_up_while_it_opens_leaves_nothing(valkey: LocalValkey) -> None:
    async with running(valkey.url, count=1) as (replica,):
        for turns in range(12):
            opening = asyncio.create_task(replica.streams.open("t", 1))
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            (name,) = await asyncio.gather(opening, return_exceptions=True)
            if isinstance(name, str):
                replica.streams.close("t", name)
            await replica.streams.drained()
            await until(lambda: _free(replica))


async def _free(replica: Replica) -> bool:
    return not await replica.redis.zcard("streams:t")
