from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from protobuf import Oneof
from protobuf.wkt import Value

from gateway.executions.log import EVENT_BYTES, VALUE_BYTES, EventLog
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionChunk, ExecutionEvent
from gateway.rpc.errors import OutOfRange

EVENT = Oneof("chunk", ExecutionChunk(content=Oneof("text", "x")))


def filled(count: int, *, capacity: int = 1 << 20, size: int = 0) -> EventLog:
    log = EventLog("run-1", capacity=capacity)
    for _ in range(count):
        log.append(EVENT, bytes(size))
    return log


async def sequences(log: EventLog, after: int = 0) -> list[int]:
    return [event.sequence async for batch in log.read(after) for event in batch]


async def read_to_the_end(log: EventLog, after: int = 0) -> list[int]:
    """Read what is there and then what comes; the log is closed by another."""
    return await asyncio.wait_for(sequences(log, after), 30)


async def test_events_come_in_order_numbered_from_1() -> None:
    log = filled(3)
    log.close()
    events = [event async for batch in log.read() for event in batch]
    assert [event.sequence for event in events] == [1, 2, 3]
    assert {event.execution_id for event in events} == {"run-1"}
    assert all(event.time is not None and event.event == EVENT for event in events)


async def test_a_reader_sees_what_was_there_and_what_comes() -> None:
    log = filled(2)
    reader = log.read()
    assert [event.sequence for event in await anext(reader)] == [1, 2]
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    assert not waiting.done()
    log.append(EVENT)
    assert [event.sequence for event in await waiting] == [3]
    log.close()
    assert await anext(reader, None) is None


@pytest.mark.parametrize(("after", "seen"), [(0, [1, 2, 3]), (1, [2, 3]), (3, []), (7, [])])
async def test_a_late_reader_begins_after_what_it_has_seen(after: int, seen: list[int]) -> None:
    log = filled(3)
    log.close()
    assert await sequences(log, after) == seen


async def test_a_reader_ahead_of_the_log_waits_for_what_it_has_not_seen() -> None:
    log = filled(1)
    reader = asyncio.ensure_future(read_to_the_end(log, after=2))
    for _ in range(3):
        await asyncio.sleep(0)
        log.append(EVENT)
    log.close()
    assert await reader == [3, 4]


async def test_many_readers_see_the_same() -> None:
    log = EventLog("run-1")
    readers = [asyncio.ensure_future(read_to_the_end(log, after)) for after in (0, 0, 5, 100, 199)]
    for n in range(200):
        log.append(EVENT)
        if n % 7 == 0:
            await asyncio.sleep(0)
    log.close()
    late = await read_to_the_end(log)
    assert late == list(range(1, 201))
    assert await asyncio.gather(*readers) == [late, late, late[5:], late[100:], late[199:]]
    assert not log._waiting


async def test_an_empty_log_ends_when_it_is_closed() -> None:
    log = EventLog("run-1")
    reader = asyncio.ensure_future(read_to_the_end(log))
    await asyncio.sleep(0)
    log.close()
    assert await reader == []


async def test_closed_waits_for_the_end_and_for_nothing_else() -> None:
    log = filled(1)
    waiting = asyncio.ensure_future(log.closed())
    log.append(EVENT)
    await asyncio.sleep(0)
    assert not waiting.done()
    log.close()
    await waiting
    await log.closed()


async def test_a_reader_that_falls_behind_is_told_so() -> None:
    log = filled(1, capacity=9_000)
    reader = log.read()
    assert (await anext(reader))[-1].sequence == 1
    for _ in range(5):
        log.append(EVENT, bytes(4_000))
    with pytest.raises(OutOfRange) as caught:
        await anext(reader)
    assert caught.value.reason == "EVENTS_EXPIRED"
    assert caught.value.metadata == {"first_kept": "6"}
    assert (await anext(log.read(after=5)))[0].sequence == 6


async def test_a_reader_that_keeps_up_is_never_told_so() -> None:
    log = EventLog("run-1", capacity=10_000)
    reader = log.read()
    for sequence in range(1, 20):
        log.append(EVENT, bytes(4_000))
        assert [event.sequence for event in await anext(reader)] == [sequence]


async def test_the_newest_event_is_kept_however_large() -> None:
    log = filled(1, capacity=10)
    log.append(EVENT, bytes(1_000_000))
    log.close()
    assert await sequences(log, after=1) == [2]


@pytest.mark.parametrize("size", [0, 1])
async def test_events_without_content_are_bounded_too(size: int) -> None:
    log = filled(10_000, capacity=100 * EVENT_BYTES, size=size)
    assert 90 <= len(log._events) <= 100
    assert log.size <= 100 * EVENT_BYTES


async def test_a_slow_reader_keeps_no_more_alive_than_the_log() -> None:
    """It holds a few events that it has taken out; the rest goes when the log lets go of it."""
    log = EventLog("run-1", capacity=500 * EVENT_BYTES)
    for _ in range(400):
        log.append(Oneof("chunk", ExecutionChunk(content=Oneof("text", "x"))))
    reader = log.read()
    await anext(reader)
    dropped = [weakref.ref(log._events[index][0].event.value) for index in range(300, 400)]
    for _ in range(1_000):
        log.append(EVENT)
    gc.collect()
    assert not any(ref() for ref in dropped)
    with pytest.raises(OutOfRange):
        [batch async for batch in reader]


async def test_a_reader_that_leaves_leaves_nothing_behind() -> None:
    log = filled(1)
    reader = log.read()
    await anext(reader)
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    assert log._waiting
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not log._waiting
    await reader.aclose()


async def test_events_are_messages_of_the_contract() -> None:
    log = filled(1)
    [event] = await anext(log.read())
    assert ExecutionEvent.from_binary(event.to_binary()) == event


def test_json_is_kept_by_what_its_values_take() -> None:
    text = "[" + "1," * 999 + "1]"
    told = ExecutionChunk(content=Oneof("json", Value.from_json(text)))
    log = EventLog("run-1", capacity=2 * 1000 * VALUE_BYTES)
    for _ in range(5):
        log.append(Oneof("chunk", told), text)
    taken, _ = log.kept_after(0, 1 << 20)
    assert [event.sequence for event in taken] == [5]
