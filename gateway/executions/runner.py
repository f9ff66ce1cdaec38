"""Runs belong to the gateway, not to the request that began them.

A run calls n8n, appends what it hears to its event log, and settles the credits.
Execute, ExecuteStream and Watch only read that log, so a caller that goes away
loses nothing.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import structlog
from protobuf import Oneof

from gateway.adapters.n8n import Timeouts
from gateway.adapters.n8n.body import NodeError
from gateway.executions.credentials import grant
from gateway.executions.log import EventLog
from gateway.executions.output import Output, event_of
from gateway.executions.settlement import Outcome, Settlement, settle
from gateway.executions.token import HEADER as TOKEN_HEADER
from gateway.gen.n8ngateway.v1.execution_event_pb import (
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionStarted,
)
from gateway.rpc.errors import Internal, NotFound, RpcError, Unavailable, Unknown
from gateway.rpc.status import status_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager

    from gateway.adapters.database import Database
    from gateway.adapters.n8n import N8n
    from gateway.adapters.n8n.body import Piece
    from gateway.executions.credentials import Credentials
    from gateway.executions.token import ExecutionTokens
    from gateway.gen.n8ngateway.v1.workflow_pb import Workflow

    N8nFor = Callable[[str], AbstractAsyncContextManager[N8n]]
    """The n8n of an organization, for as long as the context is not left."""

log = structlog.get_logger("gateway.executions")

GIVE_BACK_SECONDS = 0.5
"""Between two attempts to settle what nobody knows to have begun."""

T = TypeVar("T")

RESULT_LIMIT = 16 << 20
SETTLE_SECONDS = 5.0
"""How long the settlements of runs that were cut off may take, before the gateway stops without them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may take where its workflow does not say, in seconds.

    In all, between two bytes, to connect; and how long after the database broke off
    it may still begin what it was asked to.
    """

    total: float = 300.0
    idle: float = 60.0
    connect: float = 5.0
    begin: float = 20.0


@dataclass(frozen=True, slots=True)
class Job:
    """A begun execution: what is to be sent to n8n, and on whose account."""

    execution_id: str
    workflow: Workflow
    credits_reserved: int
    payload: bytes
    traceparent: str
    organization_id: str = ""


class Run:
    """A run under way or just ended."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.log = EventLog(job.execution_id)
        self.outcome: Outcome | None = None
        self.settlement: Settlement | None = None
        self.broken: RpcError | None = None

    async def events(self) -> AsyncGenerator[ExecutionEvent, None]:
        """Everything that the run puts out, from its beginning, as it comes.

        A failed run's `failed` event is followed by the RpcError that failed it.
        """
        async with aclosing(self.log.read()) as events:
            async for event in events:
                yield event
        self._settled()

    async def ended(self) -> tuple[Outcome, Settlement]:
        """Wait for the end. Raises the RpcError that failed the run."""
        await self.log.closed()
        return self._settled()

    def _settled(self) -> tuple[Outcome, Settlement]:
        if self.broken is not None:
            raise self.broken
        if self.outcome is None or self.settlement is None:
            msg = "The gateway stopped before the run was settled."
            metadata = {"execution_id": self.job.execution_id}
            raise Unavailable(msg, reason="SHUTTING_DOWN", retry_after=1, metadata=metadata)
        if self.outcome.error is not None:
            raise self.outcome.error
        return self.outcome, self.settlement


class Runner:
    """Starts runs and sees them through to their settlement."""

    def __init__(
        self,
        database: Database,
        n8n_for: N8nFor,
        limits: Limits,
        credentials: Credentials,
        tokens: ExecutionTokens,
    ) -> None:
        self._database = database
        self._n8n_for = n8n_for
        self._limits = limits
        self._credentials = credentials
        self._tokens = tokens
        self._tasks: set[asyncio.Task[Any]] = set()
        self._to_cut: set[asyncio.Task[Any]] = set()

    async def begin(self, execution_id: str, begin: Callable[[], Awaitable[T]]) -> T:
        """Let `begin` charge for an execution and start it, whatever becomes of the caller meanwhile.

        When the database breaks off, nobody knows whether it has charged: the execution
        is then settled as failed, which gives back what was taken and else does nothing.
        """
        return await asyncio.shield(self._spawn(self._begin(execution_id, begin)))

    def start(self, job: Job) -> Run:
        """Run it in the background, whatever becomes of the caller."""
        run = Run(job)
        self._spawn(self._see_through(run))
        return run

    async def drain(self, grace: float) -> None:
        """Let the runs end for `grace` seconds; then cut off those that are left, as failed.

        What then remains to be settled has SETTLE_SECONDS more: the database may be away.
        """
        await self._ended_within(grace)
        # One turn of the loop, so that what has just been started can be cut off.
        await asyncio.sleep(0)
        if self._to_cut:
            log.warning("runs cut off", count=len(self._to_cut))
        for task in self._to_cut:
            task.cancel()
        await self._ended_within(SETTLE_SECONDS)
        if self._tasks:
            log.error("runs left unsettled", count=len(self._tasks))
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _ended_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        over = loop.time() + seconds
        while self._tasks and loop.time() < over:
            await asyncio.wait(self._tasks, timeout=over - loop.time())

    @contextmanager
    def _may_be_cut(self) -> Iterator[None]:
        """Mark the running task as one that waits for others, and not for its own settlement."""
        task = asyncio.current_task()
        if task is None:
            msg = "outside of a task"
            raise RuntimeError(msg)
        self._to_cut.add(task)
        try:
            yield
        finally:
            self._to_cut.discard(task)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, even where the caller that waited for it has gone

    async def _begin(self, execution_id: str, begin: Callable[[], Awaitable[T]]) -> T:
        try:
            with self._may_be_cut():
                return await begin()
        except Unavailable as error:
            self._spawn(self._give_back(execution_id, error))
            raise
        except RpcError:
            raise  # refused: nothing was charged
        except BaseException:
            self._spawn(self._give_back(execution_id, _stopped()))
            raise

    async def _give_back(self, execution_id: str, error: RpcError) -> None:
        """Settle what may have been begun, for as long as the database may still be about to begin it."""
        over = asyncio.get_running_loop().time() + self._limits.begin
        try:
            while True:
                try:
                    await settle(self._database, execution_id, Outcome(Output(0), error))
                except NotFound:
                    if asyncio.get_running_loop().time() >= over:
                        return
                    await asyncio.sleep(GIVE_BACK_SECONDS)
                else:
                    return
        except Exception:
            log.exception("run not settled", execution_id=execution_id)

    async def _see_through(self, run: Run) -> None:
        try:
            with self._may_be_cut():
                run.outcome = outcome = await self._outcome(run)
            run.settlement = settlement = await settle(self._database, run.job.execution_id, outcome)
            run.log.append(
                _completed(outcome, settlement)
                if outcome.error is None
                else _failed(outcome.error, outcome, settlement)
            )
        except Exception:
            execution_id = run.job.execution_id
            log.exception("run not settled", execution_id=execution_id)
            msg = "Something went wrong in the gateway after the run had ended."
            run.broken = Internal(msg, metadata={"execution_id": execution_id})
        finally:
            run.log.close()

    async def _outcome(self, run: Run) -> Outcome:
        started = time.monotonic()
        output = Output(RESULT_LIMIT)
        outcome = Outcome(output)
        run.log.append(_started(run.job))
        try:
            await self._call(run, outcome)
        except RpcError as error:
            outcome.error = error
        except asyncio.CancelledError:
            outcome.error = _stopped()
        except Exception:
            log.exception("run broke", execution_id=run.job.execution_id)
            outcome.error = Internal("Something went wrong in the gateway while it ran the workflow.")
        if outcome.error is not None:
            outcome.error.metadata.setdefault("execution_id", run.job.execution_id)
        outcome.duration_ms = round((time.monotonic() - started) * 1000)
        return outcome

    async def _call(self, run: Run, outcome: Outcome) -> None:
        job = run.job
        token = self._tokens.of(job.execution_id, job.organization_id)
        headers = {
            "traceparent": job.traceparent,
            "x-gateway-execution-id": job.execution_id,
            TOKEN_HEADER: token,
        }
        failed: NodeError | None = None
        granted = await grant(self._credentials, job)
        async with (
            self._n8n_for(job.organization_id) as n8n,
            n8n.run(
                job.workflow.webhook_path,
                granted.payload,
                headers=headers | dict(granted.headers),
                timeouts=self._timeouts(job.workflow),
                secrets=[token, *granted.secrets],
            ) as response,
        ):
            outcome.n8n_execution_id = response.n8n_execution_id
            async for pieces in response.pieces:
                for piece in pieces:
                    if isinstance(piece, NodeError):
                        failed = failed or piece
                    else:
                        _hear(run, outcome.output, piece)
        if failed is not None:
            name = failed.node.name
            msg = f'The workflow failed in its node "{name}".'
            raise Unknown(msg, reason="WORKFLOW_FAILED", metadata={"node": name})

    def _timeouts(self, workflow: Workflow) -> Timeouts:
        return Timeouts(
            connect=self._limits.connect,
            idle=workflow.idle_timeout_seconds or self._limits.idle,
            total=workflow.timeout_seconds or self._limits.total,
        )


def _stopped() -> Unavailable:
    msg = "The gateway was stopped while the run was under way."
    return Unavailable(msg, reason="SHUTTING_DOWN", retry_after=1)


def _hear(run: Run, output: Output, piece: Piece) -> None:
    heard = event_of(piece)
    if heard is None:
        return
    event, raw = heard
    if event.field == "chunk":
        output.add(event.value, raw)
    run.log.append(event, size=len(raw))


def _started(job: Job) -> Oneof[Literal["started"], ExecutionStarted]:
    return Oneof(
        "started", ExecutionStarted(workflow_id=job.workflow.id, credits_reserved=job.credits_reserved)
    )


def _completed(outcome: Outcome, settlement: Settlement) -> Oneof[Literal["completed"], ExecutionCompleted]:
    completed = ExecutionCompleted(
        credits_used=settlement.credits_used,
        credits_remaining=settlement.credits_remaining,
        execution_time_ms=outcome.duration_ms,
    )
    return Oneof("completed", completed)


def _failed(
    error: RpcError, outcome: Outcome, settlement: Settlement
) -> Oneof[Literal["failed"], ExecutionFailed]:
    failed = ExecutionFailed(
        status=status_of(error, request_id=""),
        credits_used=settlement.credits_used,
        credits_remaining=settlement.credits_remaining,
        execution_time_ms=outcome.duration_ms,
        state=outcome.state,
    )
    return Oneof("failed", failed)
