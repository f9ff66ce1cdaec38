"""What workflows tell of their progress, taken to the log of the run wherever it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, Protocol

import orjson
from protobuf import Oneof
from protobuf.wkt import Value

from gateway.executions.stored import has_ended, read_stored
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionChunk
from gateway.gen.n8ngateway.v1.internal_service_pb import ReportProgressRequest
from gateway.rpc.errors import FailedPrecondition, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.adapters.n8n import Redactor
    from gateway.adapters.redis.event_streams import Progress
    from gateway.executions.peers import Peers
    from gateway.executions.run import Run
    from gateway.executions.runner import Runner

KIND = "report"
"""What the replica of a run is asked."""
LOOKS = 8
LOOK_SECONDS = 0.1
"""How often, and how long after each other, a run that has just begun is looked for."""


class Streams(Protocol):
    """See `gateway.adapters.redis.event_streams`."""

    async def progress(self, execution_id: str) -> Progress:
        """Who writes a run's stream. Raises Unavailable."""
        ...


class Reports:
    """Takes reports. The replica that has the run alone writes its log, so that sequences stay dense."""

    def __init__(self, database: Database, runner: Runner, streams: Streams, peers: Peers) -> None:
        self._database = database
        self._runner = runner
        self._streams = streams
        self._peers = peers
        peers.answer(KIND, self._take_here)

    async def take(self, execution_id: str, report: ReportProgressRequest) -> int:
        """The sequence of the report's event, or of the newest one when it has no content.

        Raises FailedPrecondition for a run that has ended, Unavailable when its replica cannot be reached.
        """
        for _ in range(LOOKS):
            run = self._runner.runs.get(execution_id)
            if run is not None and run.is_leased:
                return await _take(run, report)
            progress = await self._streams.progress(execution_id)
            if progress.writer and progress.writer != self._runner.replica:
                answer = await self._peers.ask(progress.writer, KIND, execution_id, report.to_binary())
                return int(orjson.loads(answer))
            stored = read_stored(await self._database.call("get_execution", None, p_id=execution_id))
            if has_ended(stored.execution):
                raise _ended()
            await asyncio.sleep(LOOK_SECONDS)
        msg = "The run is not to be found at any replica."
        raise Unavailable(msg, reason="RUNNER_UNREACHABLE", retry_after=1)

    async def _take_here(self, execution_id: str, data: bytes) -> bytes:
        run = self._runner.runs.get(execution_id)
        if run is None or not run.is_leased:
            raise _ended()
        return orjson.dumps(await _take(run, ReportProgressRequest.from_binary(data)))


async def _take(run: Run, report: ReportProgressRequest) -> int:
    await run.redactor.ready()
    event = await _event(report, run.redactor)
    if not run.is_calling:
        raise _ended()
    if not run.redactor.finds(report.n8n_execution_id):
        run.n8n_execution_id = run.n8n_execution_id or report.n8n_execution_id or None
    if report.has_field("units"):
        run.units = max(run.units or 0, report.units)
    if event is not None:
        run.log.append(event, report.to_binary())
    return run.log.last


async def _event(
    report: ReportProgressRequest, redactor: Redactor
) -> Oneof[Literal["chunk"], ExecutionChunk] | None:
    content = report.content
    if content is None:
        return None
    chunk = ExecutionChunk(node_name=redactor.clean_text(report.node_name))
    content_type = redactor.clean_text(report.content_type)
    match content.field:
        case "text":
            chunk.content = Oneof[Literal["text"], str]("text", await redactor.clean_long_text(content.value))
            chunk.content_type = content_type or "text/plain"
        case "json":
            chunk.content = Oneof[Literal["json"], Value]("json", await _clean_value(content.value, redactor))
            chunk.content_type = content_type or "application/json"
        case "data":
            chunk.content = Oneof[Literal["data"], bytes](
                "data", await redactor.clean_long_bytes(content.value)
            )
            chunk.content_type = content_type or "application/octet-stream"
    return Oneof("chunk", chunk)


async def _clean_value(value: Value, redactor: Redactor) -> Value:
    try:
        text = value.to_json()
    except ValueError:
        problem = "holds a number that is none: JSON has no words for it"
        raise InvalidArgument(f"json {problem}.", reason="INVALID_FIELD", fields={"json": problem}) from None
    clean = await redactor.clean_long_text(text)
    try:
        return value if clean == text else Value.from_json(clean)
    except ValueError:  # a secret went beyond one of its strings
        return Value(kind=Oneof[Literal["string_value"], str]("string_value", clean))


def _ended() -> FailedPrecondition:
    return FailedPrecondition("The run has ended.", reason="EXECUTION_ENDED")
