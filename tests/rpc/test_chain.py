from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import structlog
import uvloop
from protobuf import Message

from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteResponse
from gateway.rpc.call import Call
from gateway.rpc.chain import Chain
from gateway.rpc.errors import (
    Cancelled,
    Code,
    DeadlineExceeded,
    Internal,
    NotFound,
    PermissionDenied,
    RpcError,
)
from tests.calls import answers, call_of, method, same

SECRET = "hunter2-in-the-exception"
SOON = 0.02
LONG = 60.0

Told = list[tuple[Call, RpcError | None]]
Unary = Callable[[Any, Call], Awaitable[Message]]
Stream = Callable[[Any, Call], AsyncIterator[list[Message]]]


class Service:
    """Means for Execute and ExecuteStream what a test says."""

    def __init__(self, execute: Unary | None = None, stream: Stream | None = None) -> None:
        self.execute = execute
        self.execute_stream = stream


def unary_call(execute: Unary, **fields: Any) -> Call:
    return call_of(method("Execute", Service(execute=execute)), **fields)


def stream_call(stream: Stream, **fields: Any) -> Call:
    return call_of(method("ExecuteStream", Service(stream=stream)), **fields)


async def name(call: Call) -> None:
    call.request_id = "request-7"


def chain(told: Told, guards: Sequence[Any] = (), timeout: float = LONG) -> Chain:
    return Chain(name, guards, [lambda call, outcome: told.append((call, outcome))], timeout=timeout)


async def answer(_request: Any, _call: Call) -> Message:
    return ExecuteResponse(execution_id="e")


async def three(_request: Any, _call: Call) -> AsyncIterator[list[Message]]:
    for sequence in (1, 2, 3):
        yield [ExecutionEvent(sequence=sequence)]


async def forever(_request: Any, _call: Call) -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def one_and_forever(_request: Any, _call: Call) -> AsyncIterator[list[Message]]:
    yield [ExecutionEvent(sequence=1)]
    await asyncio.Event().wait()


async def until(moment: float) -> None:
    """Wait until the loop's clock is past a moment."""
    past = asyncio.Event()
    asyncio.get_running_loop().call_at(moment + 0.001, past.set)
    await past.wait()


async def test_an_answer_leaves_encoded_and_is_observed_once() -> None:
    told: Told = []
    call = unary_call(answer)
    assert await chain(told).unary(call, lambda message: message.to_binary()) == b"\x12\x01e"
    assert told == [(call, None)]


async def test_a_stream_leaves_encoded_and_is_observed_once_at_its_end() -> None:
    told: Told = []
    call = stream_call(three)
    stream = chain(told).stream(call, lambda batch: [message.to_binary() for message in batch])
    received = []
    async for batch in stream:
        assert not told
        received += batch
    assert received == [ExecutionEvent(sequence=n).to_binary() for n in (1, 2, 3)]
    assert told == [(call, None)]


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_guards_run_in_order_and_the_first_refusal_ends_it(kind: str) -> None:
    seen: list[str] = []

    def guard(label: str, refusal: RpcError | None = None) -> Callable[[Call], Awaitable[None]]:
        async def run(call: Call) -> None:
            seen.append(f"{label} {call.request_id}")
            if refusal is not None:
                raise refusal

        return run

    async def untouched(_request: Any, _call: Call) -> Message:
        raise AssertionError("the service was reached")

    told: Told = []
    refusal = PermissionDenied("no")
    guarded = chain(told, [guard("a"), guard("b", refusal), guard("c")])
    call = unary_call(untouched) if kind == "unary" else stream_call(three)
    with pytest.raises(PermissionDenied) as caught:
        await answers(guarded, call)
    assert caught.value is refusal
    assert seen == ["a request-7", "b request-7"]
    assert [outcome for _, outcome in told] == [refusal]


async def test_a_guard_hands_on_what_it_found_out() -> None:
    async def guard(call: Call) -> None:
        call.request = call.decode()

    async def echo(request: Any, call: Call) -> Message:
        assert request is call.request
        return ExecuteResponse(execution_id=type(request).__name__)

    message = await chain([], [guard]).unary(unary_call(echo), same)
    assert message == ExecuteResponse(execution_id="ExecuteRequest")


async def test_an_error_of_a_service_is_the_outcome_as_it_is() -> None:
    raised = NotFound("There is no such thing.", metadata={"a": "b"})

    async def fail(_request: Any, _call: Call) -> Message:
        raise raised

    told: Told = []
    with pytest.raises(NotFound) as caught:
        await chain(told).unary(unary_call(fail), same)
    assert caught.value is raised
    assert raised.__cause__ is None
    assert [outcome for _, outcome in told] == [raised]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError(SECRET)


@pytest.mark.parametrize(
    "error", [RuntimeError(SECRET), LookupError(SECRET), Unprintable(), OSError(5, SECRET)]
)
@pytest.mark.parametrize("kind", ["unary", "stream", "guard", "encode"])
async def test_an_unexpected_error_leaks_nothing_and_is_logged_whole(kind: str, error: Exception) -> None:
    def fault(*_arguments: Any) -> Any:
        raise error

    async def fail(*_arguments: Any) -> Message:
        raise error

    async def fail_late(_request: Any, _call: Call) -> AsyncIterator[list[Message]]:
        yield [ExecutionEvent()]
        raise error

    told: Told = []
    call = stream_call(fail_late) if kind == "stream" else unary_call(answer if kind == "encode" else fail)
    faulty = chain(told, [fail] if kind == "guard" else [])
    with structlog.testing.capture_logs() as logged, pytest.raises(Internal) as caught:
        await answers(faulty, call, fault if kind == "encode" else same)
    shown = caught.value
    assert shown.message == "Something went wrong in the gateway. Quote request request-7 to its operator."
    assert (shown.reason, shown.metadata, shown.fields, shown.details) == ("INTERNAL", {}, {}, ())
    assert SECRET not in repr(shown)
    [line] = logged
    assert (line["log_level"], line["request_id"], line["exc_info"]) == ("error", "request-7", error)
    assert line["method"].startswith("/n8ngateway.v1.ExecutionService/Execute")
    assert [outcome for _, outcome in told] == [shown]


async def test_an_observer_that_fails_keeps_nothing_from_the_caller_and_the_other_observers() -> None:
    told: list[RpcError | None] = []

    def broken(_call: Call, _outcome: RpcError | None) -> None:
        raise RuntimeError(SECRET)

    observed = Chain(name, [], [broken, lambda _call, outcome: told.append(outcome)], timeout=LONG)
    with structlog.testing.capture_logs() as logged:
        assert await observed.unary(unary_call(answer), same)
    assert told == [None]
    assert [line["event"] for line in logged] == ["observer failed"]


@pytest.mark.parametrize(("own", "callers"), [(SOON, LONG), (LONG, SOON), (SOON, None)])
async def test_the_shorter_deadline_wins(own: float, callers: float | None) -> None:
    told: Told = []
    with pytest.raises(DeadlineExceeded):
        await chain(told, timeout=own).unary(unary_call(forever, timeout=callers), same)
    assert [outcome and outcome.code for _, outcome in told] == [Code.DEADLINE_EXCEEDED]


@pytest.mark.parametrize("seconds", [0.0, -1.0])
@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_a_deadline_that_has_passed_reaches_no_guard(kind: str, seconds: float) -> None:
    async def untouched(_call: Call) -> None:
        raise AssertionError("a guard was reached")

    told: Told = []
    call = unary_call(answer, timeout=seconds) if kind == "unary" else stream_call(three, timeout=seconds)
    with pytest.raises(DeadlineExceeded):
        await answers(chain(told, [untouched]), call)
    assert [call.request_id for call, _ in told] == ["request-7"]


async def test_the_deadline_holds_for_guards_too() -> None:
    async def slow(_call: Call) -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded):
        await chain([], [slow]).unary(unary_call(answer, timeout=SOON), same)
    with pytest.raises(DeadlineExceeded):
        await anext(chain([], [slow]).stream(stream_call(three, timeout=SOON), same))


async def test_a_timeout_of_a_handlers_own_is_not_the_deadline() -> None:
    async def impatient(_request: Any, _call: Call) -> Message:
        raise TimeoutError(SECRET)

    async def impatient_stream(_request: Any, _call: Call) -> AsyncIterator[list[Message]]:
        yield [ExecutionEvent()]
        raise TimeoutError(SECRET)

    told: Told = []
    with structlog.testing.capture_logs():
        with pytest.raises(Internal):
            await chain(told).unary(unary_call(impatient, timeout=LONG), same)
        with pytest.raises(Internal):
            [_ async for _ in chain(told).stream(stream_call(impatient_stream, timeout=LONG), same)]
    assert [outcome and outcome.code for _, outcome in told] == [Code.INTERNAL] * 2


def test_deadlines_between_two_ticks_of_the_loop_are_deadlines() -> None:
    """Uvloop counts in whole milliseconds, so it rings before some deadlines."""

    async def outcomes() -> list[Any]:
        calls = [unary_call(forever, timeout=SOON + n / 10_000) for n in range(40)]
        return await asyncio.gather(*(chain([]).unary(call, same) for call in calls), return_exceptions=True)

    assert {type(outcome) for outcome in uvloop.run(outcomes())} == {DeadlineExceeded}


async def test_a_stream_whose_producer_is_slow_ends_at_the_deadline() -> None:
    told: Told = []
    stream = chain(told).stream(stream_call(one_and_forever, timeout=SOON), same)
    assert await anext(stream) == [ExecutionEvent(sequence=1)]
    with pytest.raises(DeadlineExceeded):
        await anext(stream)
    assert [outcome and outcome.code for _, outcome in told] == [Code.DEADLINE_EXCEEDED]


async def test_a_stream_whose_reader_is_slow_ends_at_the_deadline_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    stream = chain([]).stream(stream_call(three, timeout=LONG), same)
    assert await anext(stream) == [ExecutionEvent(sequence=1)]
    late = loop.time() + LONG
    monkeypatch.setattr(loop, "time", lambda: late)
    with pytest.raises(DeadlineExceeded):
        await anext(stream)


async def test_a_stream_is_not_bounded_by_the_longest_unary_call() -> None:
    stream = chain([], timeout=0.0).stream(stream_call(three), same)
    assert await anext(stream)
    await until(asyncio.get_running_loop().time())
    assert [batch async for batch in stream] == [[ExecutionEvent(sequence=2)], [ExecutionEvent(sequence=3)]]


async def test_cancellation_passes_through_and_is_observed_as_such() -> None:
    told: Told = []
    reached = asyncio.Event()

    async def wait(_request: Any, _call: Call) -> Message:
        reached.set()
        return await forever(_request, _call)

    running = asyncio.create_task(chain(told).unary(unary_call(wait, timeout=LONG), same))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [type(outcome) for _, outcome in told] == [Cancelled]


class Watched:
    """A stream that tells when it is closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def __call__(self, _request: Any, _call: Call) -> AsyncIterator[list[Message]]:
        try:
            yield [ExecutionEvent(sequence=1)]
            yield [ExecutionEvent(sequence=2)]
            await asyncio.Event().wait()
        finally:
            self.closed.set()


async def test_a_stream_that_its_reader_leaves_is_closed_before_anything_goes_on() -> None:
    told: Told = []
    watched = Watched()
    stream = chain(told).stream(stream_call(watched), same)
    await anext(stream)
    await stream.aclose()
    assert watched.closed.is_set()
    assert [type(outcome) for _, outcome in told] == [Cancelled]


async def test_a_stream_that_is_forgotten_is_closed_too() -> None:
    told: Told = []
    watched = Watched()
    stream = chain(told).stream(stream_call(watched), same)
    await anext(stream)
    del stream
    await watched.closed.wait()
    await asyncio.sleep(0)
    assert [type(outcome) for _, outcome in told] == [Cancelled]


async def test_a_stream_that_is_cancelled_while_it_waits_is_closed() -> None:
    told: Told = []
    watched = Watched()
    received: asyncio.Queue[Message] = asyncio.Queue()

    async def read() -> None:
        async for message in chain(told).stream(stream_call(watched), same):
            received.put_nowait(message)

    reading = asyncio.create_task(read())
    for _ in range(2):
        await received.get()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert watched.closed.is_set()
    assert [type(outcome) for _, outcome in told] == [Cancelled]


async def test_a_stream_that_an_encoder_refuses_is_closed() -> None:
    told: Told = []
    watched = Watched()

    def refuse(_message: Message) -> bytes:
        raise ValueError(SECRET)

    with structlog.testing.capture_logs(), pytest.raises(Internal):
        await anext(chain(told).stream(stream_call(watched), refuse))
    assert watched.closed.is_set()
    assert [type(outcome) for _, outcome in told] == [Internal]


async def test_an_error_that_is_raised_twice_is_still_printable() -> None:
    """The error that failed a run reaches each of its readers through a chain of its own."""
    raised = NotFound("gone")

    async def fail(_request: Any, _call: Call) -> Message:
        raise raised

    for _ in range(2):
        with pytest.raises(NotFound):
            await chain([]).unary(unary_call(fail), same)
    assert "gone" in "".join(traceback.format_exception(raised))
    assert raised.__cause__ is None
