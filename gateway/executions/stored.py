"""What is stored of a run that has ended, told as its events and as its error would tell it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import orjson
from protobuf import Oneof
from protobuf.wkt import Value

from gateway.gen.n8ngateway.v1.execution_event_pb import (
    ExecutionChunk,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
)
from gateway.gen.n8ngateway.v1.execution_pb import Execution, ExecutionState
from gateway.rpc.errors import BY_CODE, Code, OutOfRange, RpcError
from gateway.rpc.stored_json import message_of
from gateway.transcoding.gen.google.rpc.error_details_pb import ErrorInfo, RetryInfo
from gateway.transcoding.gen.google.rpc.status_pb import Status

if TYPE_CHECKING:
    from gateway.executions.event import Told

_Detail = TypeVar("_Detail", ErrorInfo, RetryInfo)


@dataclass(frozen=True, slots=True)
class Stored:
    """A run as the database has it."""

    execution: Execution
    credits_remaining: int


def read_stored(text: str | bytes) -> Stored:
    """What get_execution answers."""
    return stored_from(orjson.loads(text))


def stored_from(fields: dict[str, Any], credits_remaining: int | None = None) -> Stored:
    """A run from its JSON in SQL, which says null for what is not there."""
    known = {name: value for name, value in fields.items() if value is not None}
    remaining = known.pop("credits_remaining", 0) if credits_remaining is None else credits_remaining
    execution = message_of(known, Execution)
    return Stored(execution, remaining)


_BARE_LAST = 2
"""The last sequence of a run without output: `started`, and its end."""

UNDER_WAY = frozenset({ExecutionState.PENDING, ExecutionState.RUNNING})


def has_ended(execution: Execution) -> bool:
    """Whether the run has reached a final state."""
    return execution.state not in UNDER_WAY


def outcome_events(execution: Execution, credits_remaining: int, after: int) -> Iterator[ExecutionEvent]:
    """The events above `after` of a run whose event log is gone: its result in one chunk, then its end.

    They have the last sequences of the run. A reader that has had a part of the output would get it
    twice, and one that lacks a part and asks for the rest would miss it: it is told EVENTS_EXPIRED
    (OutOfRange), and can read the result by GetExecution. Only the end is as good as ever.
    """
    last = execution.last_sequence
    if after > last:
        raise beyond(last)
    if not tells_all_after(execution, after):
        msg = (
            "The events of this run are no longer kept: read its outcome with GetExecution, or watch from 0."
        )
        raise OutOfRange(msg, reason="EVENTS_EXPIRED", metadata={"last_sequence": str(last)})
    if after < last - 1 and execution.result is not None:
        content = Oneof[Literal["json"], Value]("json", execution.result)
        chunk = ExecutionChunk(content_type="application/json", content=content)
        yield _event(execution, last - 1, Oneof[Literal["chunk"], ExecutionChunk]("chunk", chunk))
    if after < last:
        yield end_event(execution, credits_remaining, last)


def tells_all_after(execution: Execution, after: int) -> bool:
    """Whether a reader who has had the events up to this one misses none by `outcome_events`."""
    return after <= 1 or after >= execution.last_sequence - 1


def tells_as_much(execution: Execution, after: int) -> bool:
    """Whether `outcome_events` tell this reader as much as the run's events do, so that Redis may be away."""
    last = execution.last_sequence
    if not last or not tells_all_after(execution, after):
        return False
    is_whole = execution.state is ExecutionState.COMPLETED and not execution.result_truncated
    return is_whole or after >= last - 1 or last == _BARE_LAST


def end_event(execution: Execution, credits_remaining: int, sequence: int) -> ExecutionEvent:
    """The last event of the run."""
    return _event(execution, sequence, _end_of(execution, credits_remaining))


def _end_of(execution: Execution, credits_remaining: int) -> Told:
    if execution.state is ExecutionState.COMPLETED:
        completed = ExecutionCompleted(
            credits_used=execution.credits_used,
            credits_remaining=credits_remaining,
            execution_time_ms=execution.execution_time_ms,
        )
        return Oneof[Literal["completed"], ExecutionCompleted]("completed", completed)
    failed = ExecutionFailed(
        status=execution.error or Status(code=Code.UNKNOWN, message=_UNTOLD),
        credits_used=execution.credits_used,
        credits_remaining=credits_remaining,
        execution_time_ms=execution.execution_time_ms,
        state=execution.state,
    )
    return Oneof[Literal["failed"], ExecutionFailed]("failed", failed)


def beyond(last: int) -> OutOfRange:
    """Tells a reader that it has seen more than there is."""
    problem = f"is beyond the run's newest event, which is {last}"
    return OutOfRange(
        f"after_sequence {problem}.", reason="SEQUENCE_BEYOND_END", fields={"after_sequence": problem}
    )


def error_of(execution: Execution) -> RpcError:
    """The error that failed the run, as it was answered then."""
    if execution.error is None:
        metadata = {"execution_id": execution.id}
        return BY_CODE[Code.UNKNOWN](_UNTOLD, reason="WORKFLOW_FAILED", metadata=metadata)
    return error_from(execution.error)


def is_lost(execution: Execution) -> bool:
    """Whether its replica has gone while it was under way, with what of it was not published."""
    info = None if execution.error is None else _detail(execution.error, ErrorInfo)
    return info is not None and info.reason == "OUTCOME_UNKNOWN"


def may_come_again(execution: Execution) -> bool:
    """Whether it failed for a reason that passes, and its caller was told to come back.

    Nobody is told so of a run that may have been sent, unless its workflow may be sent a run twice.
    """
    failed, error = execution.state is ExecutionState.FAILED, execution.error
    return failed and error is not None and _detail(error, RetryInfo) is not None


def error_from(status: Status) -> RpcError:
    """The error that a google.rpc.Status tells of."""
    info = _detail(status, ErrorInfo) or ErrorInfo()
    delay = (_detail(status, RetryInfo) or RetryInfo()).retry_delay
    return BY_CODE[Code(status.code)](
        status.message,
        reason=info.reason or None,
        metadata=info.metadata,
        retry_after=None if delay is None else delay.to_nanos() / 1e9,
    )


def _detail(status: Status, kind: type[_Detail]) -> _Detail | None:
    return next((found for detail in status.details if (found := detail.unpack(kind)) is not None), None)


_UNTOLD = "The run did not succeed."


def _event(execution: Execution, sequence: int, event: Told) -> ExecutionEvent:
    return ExecutionEvent(
        execution_id=execution.id, sequence=sequence, time=execution.finished_at, event=event
    )
