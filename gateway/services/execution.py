"""ExecutionService: running workflows for credits."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import orjson
import uuid_utils
from protobuf import Oneof
from protobuf.wkt import Struct, Value

from gateway.executions.runner import Job
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionChunk, ExecutionCompleted, ExecutionEvent
from gateway.gen.n8ngateway.v1.execution_pb import Execution, ExecutionState
from gateway.gen.n8ngateway.v1.execution_service_pb import (
    ExecuteRequest,
    ExecuteResponse,
    ExecuteStreamRequest,
)
from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.rpc.errors import BY_CODE, Code, InvalidArgument, RpcError
from gateway.services.organization_of import organization_of
from gateway.transcoding import Options, json_encoder
from gateway.transcoding.gen.google.rpc.error_details_pb import ErrorInfo

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.executions.runner import Run, Runner
    from gateway.rpc.call import Call

    Request = ExecuteRequest | ExecuteStreamRequest

IDEMPOTENCY_HEADER = "idempotency-key"
LONGEST_IDEMPOTENCY_KEY = 255

_encode_struct = json_encoder(Struct.desc(), Options())


@dataclass(frozen=True, slots=True)
class _Replay:
    """The outcome of an earlier request with the same idempotency key."""

    execution: Execution
    credits_remaining: int


class ExecutionService:
    """Begins runs on the caller's account and reads them out to it."""

    def __init__(self, database: Database, runner: Runner) -> None:
        self._database = database
        self._runner = runner

    async def execute(self, request: ExecuteRequest, call: Call) -> ExecuteResponse:
        """Run a workflow to its end. Raises the RpcError that failed it, naming the execution."""
        begun = await self._begin(request, call)
        if isinstance(begun, _Replay):
            return _replayed(begun)
        outcome, settlement = await begun.ended()
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

    async def execute_stream(
        self, request: ExecuteStreamRequest, call: Call
    ) -> AsyncIterator[ExecutionEvent]:
        """Run a workflow and read its events out. A failed run ends with `failed`, then with its RpcError."""
        begun = await self._begin(request, call)
        events = _replayed_events(begun) if isinstance(begun, _Replay) else begun.events()
        async with aclosing(events):
            async for event in events:
                yield event

    async def _begin(self, request: Request, call: Call) -> Run | _Replay:
        execution_id = str(uuid_utils.uuid7())
        return await self._runner.begin(execution_id, lambda: self._charge(execution_id, request, call))

    async def _charge(self, execution_id: str, request: Request, call: Call) -> Run | _Replay:
        payload = _payload(request)
        text = await self._database.call(
            "begin_execution",
            call.caller,
            p_execution_id=execution_id,
            p_organization_id=organization_of(request.organization_id, call),
            p_workflow_id=request.workflow_id or None,
            p_credits=request.credits if request.has_field("credits") else None,
            p_idempotency_key=_idempotency_key(request, call),
            p_request_hash=_fingerprint(request, payload),
            p_metadata=request.metadata,
        )
        begun: dict[str, Any] = orjson.loads(text)
        if begun.get("replayed"):
            # SQL says null for what is not there, which a field that holds any JSON would take for a value.
            fields = {name: value for name, value in begun["execution"].items() if value is not None}
            return _Replay(
                Execution.from_json(orjson.dumps(fields), ignore_unknown_fields=True),
                begun["credits_remaining"],
            )
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


def _payload(request: Request) -> bytes:
    """The JSON that n8n gets. Raises InvalidArgument for a struct that JSON has no words for."""
    field = "payload" if request.payload is not None else "data"
    try:
        return _encode_struct(request.data or request.payload or Struct())
    except ValueError:
        problem = "holds a number that is none, or a value of no kind: JSON has no words for it"
        raise InvalidArgument(
            f"{field} {problem}.", reason="INVALID_FIELD", fields={field: problem}
        ) from None


def _idempotency_key(request: Request, call: Call) -> str | None:
    header = call.metadata.get(IDEMPOTENCY_HEADER, "")
    if request.idempotency_key and header and request.idempotency_key != header:
        problem = "differs from the header Idempotency-Key"
    elif len(header) > LONGEST_IDEMPOTENCY_KEY or not (header.isascii() and header.isprintable()):
        problem = f"has at most {LONGEST_IDEMPOTENCY_KEY} printable ASCII characters"
    else:
        return request.idempotency_key or header or None
    raise InvalidArgument(
        f"idempotency_key {problem}.",
        reason="INVALID_FIELD",
        fields={"idempotency_key": problem},
    )


def _fingerprint(request: Request, payload: bytes) -> str:
    """What makes two requests the same one, whichever door they came through."""
    agreed = request.credits if request.has_field("credits") else None
    rest = [request.organization_id, request.workflow_id, agreed, request.metadata]
    canonical = orjson.dumps([orjson.loads(payload), *rest], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()


def _replayed(replay: _Replay) -> ExecuteResponse:
    execution = replay.execution
    if execution.state is not ExecutionState.COMPLETED:
        raise _stored_error(execution)
    return ExecuteResponse(
        success=True,
        execution_id=execution.id,
        status=execution.state.name.lower(),
        data=execution.result,
        data_truncated=execution.result_truncated,
        credits_used=execution.credits_used,
        credits_remaining=replay.credits_remaining,
        execution_time_ms=execution.execution_time_ms,
    )


async def _replayed_events(replay: _Replay) -> AsyncGenerator[ExecutionEvent, None]:
    """The stored outcome as a stream: its result in one chunk, then its end."""
    execution = replay.execution
    if execution.state is not ExecutionState.COMPLETED:
        raise _stored_error(execution)
    if execution.result is not None:
        content = Oneof[Literal["json"], Value]("json", execution.result)
        chunk = ExecutionChunk(content_type="application/json", content=content)
        yield _event(execution, 1, Oneof("chunk", chunk))
    completed = ExecutionCompleted(
        credits_used=execution.credits_used,
        credits_remaining=replay.credits_remaining,
        execution_time_ms=execution.execution_time_ms,
    )
    yield _event(execution, 1 if execution.result is None else 2, Oneof("completed", completed))


def _event(execution: Execution, sequence: int, event: Any) -> ExecutionEvent:
    return ExecutionEvent(
        execution_id=execution.id, sequence=sequence, time=execution.finished_at, event=event
    )


def _stored_error(execution: Execution) -> RpcError:
    """The error that failed the execution, as it was answered then."""
    stored = execution.error
    if stored is None:
        msg = "The earlier request with this idempotency key did not succeed."
        return BY_CODE[Code.UNKNOWN](msg, reason="WORKFLOW_FAILED", metadata={"execution_id": execution.id})
    info = next((i for i in (d.unpack(ErrorInfo) for d in stored.details) if i is not None), ErrorInfo())
    return BY_CODE[Code(stored.code)](stored.message, reason=info.reason or None, metadata=info.metadata)
