"""Runs belong to the gateway, not to the request that began them.

A run calls n8n, appends what it hears to its event log, and settles the credits.
Execute, ExecuteStream and Watch only read that log, so a caller that goes away
loses nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import structlog

from gateway.executions.output import Output
from gateway.executions.publisher import Publication
from gateway.executions.run import Run, Stop, completed, failed, started
from gateway.executions.settlement import Outcome, settle
from gateway.executions.tasks import Tasks
from gateway.rpc.errors import Internal, NotFound, RpcError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.adapters.database import Database
    from gateway.executions.attempt import Caller
    from gateway.executions.publisher import Publisher
    from gateway.executions.run import Job

log = structlog.get_logger("gateway.executions")

GIVE_BACK_SECONDS = 0.5
"""Between two attempts to settle what nobody knows to have begun."""
BEGIN_SECONDS = 20.0
"""How long after the database broke off it may still begin what it was asked to."""
RESULT_LIMIT = 16 << 20

T = TypeVar("T")


class Runner:
    """Starts runs and sees them through to their settlement."""

    def __init__(self, database: Database, caller: Caller, publisher: Publisher) -> None:
        self._database = database
        self._caller = caller
        self._publisher = publisher
        self._tasks = Tasks()
        self._runs: dict[str, Run] = {}

    @property
    def runs(self) -> Mapping[str, Run]:
        """Those under way, and those just ended whose last events are not published yet."""
        return MappingProxyType(self._runs)

    async def begin(self, execution_id: str, begin: Callable[[], Awaitable[T]]) -> T:
        """Let `begin` charge for an execution and start it, whatever becomes of the caller meanwhile.

        When the database breaks off, nobody knows whether it has charged: the execution
        is then settled as failed, which gives back what was taken and else does nothing.
        """
        return await asyncio.shield(self._tasks.spawn(self._begin(execution_id, begin)))

    def start(self, job: Job, *, after: int = 0) -> Run:
        """Run it in the background, whatever becomes of the caller; events are numbered from `after` + 1."""
        execution_id = job.execution_id
        publication = Publication(
            self._publisher,
            execution_id,
            after=after,
            lost=lambda: self._lose(execution_id),
            ended=lambda: self._forget(execution_id),
        )
        run = Run(job, publication)
        self._runs[execution_id] = run
        run.task = self._tasks.spawn(self._see_through(run))
        return run

    async def drain(self, grace: float) -> None:
        """Let the runs end for `grace` seconds; then cut off those that are left, as failed."""
        await self._tasks.drain(grace)

    def _lose(self, execution_id: str) -> None:
        """Another replica has taken a run over: stop it here, and settle nothing."""
        run = self._runs.get(execution_id)
        if run is not None and run.task is not None:
            log.warning("run lost to another replica", execution_id=execution_id)
            run.stop = Stop.LOST
            self._tasks.cut(run.task)

    def _forget(self, execution_id: str) -> None:
        self._runs.pop(execution_id, None)

    async def _begin(self, execution_id: str, begin: Callable[[], Awaitable[T]]) -> T:
        try:
            with self._tasks.may_be_cut():
                return await begin()
        except Unavailable as error:
            self._tasks.spawn(self._give_back(execution_id, error))
            raise
        except RpcError:
            raise  # refused: nothing was charged
        except BaseException:
            self._tasks.spawn(self._give_back(execution_id, _stopped()))
            raise

    async def _give_back(self, execution_id: str, error: RpcError) -> None:
        """Settle what may have been begun, for as long as the database may still be about to begin it."""
        over = asyncio.get_running_loop().time() + BEGIN_SECONDS
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
            with self._tasks.may_be_cut():
                run.outcome = outcome = await self._outcome(run)
            if run.stop is Stop.LOST:
                run.log.abandon()
                return
            run.settlement = settlement = await settle(self._database, run.job.execution_id, outcome)
            run.publication.whole = settlement.is_whole
            run.log.append(
                completed(outcome, settlement)
                if outcome.error is None
                else failed(outcome.error, outcome, settlement)
            )
        except Exception:
            execution_id = run.job.execution_id
            log.exception("run not settled", execution_id=execution_id)
            msg = "Something went wrong in the gateway after the run had ended."
            run.broken = Internal(msg, metadata={"execution_id": execution_id})
        finally:
            run.log.close()

    async def _outcome(self, run: Run) -> Outcome:
        begun = time.monotonic()
        outcome = Outcome(Output(RESULT_LIMIT))
        run.log.append(started(run.job))
        try:
            await self._caller.call(run, outcome)
        except RpcError as error:
            outcome.error = error
        except asyncio.CancelledError:
            outcome.error = _stopped()
        except Exception:
            log.exception("run broke", execution_id=run.job.execution_id)
            outcome.error = Internal("Something went wrong in the gateway while it ran the workflow.")
        if outcome.error is not None:
            outcome.error.metadata.setdefault("execution_id", run.job.execution_id)
        outcome.n8n_execution_id = run.n8n_execution_id
        outcome.duration_ms = round((time.monotonic() - begun) * 1000)
        return outcome


def _stopped() -> Unavailable:
    msg = "The gateway was stopped while the run was under way."
    return Unavailable(msg, reason="SHUTTING_DOWN", retry_after=1)
