"""ExecutionService: running workflows for credits, and what became of the runs."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import uuid_utils

from gateway.executions.run import Job, Moved, Run
from gateway.executions.stored import error_from, error_of, has_ended
from gateway.executions.watch import Stored
from gateway.gen.n8ngateway.v1.execution_pb import Execution, ExecutionState
from gateway.gen.n8ngateway.v1.execution_service_pb import (
    ExecuteRequest,
    ExecuteResponse,
    ExecuteStreamRequest,
    GetExecutionRequest,
    GetExecutionResponse,
    WatchExecutionRequest,
)
from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.rpc.errors import InvalidArgument
from gateway.rpc.status import DETAIL_TYPES
from gateway.services.execution_request import (
    agreed_credits,
    fingerprint_of,
    idempotency_key_of,
    payload_of,
)
from gateway.services.organization_of import organization_of

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.executions.runner import Runner
    from gateway.executions.watch import Watcher
    from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent
    from gateway.rpc.call import Call
    from gateway.services.execution_request import Request

LAST_EVENT_HEADER = "last-event-id"

_SEQUENCE = re.compile("[0-9]{1,9}")


class ExecutionService:
    """Begins runs on the caller's account and reads them out to it."""

    def __init__(self, database: Database, runner: Runner, watcher: Watcher) -> None:
        self._database = database
        self._runner = runner
        self._watcher = watcher

    async def execute(self, request: ExecuteRequest, call: Call) -> ExecuteResponse:
        """Run a workflow to its end. Raises the RpcError that failed it, naming the execution."""
        begun = await self._begin(request, call)
        if isinstance(begun, Run):
            try:
                outcome, settlement = await begun.ended()
            except Moved:
                return _response(await self._followed(begun.job.execution_id, call))
            return ExecuteResponse(
                success=True,
                execution_id=begun.job.execution_id,
                status=outcome.state.name.lower(),
                data=outcome.output.value(),
                data_truncated=outcome.output.truncated,
                credits_used=settlement.credits_used,
                credits_remaining=settlement.credits_remaining,
                execution_time_ms=outcome.duration_ms,
            )
        return _response(begun)

    async def execute_stream(
        self, request: ExecuteStreamRequest, call: Call
    ) -> AsyncIterator[ExecutionEvent]:
        """Run a workflow and read its events out. A failed run ends with `failed`, then with its RpcError."""
        begun = await self._begin(request, call)
        execution_id = begun.job.execution_id if isinstance(begun, Run) else begun.execution.id
        status = None
        async with aclosing(self._events(execution_id, 0, call)) as events:
            async for event in events:
                yield event
                if event.event is not None and event.event.field == "failed":
                    status = event.event.value.status
        if isinstance(begun, Run) and not begun.log.is_abandoned:
            begun.settled()
        elif status is not None:
            raise error_from(status)

    async def get_execution(self, request: GetExecutionRequest, call: Call) -> GetExecutionResponse:
        """One execution, with how far it has come if it runs here."""
        execution = (await self._stored(request.id, call)).execution
        run = self._runner.runs.get(execution.id)
        if run is not None and not has_ended(execution):
            execution.last_sequence = run.log.last
            execution.n8n_execution_id = run.n8n_execution_id or ""
        return GetExecutionResponse(execution=execution)

    async def watch_execution(
        self, request: WatchExecutionRequest, call: Call
    ) -> AsyncIterator[ExecutionEvent]:
        """A run's events after a sequence to its end, whichever replica it runs on."""
        after = _after(request, call)
        stored = await self._stored(request.execution_id, call)  # raises for who may not see it
        async with aclosing(self._events(request.execution_id, after, call, stored)) as events:
            async for event in events:
                yield event

    def _events(
        self, execution_id: str, after: int, call: Call, stored: Stored | None = None
    ) -> AsyncGenerator[ExecutionEvent, None]:
        look = partial(self._stored, execution_id, call)
        return self._watcher.watch(execution_id, after, look, stored)

    async def _stored(self, execution_id: str, call: Call) -> Stored:
        return _stored(
            orjson.loads(await self._database.call("get_execution", call.caller, p_id=execution_id))
        )

    async def _begin(self, request: Request, call: Call) -> Run | Stored:
        execution_id = str(uuid_utils.uuid7())
        return await self._runner.begin(execution_id, lambda: self._charge(execution_id, request, call))

    async def _charge(self, execution_id: str, request: Request, call: Call) -> Run | Stored:
        payload = payload_of(request)
        text = await self._database.call(
            "begin_execution",
            call.caller,
            p_execution_id=execution_id,
            p_organization_id=organization_of(request.organization_id, call),
            p_workflow_id=request.workflow_id or None,
            p_credits=agreed_credits(request),
            p_idempotency_key=idempotency_key_of(request, call),
            p_request_hash=fingerprint_of(request, payload),
            p_metadata=request.metadata,
        )
        begun: dict[str, Any] = orjson.loads(text)
        if begun.get("replayed"):
            return _stored(begun["execution"], begun["credits_remaining"])
        return self._runner.start(
            Job(
                execution_id=execution_id,
                workflow=Workflow.from_json(orjson.dumps(begun["workflow"]), ignore_unknown_fields=True),
                credits_reserved=begun["credits"],
                payload=payload,
                traceparent=call.traceparent,
                organization_id=begun["organization_id"],
            )
        )

    async def _followed(self, execution_id: str, call: Call) -> Stored:
        """What is stored of a run, once it has ended."""
        async with aclosing(self._events(execution_id, 0, call)) as events:
            async for _ in events:
                pass
        return await self._stored(execution_id, call)


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


def _stored(fields: dict[str, Any], credits_remaining: int | None = None) -> Stored:
    # SQL says null for what is not there, which a field that holds any JSON would take for a value.
    known = {name: value for name, value in fields.items() if value is not None}
    remaining = known.pop("credits_remaining", 0) if credits_remaining is None else credits_remaining
    return Stored(
        Execution.from_json(orjson.dumps(known), ignore_unknown_fields=True, registry=DETAIL_TYPES), remaining
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
