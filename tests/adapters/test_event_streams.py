"""Events of runs in the streams of a real Valkey."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from protobuf import Oneof
from redis.asyncio import Redis

from gateway.adapters.event_streams import Batch, EventStreams, Progress
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionChunk, ExecutionEvent
from gateway.local.valkey import LocalValkey
from gateway.rpc.errors import Unavailable


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with LocalValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
async def redis(url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(url)
    yield client
    await client.aclose()


@pytest.fixture
def streams(redis: Redis) -> EventStreams:
    return EventStreams(redis)


@pytest.fixture
def run() -> str:
    return str(uuid.uuid4())


def batch(run: str, first: int, last: int, *, keep_from: int = 0) -> Batch:
    event = Oneof("chunk", ExecutionChunk(content=Oneof("text", "☃")))
    events = [ExecutionEvent(execution_id=run, sequence=n, event=event) for n in range(first, last + 1)]
    return Batch(run, events, last, keep_from)


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


async def test_entries_that_need_not_be_kept_go(streams: EventStreams, run: str) -> None:
    for first, last in ((1, 3), (4, 6)):
        await streams.append("a", [batch(run, first, last)])
    await streams.append("a", [batch(run, 7, 7, keep_from=6)])
    assert await sequences(streams, run) == [4, 5, 6, 7]


async def test_streams_go_in_time(streams: EventStreams, redis: Redis, run: str) -> None:
    await streams.append("a", [batch(run, 1, 1)])
    keys = await redis.keys(f"*{run}*")
    assert len(keys) == 2
    for key in keys:
        assert 3000 < await redis.ttl(key) <= 3600


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
