"""Reads a run to its last event, and tells its reader where the stream broke so that it can be resumed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import grpc
import grpc.aio

from n8n_gateway_client.errors import error_info
from n8n_gateway_client.retries import RetryPolicy
from n8n_gateway_client.v1.execution_event_pb2 import ExecutionEvent
from n8n_gateway_client.v1.execution_service_pb2 import ExecuteStreamRequest
from n8n_gateway_client.v1.execution_service_pb2_grpc import ExecutionServiceStub

if TYPE_CHECKING:
    from n8n_gateway_client.v1.execution_service_pb2_grpc import AsyncExecutionServiceStub

_PAUSES = RetryPolicy()
_NO_BREAK = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True, slots=True)
class Break:
    """Where a stream of events broke; the run itself goes on.

    `last_sequence` is of the last event that arrived, what WatchExecution resumes after. `attempt` is 1 for
    the first break since an event arrived, 2 when the resumed stream broke without a new one, and so on.
    """

    execution_id: str
    last_sequence: int
    attempt: int
    error: grpc.RpcError


OnBreak: TypeAlias = Callable[[Break], Iterable[ExecutionEvent] | None]
_AsyncEvents: TypeAlias = AsyncIterable[ExecutionEvent] | None
AsyncOnBreak: TypeAlias = Callable[[Break], _AsyncEvents | Awaitable[_AsyncEvents]]


class EndedEarly(grpc.RpcError):
    """The stream ended before the run did."""

    def code(self) -> grpc.StatusCode:
        """Return UNAVAILABLE."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Return the message."""
        return "the stream ended before the run did"

    def trailing_metadata(self) -> tuple[()]:
        """Return nothing: there was no status."""
        return ()

    def __str__(self) -> str:
        return self.details()


def follow(
    executions: ExecutionServiceStub,
    request: ExecuteStreamRequest,
    *,
    on_break: OnBreak | None = None,
    timeout: float | None = None,
) -> Iterator[ExecutionEvent]:
    """Run a workflow with ExecuteStream and yield its events to the last one, each once.

    A stream that breaks before that is handed to `on_break`, and what it returns is read on from there;
    events that it repeats are left out. When that breaks too before a new event, there is a pause before
    `on_break` is called again, longer each time. What the gateway itself refuses is no break, and is
    raised as it is; so are an error before the first event, the one that a failed run ends with, and any
    break for which `on_break` is absent or returns None. Closing the iterator ends the call, but not the
    run. `timeout`, in seconds, is ExecuteStream's.
    """
    place = _Place()
    events: Iterable[ExecutionEvent] = executions.ExecuteStream(request, timeout=timeout)
    while True:
        error: grpc.RpcError
        try:
            for event in events:
                if place.advance(event):
                    yield event
            if place.is_over():
                return
            error = EndedEarly()
        except grpc.RpcError as broken:
            error = broken
        finally:
            _cancel(events)
        where = place.resumable(error)
        if on_break is None:
            raise error
        time.sleep(place.pause())
        resumed = on_break(where)
        if resumed is None:
            raise error
        events = resumed


async def follow_async(
    executions: AsyncExecutionServiceStub,
    request: ExecuteStreamRequest,
    *,
    on_break: AsyncOnBreak | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 (the call's own)
) -> AsyncIterator[ExecutionEvent]:
    """Do what follow does, with asyncio; `on_break` may be a coroutine function."""
    place = _Place()
    events: AsyncIterable[ExecutionEvent] = executions.ExecuteStream(request, timeout=timeout)
    while True:
        error: grpc.RpcError
        try:
            async for event in events:
                if place.advance(event):
                    yield event
            if place.is_over():
                return
            error = EndedEarly()
        except grpc.RpcError as broken:
            error = broken
        finally:
            _cancel(events)
        where = place.resumable(error)
        if on_break is None:
            raise error
        await asyncio.sleep(place.pause())
        resumed = on_break(where)
        if isinstance(resumed, Awaitable) and not isinstance(resumed, AsyncIterable):
            resumed = await resumed
        if resumed is None:
            raise error
        events = cast("AsyncIterable[ExecutionEvent]", resumed)


class _Place:
    """How far a run has been read."""

    def __init__(self) -> None:
        self._last: ExecutionEvent | None = None
        self._attempt = 0

    def advance(self, event: ExecutionEvent) -> bool:
        """Take an event and tell whether it is new."""
        if self._last is not None and event.sequence <= self._last.sequence:
            return False
        self._last, self._attempt = event, 0
        return True

    def is_over(self) -> bool:
        """Tell whether the last event was the run's last."""
        return self._last is not None and self._last.WhichOneof("event") in ("completed", "failed")

    def resumable(self, error: grpc.RpcError) -> Break:
        """Return the break that `error` is, or raise it when it is an answer.

        The gateway's own errors have a reason; of these only its being away is worth another attempt.
        """
        info = error_info(error)
        answered = info.code is not grpc.StatusCode.UNAVAILABLE and (info.reason or info.code in _NO_BREAK)
        if self._last is None or self.is_over() or answered:
            raise error
        self._attempt += 1
        return Break(self._last.execution_id, self._last.sequence, self._attempt, error)

    def pause(self) -> float:
        """Return the seconds to wait before the attempt that comes."""
        return _PAUSES.backoff(self._attempt - 1) if self._attempt > 1 else 0


def _cancel(events: object) -> None:
    """End the call whose events these are; one that has ended stays as it is."""
    with suppress(AttributeError):
        cast("Any", events).cancel()
