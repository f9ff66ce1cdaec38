"""What a reader is given of a run that is elsewhere, from the streams of a real Valkey."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from protobuf import Oneof, wkt
from protobuf.wkt import Value
from redis.asyncio import Redis

from gateway.adapters.redis import event_streams
from gateway.adapters.redis.event_streams import Batch, EventStreams
from gateway.executions import watch as module
from gateway.executions.ending import Endings
from gateway.executions.log import TAKEN_AT_ONCE
from gateway.executions.output import Output
from gateway.executions.publisher import Publication, Publisher
from gateway.executions.run import Job, Run
from gateway.executions.settlement import Outcome, Settlement
from gateway.executions.stored import Stored
from gateway.executions.watch import FIRST_LOOK_SECONDS, Watcher
from gateway.gen.n8ngateway.v1.execution_event_pb import (
    ExecutionChunk,
    ExecutionCompleted,
    ExecutionEvent,
)
from gateway.gen.n8ngateway.v1.execution_pb import Execution, ExecutionState
from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.local.valkey import LocalValkey
from gateway.rpc.errors import OutOfRange, Unavailable
from gateway.rpc.status import DETAIL_TYPES
from gateway.transcoding.gen.google.rpc.error_details_pb import ErrorInfo
from gateway.transcoding.gen.google.rpc.status_pb import Status

if TYPE_CHECKING:
    from gateway.adapters.database import Json
    from gateway.executions.event import Told
    from gateway.rpc.principal import Principal

RUN = "01936f5e-7c00-7000-8000-000000000001"
EVENTS = 1000
TEXT: Told = Oneof("chunk", ExecutionChunk(content=Oneof("text", "x")))
END: Told = Oneof("completed", ExecutionCompleted())


class Silent:
    """Channels on which nothing is told."""

    def listen(self, _channel: str, _handler: Callable[[bytes | None], None]) -> AbstractContextManager[None]:
        return nullcontext()


class Nowhere:
    """No replica has events that were not published."""

    async def read(self, _execution_id: str, _after: int) -> list[ExecutionEvent]:
        return []


class LostRun:
    """Implements `Database` for a run that was ended when its replica had gone, or stood still."""

    def __init__(
        self, state: ExecutionState = ExecutionState.UNKNOWN, reason: str = "OUTCOME_UNKNOWN"
    ) -> None:
        info = wkt.Any.pack(ErrorInfo(reason=reason))
        self.state = state
        self.error = Status(code=2, message="Nobody knows how it ended.", details=[info])
        self.last_sequence = 0

    async def look(self) -> Stored:
        execution = Execution(id=RUN, organization_id="tenant", state=self.state)
        execution.error, execution.last_sequence = self.error, self.last_sequence
        return Stored(execution, 0)

    async def call(self, function: str, _principal: Principal | None, /, **arguments: Json) -> str:
        if function == "get_execution":
            stored = await self.look()
            return stored.execution.to_json(registry=DETAIL_TYPES, use_proto_field_name=True)
        assert function == "number_end"
        sequence = arguments["p_last_sequence"]
        assert isinstance(sequence, int)
        self.last_sequence = self.last_sequence or sequence
        return json.dumps({"last_sequence": self.last_sequence})

    async def ping(self) -> None:
        return

    async def close(self) -> None:
        return


def watcher(streams: EventStreams, run: Run | None = None, lost: LostRun | None = None) -> Watcher:
    endings = Endings(lost or LostRun(), streams, "this replica")
    return Watcher({RUN: run} if run else {}, streams, Silent(), endings, Nowhere())


async def rest(streams: EventStreams, lost: LostRun, after: int) -> list[int]:
    """What is told of a run that nobody runs any more."""
    async with aclosing(watcher(streams, lost=lost).watch(RUN, after, lost.look)) as batches:
        return [event.sequence async for batch in batches for event in batch]


async def look() -> Stored:
    return Stored(Execution(id=RUN, state=ExecutionState.RUNNING), 0)


async def ended() -> Stored:
    execution = Execution(id=RUN, state=ExecutionState.COMPLETED, result=Value.from_json('"all"'))
    execution.last_sequence = 5
    return Stored(execution, 0)


def event(sequence: int, told: Told) -> ExecutionEvent:
    return ExecutionEvent(execution_id=RUN, sequence=sequence, event=told)


async def read(streams: EventStreams, after: int, look: Callable[[], Awaitable[Stored]] = ended) -> list[int]:
    async with aclosing(watcher(streams).watch(RUN, after, look)) as batches:
        return [event.sequence async for batch in batches for event in batch]


async def test_a_page_of_many_small_events_is_given_in_parts(tmp_path: Path) -> None:
    """What is encoded at one time keeps others waiting, and is held for a reader that is slow."""
    events = [*(event(n, TEXT) for n in range(1, EVENTS)), event(EVENTS, END)]
    async with LocalValkey(tmp_path) as valkey, Redis.from_url(valkey.url) as redis:
        streams = EventStreams(redis)
        await streams.append("another replica", [Batch(RUN, "tenant", events)])
        async with aclosing(watcher(streams).watch(RUN, 0, look)) as batches:
            taken = [batch async for batch in batches]
        await streams.close()
    assert [event.sequence for batch in taken for event in batch] == list(range(1, EVENTS + 1))
    assert max(map(len, taken)) == TAKEN_AT_ONCE


async def test_the_last_events_of_a_run_that_has_ended_are_waited_for(tmp_path: Path) -> None:
    """Its replica could not publish them yet, nor any before."""
    async with LocalValkey(tmp_path) as valkey, Redis.from_url(valkey.url) as redis:
        streams = EventStreams(redis)
        reading = asyncio.create_task(read(streams, after=2))
        await asyncio.sleep(2 * FIRST_LOOK_SECONDS)
        events = [*(event(n, TEXT) for n in range(1, 5)), event(5, END)]
        await streams.append("another replica", [Batch(RUN, "tenant", events)])
        assert await reading == [3, 4, 5]
        await streams.close()


async def test_events_are_not_told_to_be_gone_while_redis_is_away(tmp_path: Path) -> None:
    """Who has a part of the output is told to come again; who has none of it gets the outcome."""
    async with LocalValkey(tmp_path) as valkey, Redis.from_url(valkey.url) as redis:
        streams = EventStreams(redis)
        await valkey.stop()
        with pytest.raises(Unavailable):
            await read(streams, after=2)
        assert await read(streams, after=0) == [4, 5]
        assert await read(streams, after=4) == [5]
        await streams.close()


async def test_the_end_is_told_to_who_has_read_more_than_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replica has shown events while it found no Redis, and then lost the run."""
    monkeypatch.setattr(module, "TAIL_SECONDS", 0)
    async with LocalValkey(tmp_path) as valkey, Redis.from_url(valkey.url) as redis:
        streams = EventStreams(redis)
        lost = LostRun()
        await streams.append("gone", [Batch(RUN, "tenant", [event(1, TEXT)])])
        assert await rest(streams, lost, 1) == [2]
        assert await rest(streams, lost, 2) == []
        assert await rest(streams, lost, 3) == [4]
        assert await rest(streams, lost, 0) == [1, 2]
        await streams.close()


@pytest.mark.parametrize("shown", [1, 2, 3])
@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (ExecutionState.UNKNOWN, "OUTCOME_UNKNOWN"),
        (ExecutionState.CANCELLED, "EXECUTION_CANCELLED"),
        (ExecutionState.FAILED, "QUEUE_TIMEOUT"),
    ],
)
async def test_who_has_read_a_run_here_is_told_the_end_that_another_gave_it(
    streams: EventStreams, shown: int, state: ExecutionState, reason: str
) -> None:
    """However many events were shown here alone: this replica has stood still meanwhile."""
    lost = LostRun(state, reason)
    publisher = Publisher(streams, "this replica")
    run = Run(Job(RUN, Workflow(), 1, b"{}", ""), Publication(publisher, RUN, "tenant"))
    for _ in range(shown):
        run.log.append(TEXT)
    run.log.show(shown)
    async with aclosing(watcher(streams, run, lost).watch(RUN, 0, lost.look)) as batches:
        seen = [each.sequence for each in await anext(batches)]
        await Endings(lost, streams, "sweeper").tell(RUN)
        run.log.abandon()
        told = [each async for batch in batches for each in batch]
    assert (seen, lost.last_sequence) == ([*range(1, shown + 1)], 1)
    assert [(each.sequence, each.event and each.event.field) for each in told] == [(shown + 1, "failed")]


@pytest.mark.parametrize("shown", [2, 3])
async def test_who_has_read_a_run_here_is_not_given_the_end_of_another_result(
    streams: EventStreams, shown: int
) -> None:
    """It was sent again elsewhere, and went well: what was read here is not what it gave."""
    run = Run(
        Job(RUN, Workflow(), 1, b"{}", ""), Publication(Publisher(streams, "this replica"), RUN, "tenant")
    )

    async def completed() -> Stored:
        execution = Execution(id=RUN, state=ExecutionState.COMPLETED, result=Value.from_json('"all"'))
        execution.last_sequence = 2
        return Stored(execution, 0)

    for _ in range(shown):
        run.log.append(TEXT)
    run.log.show(shown)
    async with aclosing(watcher(streams, run).watch(RUN, 0, completed)) as batches:
        assert [each.sequence for each in await anext(batches)] == [*range(1, shown + 1)]
        run.log.abandon()
        with pytest.raises(OutOfRange) as caught:
            await anext(batches)
    assert caught.value.reason == "EVENTS_EXPIRED"


async def test_who_has_read_a_run_elsewhere_is_told_the_end_where_redis_has_lost_the_rest(
    streams: EventStreams, redis: Redis
) -> None:
    """It came back empty, and who ended the run then counts from the beginning."""
    lost = LostRun()
    looks = iter([await look()])

    async def then_lost() -> Stored:
        return next(looks, None) or await lost.look()

    await streams.append("another replica", [Batch(RUN, "tenant", [event(1, TEXT)])])
    async with aclosing(watcher(streams, lost=lost).watch(RUN, 0, then_lost)) as batches:
        assert [each.sequence for each in await anext(batches)] == [1]
        await redis.flushall()
        assert [each.sequence async for batch in batches for each in batch] == [2]
    assert lost.last_sequence == 1


async def test_who_has_read_the_end_here_is_not_told_another(streams: EventStreams) -> None:
    """It could not be published, as another replica has taken the stream."""
    publisher = Publisher(streams, "this replica")
    run = Run(Job(RUN, Workflow(), 1, b"{}", ""), Publication(publisher, RUN, "tenant"))
    run.outcome, run.settlement = Outcome(Output(0)), Settlement(True, 1, 1)
    run.log.append(TEXT)
    run.log.append(END)
    run.log.show(2)
    lost = LostRun()
    async with aclosing(watcher(streams, run, lost).watch(RUN, 0, lost.look)) as batches:
        assert [each.sequence for each in await anext(batches)] == [1, 2]
        run.log.abandon()
        assert [batch async for batch in batches] == []


async def test_an_end_that_nobody_published_is_found_though_the_runner_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner had lost the run, and the replica that ended it found no Redis."""
    monkeypatch.setattr(module, "TRUSTED_SECONDS", 0.5)
    monkeypatch.setattr(module, "TAIL_SECONDS", 0)
    async with LocalValkey(tmp_path) as valkey, Redis.from_url(valkey.url) as redis:
        streams = EventStreams(redis)
        await streams.append("lives on", [Batch(RUN, "tenant", [event(1, TEXT)])])
        await streams.beat("lives on", 3600)
        lost = LostRun()
        looks = iter([await look(), await lost.look()])

        async def then_lost() -> Stored:
            return next(looks)

        async with (
            asyncio.timeout(60),
            aclosing(watcher(streams, lost=lost).watch(RUN, 0, then_lost)) as batches,
        ):
            assert [event.sequence async for batch in batches for event in batch] == [1, 2]
        await streams.close()


async def test_events_that_never_come_are_told_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TAIL_SECONDS", 0.5)
    async with LocalValkey(tmp_path) as valkey, Redis.from_url(valkey.url) as redis:
        streams = EventStreams(redis)
        with pytest.raises(OutOfRange) as caught:
            await read(streams, after=2)
        assert caught.value.reason == "EVENTS_EXPIRED"
        await streams.close()


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    async with LocalValkey(tmp_path) as valkey, Redis.from_url(valkey.url) as connected:
        yield connected


@pytest.fixture
async def streams(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventStreams]:
    """Streams whose readers are soon told what is not to come."""
    monkeypatch.setattr(module, "TAIL_SECONDS", 0.5)
    found = EventStreams(redis)
    yield found
    await found.close()


@pytest.mark.parametrize("state", [ExecutionState.COMPLETED, ExecutionState.RUNNING])
async def test_of_a_stream_that_has_lost_its_beginning_the_outcome_is_told(
    streams: EventStreams, state: ExecutionState
) -> None:
    """Redis came back empty, or made room for others; the run may end while its reader finds that."""
    await streams.append("another replica", [Batch(RUN, "tenant", [event(4, TEXT), event(5, END)])])
    known = [Stored(Execution(id=RUN, state=state), 0)] if state is ExecutionState.RUNNING else []

    async def found() -> Stored:
        return known.pop() if known else await ended()

    assert await read(streams, 0, found) == [4, 5]
    assert await read(streams, 1) == [4, 5]
    assert await read(streams, 3) == [4, 5]
    with pytest.raises(OutOfRange) as caught:
        await read(streams, 2)
    assert caught.value.reason == "EVENTS_EXPIRED"
    assert "GetExecution" in caught.value.message


async def test_while_a_run_goes_on_events_that_are_gone_are_told_to_be(streams: EventStreams) -> None:
    await streams.append("another replica", [Batch(RUN, "tenant", [event(4, TEXT)])])
    for after in (0, 1, 2):
        with pytest.raises(OutOfRange) as caught:
            await read(streams, after, look)
        assert caught.value.reason == "EVENTS_EXPIRED"


async def test_the_end_of_a_lost_run_hides_no_events_that_are_gone(
    streams: EventStreams, redis: Redis
) -> None:
    """Redis knows how far the stream has come, and has made room of it."""
    lost = LostRun()
    text = [event(n, TEXT) for n in range(1, 5)]
    await streams.append("another replica", [Batch(RUN, "tenant", text)])
    assert await rest(streams, lost, 2) == [3, 4, 5]
    assert await rest(streams, lost, 4) == [5]
    await redis.delete(f"n8n-gateway:{{{RUN}}}:events")
    assert await rest(streams, lost, 4) == [5]
    assert await rest(streams, lost, 0) == [5]
    with pytest.raises(OutOfRange) as caught:
        await rest(streams, lost, 2)
    assert caught.value.reason == "EVENTS_EXPIRED"


@pytest.mark.parametrize("kept", ["its events", "how far they came", "nothing"])
async def test_the_end_of_a_lost_run_has_one_number(streams: EventStreams, redis: Redis, kept: str) -> None:
    """Also when Redis does not have its events any more, which it keeps for an hour."""
    lost = LostRun()
    await streams.append("another replica", [Batch(RUN, "tenant", [event(n, TEXT) for n in (1, 2, 3)])])
    await Endings(lost, streams, "sweeper").tell(RUN)
    if kept != "its events":
        await redis.delete(f"n8n-gateway:{{{RUN}}}:events")
    if kept == "nothing":
        await redis.delete(f"n8n-gateway:{{{RUN}}}:writer")
    assert (await rest(streams, lost, 0))[-1] == 4
    assert await rest(streams, lost, 3) == [4]
    assert await rest(streams, lost, 4) == []


async def test_the_end_of_a_lost_run_is_numbered_by_who_finds_redis_back(tmp_path: Path) -> None:
    """Who ended it found none; what its runner publishes from then on is not taken."""
    lost = LostRun()
    async with LocalValkey(tmp_path) as valkey, Redis.from_url(valkey.url) as redis:
        streams = EventStreams(redis)
        await streams.append("gone", [Batch(RUN, "tenant", [event(1, TEXT)])])
        await valkey.stop()
        await Endings(lost, streams, "sweeper").tell(RUN)
        with pytest.raises(Unavailable):
            await rest(streams, lost, 1)
        await valkey.start()
        assert await rest(streams, lost, 1) == [2]
        assert await streams.append("gone", [Batch(RUN, "tenant", [event(2, TEXT)])]) == [None]
        assert await rest(streams, lost, 0) == [1, 2]
        assert await rest(streams, lost, 2) == []
        await streams.close()


async def test_a_redis_that_is_full_hides_no_end_of_a_lost_run(streams: EventStreams, redis: Redis) -> None:
    lost = LostRun()
    await streams.append("another replica", [Batch(RUN, "tenant", [event(n, TEXT) for n in (1, 2, 3)])])
    await redis.config_set("maxmemory", 1)
    await Endings(lost, streams, "sweeper").tell(RUN)
    assert await rest(streams, lost, 2) == [3, 4]
    assert await rest(streams, lost, 4) == []


async def test_an_end_is_not_numbered_while_its_runner_may_write_on(
    streams: EventStreams, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis takes too long to give the stream to who ended the run, though it can be read."""
    monkeypatch.setattr(event_streams, "CALL_SECONDS", 0.5)
    lost = LostRun()
    await streams.append("gone", [Batch(RUN, "tenant", [event(1, TEXT)])])
    await redis.client_pause(timeout=3_600_000, all=False)
    await Endings(lost, streams, "sweeper").tell(RUN)
    assert lost.last_sequence == 0
    assert (await streams.progress(RUN)).writer == "gone"
    await redis.client_unpause()
    monkeypatch.undo()
    assert await streams.append("gone", [Batch(RUN, "tenant", [event(2, TEXT)])]) == [0]
    assert await rest(streams, lost, 1) == [2, 3]
    assert await streams.append("gone", [Batch(RUN, "tenant", [event(3, TEXT)])]) == [None]


async def test_an_end_that_was_published_is_not_published_again(streams: EventStreams) -> None:
    """Though its number was not kept: who published it may have died."""
    lost = LostRun()
    await streams.append("another replica", [Batch(RUN, "tenant", [event(4, TEXT), event(5, END)])])
    assert await rest(streams, lost, 5) == []
    assert await rest(streams, lost, 4) == [5]
    assert [each.sequence for each in await streams.read(RUN, 3)] == [4, 5]


async def test_a_run_that_could_not_be_settled_here_does_not_end_as_if_it_had(streams: EventStreams) -> None:
    """Its replica stops, or broke: its log has no end, and its reader has to come again."""
    publisher = Publisher(streams, "this replica")
    run = Run(Job(RUN, Workflow(), 1, b"{}", ""), Publication(publisher, RUN, "tenant"))
    publisher.start()
    run.log.append(TEXT)
    run.log.close()
    seen: list[int] = []
    reading = watcher(streams, run).watch(RUN, 0, look)

    async def read_out() -> None:
        async for batch in reading:
            seen.extend(each.sequence for each in batch)

    with pytest.raises(Unavailable) as caught:
        await read_out()
    assert (seen, caught.value.reason) == ([1], "SHUTTING_DOWN")
    await publisher.close(1)


async def test_a_redis_that_is_full_stops_nobody_here_and_loses_nothing(
    streams: EventStreams, redis: Redis
) -> None:
    publisher = Publisher(streams, "this replica")
    over = asyncio.Event()
    run = Run(Job(RUN, Workflow(), 1, b"{}", ""), Publication(publisher, RUN, "tenant", ended=over.set))
    publisher.start()
    await redis.config_set("maxmemory-policy", "noeviction")
    await redis.config_set("maxmemory", 1)
    async with aclosing(watcher(streams, run).watch(RUN, 0, look)) as batches:
        run.log.append(TEXT)
        assert [each.sequence for each in await anext(batches)] == [1]
    run.log.append(TEXT)
    run.publication.whole = True
    run.log.close()
    with pytest.raises(OutOfRange):
        await read(streams, 2)
    assert await read(streams, 0) == [4, 5]
    assert not over.is_set()
    await redis.config_set("maxmemory", 0)
    await over.wait()
    assert [each.sequence for each in await streams.read(RUN, 0)] == [1, 2]
    await publisher.close(1)
