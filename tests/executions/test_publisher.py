"""Logs on their way to where every replica can read them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import pytest
from protobuf import Oneof

from gateway.adapters.redis.event_streams import Batch
from gateway.executions import publisher as module
from gateway.executions.lease_clock import lease_clock
from gateway.executions.log import EVENT_BYTES
from gateway.executions.publisher import Publication, Publisher
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionChunk
from gateway.rpc.errors import OutOfRange, Unavailable

EVENT = Oneof("chunk", ExecutionChunk(content=Oneof("text", "x")))
SECONDS = 30


class Streams:
    """Keeps what is appended. `gate` holds answers back; while `is_away`, nothing is taken."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.is_away = False
        self.refused = asyncio.Event()
        self.taken_over: set[str] = set()
        self.followers = 0

    async def claim(self, _writer: str, _execution_id: str) -> int:
        return 0

    async def append(self, _writer: str, batches: Sequence[Batch]) -> list[int | None]:
        self.asked.set()
        await self.gate.wait()
        await settled()  # as a round trip does, this lets others have a turn
        if self.is_away:
            self.refused.set()
            raise Unavailable("away")
        self.batches += batches
        return [None if batch.execution_id in self.taken_over else self.followers for batch in batches]

    def sequences(self, execution_id: str) -> list[int]:
        return [
            event.sequence
            for batch in self.batches
            if batch.execution_id == execution_id
            for event in batch.events
        ]


@pytest.fixture
def streams() -> Streams:
    return Streams()


@pytest.fixture
async def publisher(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Publisher]:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    started = Publisher(streams, "this")
    started.start()
    yield started
    streams.gate.set()
    await started.close(SECONDS)


async def read(publication: Publication, after: int = 0) -> list[int]:
    return [event.sequence async for batch in publication.log.read(after) for event in batch]


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_readers_see_what_is_published_and_no_more(publisher: Publisher, streams: Streams) -> None:
    streams.gate.clear()
    publication = Publication(publisher, "run", "organization")
    reading = publication.log.read()
    waiting = asyncio.ensure_future(anext(reading))
    publication.log.append(EVENT)
    await streams.asked.wait()
    await settled()
    assert not waiting.done()
    streams.gate.set()
    assert (await asyncio.wait_for(waiting, SECONDS))[0].sequence == 1
    assert streams.sequences("run") == [1]
    await reading.aclose()


async def test_what_comes_meanwhile_goes_at_once(publisher: Publisher, streams: Streams) -> None:
    streams.gate.clear()
    publication = Publication(publisher, "run", "organization")
    reading = asyncio.ensure_future(read(publication))
    await settled()
    publication.log.append(EVENT)
    await streams.asked.wait()
    for _ in range(30):
        publication.log.append(EVENT)
    publication.log.close()
    streams.gate.set()
    assert await asyncio.wait_for(reading, SECONDS) == list(range(1, 32))
    assert [len(batch.events) for batch in streams.batches] == [1, 30]


async def test_many_logs_go_in_one_round_trip(publisher: Publisher, streams: Streams) -> None:
    publications = [Publication(publisher, f"run {number}", "organization") for number in range(10)]
    readings = [asyncio.ensure_future(read(publication)) for publication in publications]
    await settled()
    for publication in publications:
        publication.log.append(EVENT)
        publication.log.close()
    assert await asyncio.wait_for(asyncio.gather(*readings), SECONDS) == [[1]] * 10
    assert len(streams.batches) == 10


async def test_a_short_run_that_nobody_reads_is_not_published(publisher: Publisher, streams: Streams) -> None:
    over = asyncio.Event()
    publication = Publication(publisher, "run", "organization", ended=over.set)
    publication.log.append(EVENT)
    publication.whole = True
    publication.log.close()
    assert over.is_set()
    await publisher.close(SECONDS)
    assert not streams.batches


async def test_one_whose_result_is_not_kept_whole_is(publisher: Publisher, streams: Streams) -> None:
    over = asyncio.Event()
    publication = Publication(publisher, "run", "organization", ended=over.set)
    publication.log.append(EVENT)
    publication.log.close()
    assert not over.is_set()
    await asyncio.wait_for(over.wait(), SECONDS)
    assert streams.sequences("run") == [1]


async def test_without_redis_nobody_here_waits_and_nothing_is_lost(
    publisher: Publisher, streams: Streams
) -> None:
    streams.is_away = True
    over = asyncio.Event()
    publication = Publication(publisher, "run", "organization", ended=over.set)
    reading = asyncio.ensure_future(read(publication))
    await settled()
    for _ in range(3):
        publication.log.append(EVENT)
        await settled()
    publication.log.close()
    assert await asyncio.wait_for(reading, SECONDS) == [1, 2, 3]
    assert not over.is_set()
    streams.is_away = False
    await asyncio.wait_for(over.wait(), SECONDS)
    assert streams.sequences("run") == [1, 2, 3]


async def test_what_was_read_here_without_redis_is_published_though_its_reader_has_gone(
    publisher: Publisher, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.2)
    streams.is_away = True
    other = Publication(publisher, "other", "organization")
    other.log.append(EVENT)
    await asyncio.wait_for(streams.refused.wait(), SECONDS)
    await settled()
    over = asyncio.Event()
    publication = Publication(publisher, "run", "organization", ended=over.set)
    publication.log.append(EVENT)
    async with aclosing(publication.log.read()) as reading:
        assert [event.sequence for event in await anext(reading)] == [1]
    publication.log.append(EVENT)
    publication.whole = True
    publication.log.close()
    assert not over.is_set()
    streams.is_away = False
    await asyncio.wait_for(over.wait(), SECONDS)
    assert streams.sequences("run") == [1, 2]


async def test_without_redis_nothing_is_shown_of_a_run_that_may_be_anothers(
    publisher: Publisher, streams: Streams
) -> None:
    """As after a pause in which its lease ran out: these sequences may be those of other events."""
    streams.is_away = True
    lost = asyncio.Event()
    publication = Publication(publisher, "run", "organization", lost=lost.set)
    publication.sure_until = lease_clock()
    shown: list[int] = []

    async def read_on() -> None:
        async for batch in publication.log.read():
            shown.extend(event.sequence for event in batch)

    reading = asyncio.ensure_future(read_on())
    await settled()
    publication.log.append(EVENT)
    await asyncio.wait_for(streams.refused.wait(), SECONDS)
    publication.log.append(EVENT)
    await settled()
    assert shown == []
    publication.sure_until = math.inf  # its lease was renewed
    publication.log.append(EVENT)
    await settled()
    assert shown == [1, 2, 3]
    publication.sure_until = lease_clock()
    publication.log.append(EVENT)
    streams.taken_over.add("run")
    streams.is_away = False
    await asyncio.wait_for(lost.wait(), SECONDS)
    await asyncio.wait_for(reading, SECONDS)
    assert shown == [1, 2, 3]


async def test_what_was_dropped_meanwhile_is_a_gap_and_not_a_silence(
    publisher: Publisher, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams.is_away = True
    over = asyncio.Event()
    publication = Publication(publisher, "run", "organization", ended=over.set)
    monkeypatch.setattr(publication.log, "_capacity", 10 * EVENT_BYTES)
    publication.log.append(EVENT)
    await asyncio.wait_for(streams.refused.wait(), SECONDS)
    for _ in range(50):
        publication.log.append(EVENT)
    publication.log.close()
    streams.is_away = False
    await asyncio.wait_for(over.wait(), SECONDS)
    assert streams.sequences("run") == list(range(42, 52))


async def test_a_run_that_was_taken_over_ends_here_without_an_end(
    publisher: Publisher, streams: Streams
) -> None:
    lost, over = asyncio.Event(), asyncio.Event()
    publication = Publication(publisher, "run", "organization", after=4, lost=lost.set, ended=over.set)
    reading = asyncio.ensure_future(read(publication, 4))
    await settled()
    streams.taken_over.add("run")
    publication.log.append(EVENT)
    assert await asyncio.wait_for(reading, SECONDS) == []
    assert lost.is_set()
    assert over.is_set()
    assert publication.log.is_abandoned


async def test_little_is_kept_here_of_what_is_published(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that falls further behind is told to read from Redis."""
    monkeypatch.setattr(module, "KEPT_HERE_BYTES", 5 * EVENT_BYTES)
    monkeypatch.setattr(module, "BATCH_BYTES", EVENT_BYTES)
    publication = Publication(publisher, "run", "organization")
    quick = asyncio.ensure_future(read(publication))
    slow = publication.log.read()
    publication.log.append(EVENT)
    assert (await asyncio.wait_for(anext(slow), SECONDS))[-1].sequence == 1
    for _ in range(50):
        publication.log.append(EVENT)
    publication.log.close()
    assert await asyncio.wait_for(quick, SECONDS) == list(range(1, 52))
    assert publication.log.size <= 6 * EVENT_BYTES
    with pytest.raises(OutOfRange):
        await anext(slow)


async def test_a_run_waits_for_redis_before_it_loses_events(
    publisher: Publisher, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CROWDED_BYTES", 5 * EVENT_BYTES)
    monkeypatch.setattr(module, "KEPT_HERE_BYTES", 3 * EVENT_BYTES)
    monkeypatch.setattr(module, "BATCH_BYTES", EVENT_BYTES)
    streams.gate.clear()
    publication = Publication(publisher, "run", "organization")
    reading = asyncio.ensure_future(read(publication))
    await settled()
    for _ in range(10):
        publication.log.append(EVENT)
    waiting = asyncio.ensure_future(publication.room())
    await streams.asked.wait()
    await settled()
    assert not waiting.done()
    streams.gate.set()
    await asyncio.wait_for(waiting, SECONDS)
    publication.log.close()
    assert await asyncio.wait_for(reading, SECONDS) == list(range(1, 11))


async def test_it_does_not_wait_for_a_redis_that_is_away(
    publisher: Publisher, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CROWDED_BYTES", 0)
    streams.is_away = True
    publication = Publication(publisher, "run", "organization")
    publication.log.append(EVENT)
    await asyncio.wait_for(publication.room(), SECONDS)
    publication.log.close()
