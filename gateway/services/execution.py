"""ExecutionService: running workflows for credits, and what became of the runs."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import orjson
import uuid_utils
from protobuf import message_to_json_value

from gateway.adapters.redis.event_streams import is_end
from gateway.executions.lease_clock import lease_clock
from gateway.executions.run import Job, Moved, Run
from gateway.executions.stored import (
    Stored,
    error_from,
    error_of,
    has_ended,
    may_come_again,
    read_stored,
    stored_from,
)
from gateway.gen.n8ngateway.v1.execution_pb import Execution, ExecutionState
from gateway.gen.n8ngateway.v1.execution_service_pb import (
    CancelExecutionRequest,
    CancelExecutionResponse,
    ExecuteRequest,
    ExecuteResponse,
    ExecuteStreamRequest,
    GetExecutionRequest,
    GetExecutionResponse,
    ListExecutionsRequest,
    ListExecutionsResponse,
    StartExecutionRequest,
    StartExecutionResponse,
    WatchExecutionRequest,
)
from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.rpc.errors import InvalidArgument, RpcError, Unavailable
from gateway.rpc.stored_json import read_message
from gateway.services.execution_request import (
    agreed_credits,
    fingerprint_of,
    idempotency_key_of,
    payload_of,
)
from gateway.services.organization_of import organization_of
from gateway.services.pages import list_page

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.executions.cancel import Cancellations
    from gateway.executions.dispatcher import Dispatcher
    from gateway.executions.event import Event
    from gateway.executions.runner import Runner
    from gateway.executions.watch import Watcher
    from gateway.rpc.call import Call
    from gateway.services.execution_request import Request

LAST_EVENT_HEADER = "last-event-id"

_SEQUENCE = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A run that waits for its turn, or that an earlier call with the same idempotency key has begun."""

    execution_id: str


Begun = Run | _UnderWay | Stored


class ExecutionService:
    """Begins runs on the caller's account and reads them out to it."""

    def __init__(
        self,
        database: Database,
        runner: Runner,
        dispatcher: Dispatcher,
        watcher: Watcher,
        cancellations: Cancellations,
    ) -> None:
        self._database = database
        self._runner = runner
        self._dispatcher = dispatcher
        self._watcher = watcher
        self._cancellations = cancellations

    async def execute(self, request: ExecuteRequest, call: Call) -> ExecuteResponse:
        """Run a workflow to its end. Raises the RpcError that failed it, naming the execution."""
        begun = await self._begin(request, call)
        if isinstance(begun, Stored):
            return _response(begun)
        run = begun if isinstance(begun, Run) else self._runner.runs.get(begun.execution_id)
        if run is not None:
            try:
                return await _result(run)
            except Moved:
                pass
        execution_id = _id_of(begun)
        look = partial(self._stored, execution_id, call)
        return _response(await self._watcher.end(execution_id, look))

    async def execute_stream(
        self, request: ExecuteStreamRequest, call: Call
    ) -> AsyncIterator[Sequence[Event]]:
        """Run a workflow and read its events out. A failed run ends with `failed`, then with its RpcError."""
        begun = await self._begin(request, call)
        end = None
        waits = not isinstance(begun, Run)
        async with aclosing(self._events(_id_of(begun), 0, call, announced=waits)) as batches:
            async for events in batches:
                yield events
                if events and is_end(events[-1]):
                    end = events[-1].event
        if isinstance(begun, Run) and not begun.log.is_abandoned:
            begun.settled()
        elif end is None:
            raise _untold((await self._stored(_id_of(begun), call)).execution)
        elif end.field == "failed" and end.value.status is not None:
            raise error_from(end.value.status)

    async def start_execution(self, request: StartExecutionRequest, call: Call) -> StartExecutionResponse:
        """Queue a run. The answer does not wait for it."""
        await self._dispatcher.check()
        begun = await self._begin(request, call, queue=True)
        stored = begun if isinstance(begun, Stored) else await self._stored(_id_of(begun), call)
        return StartExecutionResponse(execution=stored.execution)

    async def get_execution(self, request: GetExecutionRequest, call: Call) -> GetExecutionResponse:
        """One execution, with how far it has come if it is under way."""
        execution = (await self._stored(request.id, call)).execution
        if not has_ended(execution):
            run = self._runner.runs.get(execution.id)
            if run is not None:
                execution.n8n_execution_id = run.n8n_execution_id or ""
            execution.last_sequence = await self._watcher.newest(execution.id)
        return GetExecutionResponse(execution=execution)

    async def list_executions(self, request: ListExecutionsRequest, call: Call) -> ListExecutionsResponse:
        """One organization's executions, newest first."""
        organization_id = organization_of(request.organization_id, call)
        narrowed = _filter(request)
        of_list = f"executions of {organization_id} {orjson.dumps(narrowed).decode()}"
        query = partial(
            self._database.call,
            "list_executions",
            call.caller,
            p_organization_id=organization_id,
            p_filter=narrowed,
        )
        return await list_page(query, request, ListExecutionsResponse, of_list)

    async def cancel_execution(self, request: CancelExecutionRequest, call: Call) -> CancelExecutionResponse:
        """End a run, in n8n too if that can be."""
        look = partial(self._stored, request.id, call)
        cancelled = await self._cancellations.cancel(request.id, call.caller, look)
        return CancelExecutionResponse(
            execution=cancelled.stored.execution, n8n_stopped=cancelled.n8n_stopped
        )

    async def watch_execution(
        self, request: WatchExecutionRequest, call: Call
    ) -> AsyncIterator[Sequence[Event]]:
        """A run's events after a sequence to its end, whichever replica it runs on."""
        after = _after(request, call)
        stored = await self._stored(request.execution_id, call)  # raises for who may not see it
        call.organization_id = stored.execution.organization_id
        told = self._events(request.execution_id, after, call, stored, announced=True)
        async with aclosing(told) as batches:
            async for events in batches:
                yield events

    def _events(
        self,
        execution_id: str,
        after: int,
        call: Call,
        stored: Stored | None = None,
        *,
        announced: bool,
    ) -> AsyncGenerator[Sequence[Event], None]:
        look = partial(self._stored, execution_id, call)
        return self._watcher.watch(execution_id, after, look, stored, announced=announced)

    async def _stored(self, execution_id: str, call: Call) -> Stored:
        return read_stored(await self._database.call("get_execution", call.caller, p_id=execution_id))

    async def _begin(self, request: Request, call: Call, *, queue: bool = False) -> Begun:
        execution_id = str(uuid_utils.uuid7())
        return await self._runner.begin(
            execution_id, lambda: self._charge(execution_id, request, call, queue=queue)
        )

    async def _charge(self, execution_id: str, request: Request, call: Call, *, queue: bool) -> Begun:
        payload = payload_of(request)
        leased_at = lease_clock()  # before it is: this process may stand still until the answer is read
        begun = await self._begun(execution_id, request, payload, call, queue=queue)
        known = _known(begun)
        if isinstance(known, Stored) and may_come_again(known.execution):
            await self._database.call("release_idempotency_key", None, p_execution_id=known.execution.id)
            begun = await self._begun(execution_id, request, payload, call, queue=queue)
            known = _known(begun)
        if known is not None:
            return known
        job = Job(
            execution_id=execution_id,
            workflow=_workflow(orjson.dumps(begun["workflow"])),
            credits_reserved=begun["credits"],
            payload=payload,
            traceparent=call.traceparent,
            organization_id=begun["organization_id"],
        )
        if begun["state"] == "EXECUTION_STATE_RUNNING":
            run = self._runner.prepared(job, leased_at=leased_at)
            self._dispatcher.keep(run)
            return run
        await self._dispatcher.store(job)
        await self._dispatcher.enqueue(execution_id)
        return _UnderWay(execution_id)

    async def _begun(
        self, execution_id: str, request: Request, payload: bytes, call: Call, *, queue: bool
    ) -> dict[str, Any]:
        key = idempotency_key_of(request, call)
        text = await self._database.call(
            "begin_execution",
            call.caller,
            p_execution_id=execution_id,
            p_organization_id=organization_of(request.organization_id, call),
            p_workflow_id=request.workflow_id or None,
            p_credits=agreed_credits(request),
            p_idempotency_key=key,
            p_request_hash=key and fingerprint_of(request, payload),
            p_metadata=request.metadata,
            p_runner=self._runner.replica,
            p_lease_seconds=self._runner.lease_seconds,
            p_queue=queue,
        )
        begun: dict[str, Any] = orjson.loads(text)
        call.organization_id = begun["organization_id"]
        return begun


def _known(begun: dict[str, Any]) -> _UnderWay | Stored | None:
    """The run that an earlier call with the same idempotency key began; None when it has begun one now."""
    if not begun["replayed"]:
        return None
    if begun["in_progress"]:
        return _UnderWay(begun["execution_id"])
    return stored_from(begun["execution"], begun["credits_remaining"])


@lru_cache(1024)
def _workflow(text: bytes) -> Workflow:
    """The workflow of a run, to be read only: runs of one workflow share it."""
    return read_message(text, Workflow)


def _id_of(begun: Begun) -> str:
    if isinstance(begun, Run):
        return begun.job.execution_id
    return begun.execution_id if isinstance(begun, _UnderWay) else begun.execution.id


def _after(request: WatchExecutionRequest, call: Call) -> int:
    """The sequence to go on after, from the message or from Last-Event-ID."""
    header = call.metadata.get(LAST_EVENT_HEADER, "").strip()
    if header and not _SEQUENCE.fullmatch(header):
        problem = "is not the id of an event of this stream"
        raise InvalidArgument(
            f"Last-Event-ID {problem}.", reason="INVALID_FIELD", fields={"after_sequence": problem}
        )
    # A browser that reconnects adds the header to the address that it began with, which stays the same.
    return max(request.after_sequence, int(header or 0))


def _filter(request: ListExecutionsRequest) -> dict[str, Any]:
    """What narrows a list, as SQL takes it."""
    narrowed: dict[str, Any] = {}
    if request.workflow_id:
        narrowed["workflow_id"] = request.workflow_id
    if request.states:
        narrowed["states"] = [f"EXECUTION_STATE_{state.name}" for state in request.states]
    if request.start_time is not None:
        narrowed["start_time"] = message_to_json_value(request.start_time)
    if request.end_time is not None:
        narrowed["end_time"] = message_to_json_value(request.end_time)
    if request.metadata:
        narrowed["metadata"] = _labels(request.metadata)
    return narrowed


def _labels(metadata: Sequence[str]) -> dict[str, str]:
    labels = dict(label.split("=", 1) for label in metadata)
    if len(labels) < len(metadata):
        problem = "has two values for one name: no run has both"
        raise InvalidArgument(f"metadata {problem}.", reason="INVALID_FIELD", fields={"metadata": problem})
    return labels


async def _result(run: Run) -> ExecuteResponse:
    outcome, settlement = await run.ended()
    return ExecuteResponse(
        success=True,
        execution_id=run.job.execution_id,
        status=outcome.state.name.lower(),
        data=outcome.output.value(),
        data_truncated=outcome.output.truncated,
        credits_used=settlement.credits_used,
        credits_remaining=settlement.credits_remaining,
        execution_time_ms=outcome.duration_ms,
    )


def _response(stored: Stored) -> ExecuteResponse:
    execution = stored.execution
    if execution.state is not ExecutionState.COMPLETED:
        raise error_of(execution)
    return ExecuteResponse(
        success=True,
        execution_id=execution.id,
        status=execution.state.name.lower(),
        data=execution.result,
        data_truncated=execution.result_truncated,
        credits_used=execution.credits_used,
        credits_remaining=stored.credits_remaining,
        execution_time_ms=execution.execution_time_ms,
    )


def _untold(execution: Execution) -> RpcError:
    """What a run's stream ends with that has not told its end: nobody is to take it for whole."""
    if has_ended(execution) and execution.state is not ExecutionState.COMPLETED:
        return error_of(execution)
    msg = "The end of the run was not told: read its outcome with GetExecution."
    return Unavailable(msg, reason="END_UNTOLD", metadata={"execution_id": execution.id})
