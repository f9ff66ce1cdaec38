"""What a reader is given of a run that is elsewhere, from the streams of a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from protobuf import Oneof
from protobuf.wkt import Value
from redis.asyncio import Redis

from gateway.adapters.redis.event_streams import Batch, EventStreams
from gateway.executions import watch as module
from gateway.executions.log import TAKEN_AT_ONCE
from gateway.executions.stored import Stored
from gateway.executions.watch import FIRST_LOOK_SECONDS, Watcher
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionChunk, ExecutionCompleted, ExecutionEvent
from gateway.gen.n8ngateway.v1.execution_pb import Execution, ExecutionState
from gateway.local.valkey import LocalValkey
from gateway.rpc.errors import OutOfRange, Unavailable

if TYPE_CHECKING:
    from gateway.executions.event import Told

RUN = "01936f5e-7c00-7000-8000-000000000001"
EVENTS = 1000
TEXT: Told = Oneof("chunk", ExecutionChunk(content=Oneof("text", "x")))
END: Told = Oneof("completed", ExecutionCompleted())


class Silent:
    """Channels on which nothing is told."""

    def listen(self, _channel: str, _handler: Callable[[bytes | None], None]) -> AbstractContextManager[None]:
        return nullcontext()


async def look() -> Stored:
    return Stored(Execution(id=RUN, state=ExecutionState.RUNNING), 0)


async def ended() -> Stored:
    execution = Execution(id=RUN, state=ExecutionState.COMPLETED, result=Value.from_json('"all"'))
    execution.last_sequence = 5
    return Stored(execution, 0)


def event(sequence: int, told: Told) -> ExecutionEvent:
    return ExecutionEvent(execution_id=RUN, sequence=sequence, event=told)


async def read(streams: EventStreams, after: int) -> list[int]:
    async with aclosing(Watcher({}, streams, Silent()).watch(RUN, after, ended)) as batches:
        return [event.sequence async for batch in batches for event in batch]


async def test_a_page_of_many_small_events_is_given_in_parts(tmp_path: Path) -> None:
    """What is encoded at one time keeps others waiting, and is held for a reader that is slow."""
    events = [*(event(n, TEXT) for n in range(1, EVENTS)), event(EVENTS, END)]
    async with LocalValkey(tmp_path) as valkey, Redis.from_url(valkey.url) as redis:
        streams = EventStreams(redis)
        await streams.append("another replica", [Batch(RUN, "tenant", events)])
        async with aclosing(Watcher({}, streams, Silent()).watch(RUN, 0, look)) as batches:
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
