"""Events of runs in the streams of a real Valkey."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from protobuf import Oneof
from redis.asyncio import Redis

from gateway.adapters.redis import event_streams as module
from gateway.adapters.redis.event_streams import Batch, EventStreams, Progress
from gateway.gen.n8ngateway.v1.execution_event_pb import (
    ExecutionChunk,
    ExecutionCompleted,
    ExecutionEvent,
)
from gateway.metrics import REGISTRY
from gateway.rpc.errors import Unavailable


@pytest.fixture
async def streams(redis: Redis) -> AsyncIterator[EventStreams]:
    made = EventStreams(redis)
    yield made
    await made.close()


@pytest.fixture
def run() -> str:
    return str(uuid.uuid4())


def batch(
    run: str, first: int, last: int, *, organization: str = "tenant", text: str = "☃", ends: bool = False
) -> Batch:
    event = Oneof("chunk", ExecutionChunk(content=Oneof("text", text)))
    events = [ExecutionEvent(execution_id=run, sequence=n, event=event) for n in range(first, last + 1)]
    if ends:
        end = Oneof("completed", ExecutionCompleted())
        events.append(ExecutionEvent(execution_id=run, sequence=last + 1, event=end))
    return Batch(run, organization, events)


def new_run() -> str:
    return str(uuid.uuid4())


async def taken(redis: Redis) -> int:
    """What all runs take, as Redis counts it."""
    return int(await redis.hget("n8n-gateway:events:all:bytes", "all") or 0)


async def sequences(streams: EventStreams, run: str, after: int = 0) -> list[int]:
    return [event.sequence for event in await streams.read(run, after)]


async def test_what_one_appends_all_can_read(streams: EventStreams, run: str) -> None:
    sent = batch(run, 1, 3)
    assert await streams.append("a", [sent, batch(str(uuid.uuid4()), 1, 1)]) == [0, 0]
    assert await streams.read(run, 0) == sent.events
    assert await streams.progress(run) == Progress("a", 3)


async def test_a_reader_goes_on_after_any_sequence(streams: EventStreams, run: str) -> None:
    for first, last in ((1, 3), (4, 4), (5, 9)):
        await streams.append("a", [batch(run, first, last)])
    for after in range(11):
        assert await sequences(streams, run, after) == list(range(after + 1, 10))


async def test_what_is_sent_again_is_there_once(streams: EventStreams, run: str) -> None:
    """An append whose answer was lost may have worked: more may be behind it the next time."""
    await streams.append("a", [batch(run, 1, 3)])
    await streams.append("a", [batch(run, 1, 3)])
    await streams.append("a", [batch(run, 1, 5)])
    assert await sequences(streams, run) == [1, 2, 3, 4, 5]
    assert await sequences(streams, run, 2) == [3, 4, 5]


async def test_who_has_claimed_a_run_writes_alone(streams: EventStreams, run: str) -> None:
    await streams.append("a", [batch(run, 1, 3)])
    assert await streams.claim("b", run) == 3
    other = str(uuid.uuid4())
    assert await streams.append("a", [batch(run, 4, 4), batch(other, 1, 1)]) == [None, 0]
    assert await streams.append("b", [batch(run, 4, 5)]) == [0]
    assert await sequences(streams, run) == [1, 2, 3, 4, 5]
    assert await streams.progress(run) == Progress("b", 5)


async def test_a_run_that_nobody_has_written_can_be_claimed(streams: EventStreams, run: str) -> None:
    assert await streams.progress(run) == Progress()
    assert await streams.claim("b", run) == 0
    assert await streams.append("a", [batch(run, 1, 1)]) == [None]


async def test_of_a_run_the_newest_entries_are_kept(
    streams: EventStreams, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RUN_MOST_BYTES", module.RUN_BYTES + 2500)
    for first in (1, 3, 5):
        await streams.append("a", [batch(run, first, first + 1, text="x" * 400)])
    assert await sequences(streams, run) == [3, 4, 5, 6]
    await streams.claim("b", run)
    await streams.append("b", [batch(run, 7, 8, text="x" * 400)])
    assert await sequences(streams, run) == [5, 6, 7, 8]


async def test_the_organization_that_takes_most_gives_way(redis: Redis) -> None:
    streams = EventStreams(redis, 1 << 20)
    small = new_run()
    await streams.append("a", [batch(small, 1, 1, organization="small", text="x" * 50_000)])
    large = [new_run() for _ in range(20)]
    for run in large:
        await streams.append("a", [batch(run, 1, 1, organization="large", text="x" * 100_000, ends=True)])
    await streams.append("a", [batch(small, 2, 2, organization="small")])
    assert await sequences(streams, small) == [1, 2]
    kept = [run for run in large if await sequences(streams, run)]
    assert kept == large[-len(kept) :]
    assert 5 < len(kept) < 10
    assert await taken(redis) <= 1 << 20
    assert REGISTRY.get_sample_value("n8n_gateway_events_bytes") == await taken(redis)


async def test_what_was_dropped_is_a_gap_and_the_run_goes_on(redis: Redis, run: str) -> None:
    streams = EventStreams(redis, 1 << 20)
    await streams.append("a", [batch(run, 1, 3)])
    before = REGISTRY.get_sample_value("n8n_gateway_events_dropped_total") or 0
    for number in range(10):
        await streams.append("a", [batch(new_run(), 1, 1, text=f"{number:>200000}")])
    assert await sequences(streams, run) == []
    assert (REGISTRY.get_sample_value("n8n_gateway_events_dropped_total") or 0) > before
    assert await streams.progress(run) == Progress("a", 3)
    assert await streams.append("a", [batch(run, 4, 4)]) == [0]
    assert await sequences(streams, run) == [4]


async def test_one_run_alone_can_not_take_more_than_all_may(redis: Redis, run: str) -> None:
    streams = EventStreams(redis, 1 << 20)
    for number in range(1, 40):
        await streams.append("a", [batch(run, number, number, text="x" * 100_000)])
        assert await taken(redis) <= 1 << 20
        assert (await sequences(streams, run, number - 1)) == [number]
    assert await redis.memory_usage(f"n8n-gateway:{{{run}}}:events", samples=0) <= 1 << 20


@pytest.mark.parametrize(("entries", "size"), [(1, 1), (40, 1), (40, 300), (10, 5_000), (3, 70_000)])
async def test_no_less_is_counted_than_redis_takes(redis: Redis, entries: int, size: int) -> None:
    streams = EventStreams(redis)
    used = (await redis.info("memory"))["used_memory"]
    counted = await taken(redis)
    for _ in range(200):
        run = new_run()
        batches = [batch(run, n, n, text="x" * size, ends=n == entries) for n in range(1, entries + 1)]
        await streams.append("a", batches)
    # A tenth for what has nothing to do with it: buffers of connections, tables that grow.
    grown = (await redis.info("memory"))["used_memory"] - used
    assert grown <= 1.1 * (await taken(redis) - counted) + 100_000


async def test_streams_that_have_expired_take_nothing(redis: Redis) -> None:
    streams, expired, alive = EventStreams(redis), new_run(), new_run()
    before = await taken(redis)
    await streams.append("a", [batch(expired, 1, 2), batch(alive, 1, 2)])
    await redis.delete(f"n8n-gateway:{{{expired}}}:events", f"n8n-gateway:{{{expired}}}:writer")
    ages = "n8n-gateway:events:all:ages"
    await redis.zadd(ages, {f"tenant/{expired}": 1, f"tenant/{alive}": 1})
    await streams.append("a", [batch(new_run(), 1, 1, ends=True)])
    counted = await redis.hgetall("n8n-gateway:events:all:bytes")
    assert f"tenant/{expired}".encode() not in counted
    assert f"tenant/{alive}".encode() in counted
    assert await redis.zscore(ages, f"tenant/{expired}") is None
    assert (await redis.zscore(ages, f"tenant/{alive}") or 0) > 1
    others = {name: int(value) for name, value in counted.items() if name != b"all"}
    assert sum(others.values()) == int(counted[b"all"])
    assert await taken(redis) > before


@pytest.mark.parametrize("lost", ["bytes", "ages", "organizations", "runs:tenant"])
async def test_a_count_that_was_lost_stops_nobody(redis: Redis, run: str, lost: str) -> None:
    """As a Redis that evicts keys may do."""
    streams = EventStreams(redis, 1 << 20)
    await streams.append("a", [batch(run, 1, 1, text="x" * 500_000)])
    await redis.delete(f"n8n-gateway:events:all:{lost}")
    for number in range(2, 30):
        await streams.append("a", [batch(run, number, number, text="x" * 100_000)])
        await streams.append("a", [batch(new_run(), 1, 1, text="x" * 100_000, ends=True)])
    assert (await sequences(streams, run))[-1] == 29
    assert await taken(redis) <= 1 << 20


async def test_streams_go_in_time(streams: EventStreams, redis: Redis, run: str) -> None:
    await streams.append("a", [batch(run, 1, 1)])
    keys = await redis.keys(f"*{run}*")
    assert len(keys) == 2
    for key in keys:
        assert 3000 < await redis.ttl(key) <= 3600
    for key in await redis.keys("n8n-gateway:events:all:*"):
        assert 6000 < await redis.ttl(key) <= 7200


async def test_scripts_survive_a_redis_that_forgets_them(
    streams: EventStreams, redis: Redis, run: str
) -> None:
    await streams.append("a", [batch(run, 1, 1)])
    await redis.script_flush()
    assert await streams.append("a", [batch(run, 2, 2)]) == [0]
    assert await sequences(streams, run) == [1, 2]


async def test_a_writer_is_alive_for_as_long_as_it_says(streams: EventStreams, redis: Redis) -> None:
    writer = uuid.uuid4().hex
    assert not await streams.is_alive(writer)
    await streams.beat(writer, 60)
    assert await streams.is_alive(writer)
    [key] = await redis.keys(f"*{writer}*")
    assert 50 < await redis.ttl(key) <= 60


async def test_without_redis_everything_is_unavailable(tmp_path: Path, run: str) -> None:
    client = Redis.from_url(f"unix://{tmp_path / 'none'}")
    streams = EventStreams(client)
    for work in (
        streams.append("a", [batch(run, 1, 1)]),
        streams.claim("a", run),
        streams.read(run, 0),
        streams.progress(run),
        streams.beat("a", 1),
        streams.is_alive("a"),
    ):
        with pytest.raises(Unavailable) as caught:
            await work
        assert caught.value.reason == "REDIS_UNREACHABLE"
    await client.aclose()
