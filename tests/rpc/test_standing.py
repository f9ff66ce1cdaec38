from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog
from protobuf import Message

from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent
from gateway.rpc import standing as standing_module
from gateway.rpc.call import Call
from gateway.rpc.chain import Chain
from gateway.rpc.errors import DeadlineExceeded, RpcError, Unauthenticated, Unavailable
from gateway.rpc.standing import Standing
from tests.calls import same
from tests.rpc.test_chain import name, stream_call


class Check:
    """Refuses as it is told to."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.asked: list[Call] = []

    async def __call__(self, call: Call) -> None:
        self.asked.append(call)
        if self.refusal is not None:
            raise self.refusal


class Endless:
    """A stream that says one thing and then nothing more."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()
        self.is_closed = False

    async def __call__(self, _request: Any, _call: Call) -> AsyncIterator[list[Message]]:
        try:
            yield [ExecutionEvent(sequence=1)]
            self.waits.set()
            await asyncio.get_running_loop().create_future()
        finally:
            self.is_closed = True


class Reading:
    """A caller who reads a stream to its end."""

    def __init__(self, standing: Standing, stream: Callable[..., Any], **fields: Any) -> None:
        self.outcomes: list[RpcError | None] = []
        chain = Chain(
            name, [], [lambda _, outcome: self.outcomes.append(outcome)], timeout=60, standing=standing
        )
        self.call = stream_call(stream, **fields)
        self.messages = chain.stream(self.call, same)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> list[Message]:
        return [message async for batch in self.messages for message in batch]


async def test_a_stream_ends_when_its_caller_may_not_have_it_any_more() -> None:
    check, endless = Check(), Endless()
    standing = Standing([check])
    reading = Reading(standing, endless)
    await endless.waits.wait()
    await standing.look()
    assert not reading.task.done()
    assert check.asked == [reading.call]
    refusal = check.refusal = Unauthenticated("revoked", reason="API_KEY_REVOKED")
    await standing.look()
    with pytest.raises(Unauthenticated) as raised:
        await reading.task
    assert raised.value is refusal
    assert reading.outcomes == [refusal]
    assert endless.is_closed
    check.asked.clear()
    await standing.look()
    assert check.asked == []
    await standing.close()


async def test_a_caller_that_reads_slowly_is_refused_the_next_message() -> None:
    check = Check()
    standing = Standing([check])

    async def ready(_request: Any, _call: Call) -> AsyncIterator[list[Message]]:
        for sequence in range(1, 100):
            yield [ExecutionEvent(sequence=sequence)]

    chain = Chain(name, [], [], timeout=60, standing=standing)
    messages = chain.stream(stream_call(ready), same)
    await anext(messages)
    check.refusal = Unauthenticated("revoked")
    await standing.look()
    with pytest.raises(Unauthenticated):
        await anext(messages)
    await standing.close()


async def test_what_cannot_be_known_ends_no_stream() -> None:
    check, endless = Check(), Endless()
    standing = Standing([check])
    reading = Reading(standing, endless)
    await endless.waits.wait()
    with structlog.testing.capture_logs() as logs:
        for failure in (Unavailable("away"), ValueError("a fault of ours")):
            check.refusal = failure
            await standing.look()
            assert not reading.task.done()
    assert [entry["event"] for entry in logs] == ["open stream not checked"]
    reading.task.cancel()
    await asyncio.gather(reading.task, return_exceptions=True)
    await standing.close()


async def test_a_deadline_is_told_as_one_whatever_is_checked() -> None:
    standing = Standing([Check()])
    with pytest.raises(DeadlineExceeded):
        await Reading(standing, Endless(), timeout=0.02).task
    await standing.close()


async def test_streams_are_looked_at_by_themselves_while_there_are_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(standing_module, "EVERY_SECONDS", 0.001)
    check = Check()
    standing = Standing([check])
    check.refusal = Unauthenticated("revoked")
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await Reading(standing, Endless()).task
        looking = standing._looking
        assert looking is not None
        # It ends by itself, and begins with the next stream.
        await looking
    await standing.close()
