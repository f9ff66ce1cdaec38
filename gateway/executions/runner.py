"""Runs belong to the gateway, not to the request that began them.

A run calls n8n, appends what it hears to its event log, and settles the credits.
Execute, ExecuteStream and Watch only read that log, so a caller that goes away
loses nothing.

Each run is leased to one replica, which renews the lease until the run is settled.
A replica that loses it stops the run and settles nothing: another one has it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import orjson
import structlog

from gateway.adapters.n8n import N8nWithheld
from gateway.executions.lease_clock import lease_clock
from gateway.executions.output import Output
from gateway.executions.publisher import Publication
from gateway.executions.run import Run, Stop, completed, failed, started
from gateway.executions.settlement import LeaseLost, Outcome, Stopped, settle
from gateway.executions.tasks import Tasks
from gateway.gen.n8ngateway.v1.execution_pb import ExecutionState
from gateway.gen.n8ngateway.v1.workflow_pb import UnknownOutcomePolicy
from gateway.rpc.errors import Cancelled, Internal, NotFound, ResourceExhausted, RpcError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.adapters.database import Database
    from gateway.executions.attempt import Caller
    from gateway.executions.publisher import Publisher
    from gateway.executions.run import Job
    from gateway.gen.n8ngateway.v1.workflow_pb import Workflow

log = structlog.get_logger("gateway.executions")

GIVE_BACK_SECONDS = 0.5
"""Between two attempts to settle what nobody knows to have begun."""
CLAIM_SECONDS = 0.5
"""Between two attempts to take over what another replica has published of a run."""
CLAIMED_WITHIN_SECONDS = 5.0
"""How long it tries."""
BEGIN_SECONDS = 20.0
"""How long after the database broke off it may still begin what it was asked to."""
RESULT_LIMIT = 16 << 20
STOP_SECONDS = 3.0
"""How long n8n may take to stop a run that is cancelled."""
MOST_ATTEMPTS = 3
"""How often a replica sends a run whose policy is RETRY."""

T = TypeVar("T")


class Runner:
    """Starts runs and sees them through to their settlement."""

    def __init__(
        self,
        database: Database,
        caller: Caller,
        publisher: Publisher,
        *,
        replica: str,
        lease_seconds: int = 30,
    ) -> None:
        self.replica = replica
        self.lease_seconds = lease_seconds
        self.tasks = Tasks()
        self.ended: Callable[[Run], None] = lambda _: None
        """Told of each run that is no longer under way here."""
        self._database = database
        self._caller = caller
        self._publisher = publisher
        self._runs: dict[str, Run] = {}

    @property
    def runs(self) -> Mapping[str, Run]:
        """Those under way, and those just ended whose last events are not published yet."""
        return MappingProxyType(self._runs)

    async def begin(self, execution_id: str, begin: Callable[[], Awaitable[T]]) -> T:
        """Let `begin` charge for an execution, whatever becomes of the caller meanwhile.

        A run that it gives (`prepared`) is seen through. When the database breaks off, nobody knows whether
        it has charged: the execution is then settled as failed, which gives back what was taken and else does
        nothing.
        """
        begun: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.tasks.spawn(self._begin_and_run(execution_id, begin, begun))
        return await begun

    def start(
        self, job: Job, *, after: int = 0, awaited: bool = False, leased_at: float | None = None
    ) -> Run:
        """Run it in the background, whatever becomes of the caller; events are numbered from `after` + 1."""
        run = self.prepared(job, after=after, awaited=awaited, leased_at=leased_at)
        run.task = self.tasks.spawn(self._see_through(run))
        return run

    def prepared(
        self, job: Job, *, after: int = 0, awaited: bool = False, leased_at: float | None = None
    ) -> Run:
        """A run that is about to be seen through; see `Publication` for `after` and `awaited`.

        It was leased at `leased_at` by `lease_clock`, or later; None is now.
        """
        execution_id = job.execution_id
        publication = Publication(
            self._publisher,
            execution_id,
            job.organization_id,
            after=after,
            awaited=awaited,
            lost=lambda: self.lose(execution_id),
            ended=lambda: self._forget(execution_id),
        )
        run = Run(job, publication)
        run.leased(run.leased_at if leased_at is None else leased_at, self.lease_seconds)
        self._runs[execution_id] = run
        return run

    async def take_over(self, job: Job, leased_at: float, *, attempt: int) -> Run:
        """Start a run that may have been another replica's, whose events it goes on numbering.

        A Redis that stands still has them yet: it is waited for a little, as far as the lease allows. Where
        it does not answer by then, only a first `attempt` is made. Of a later one nobody knows the numbers:
        the lease is given up for others to take, and Unavailable raised.
        """
        patience = min(CLAIMED_WITHIN_SECONDS, self.lease_seconds / 3)
        try:
            after = await self._claimed(job.execution_id, until=leased_at + patience)
        except Unavailable:
            if attempt > 1:
                await self._give_up(job.execution_id)
                raise
            after = 0
        return self.start(job, after=after, awaited=True, leased_at=leased_at)

    async def _claimed(self, execution_id: str, *, until: float) -> int:
        """The sequence of a run's newest event, or 0. Raises Unavailable where Redis is away until then."""
        while True:
            try:
                return await self._publisher.claim(execution_id)
            except Unavailable:
                if lease_clock() + CLAIM_SECONDS >= until:
                    raise
                await asyncio.sleep(CLAIM_SECONDS)

    async def drain(self, grace: float) -> None:
        """Let the runs end for `grace` seconds; then cut off those that are left.

        Those that may be sent again are handed on to other replicas, the outcome of others is unknown.
        """
        await self.tasks.drain(grace)

    def lose(self, execution_id: str) -> None:
        """Another replica has taken a run over: stop it here, and settle nothing."""
        run = self._runs.get(execution_id)
        if run is not None and run.is_leased:
            log.warning("run lost to another replica", execution_id=execution_id)
            run.stop = Stop.LOST
            self._cut(run)

    def cancel(self, execution_id: str) -> bool:
        """Cancel a run if it is under way here."""
        run = self._runs.get(execution_id)
        if run is None or not run.is_leased:
            return False
        if run.stop is None:
            run.stop = Stop.CANCELLED
            run.cancelling = self.tasks.spawn(self._cancel(run))
        return True

    async def _cancel(self, run: Run) -> bool:
        """Stop a run in n8n, if that can be, and here; whether n8n has stopped it."""
        is_stopped = False
        try:
            is_stopped = await self._caller.stop(run, timeout_seconds=STOP_SECONDS)
        except RpcError as error:
            log.info("run not stopped in n8n", execution_id=run.job.execution_id, reason=error.reason)
        except Exception:
            log.exception("run not stopped in n8n", execution_id=run.job.execution_id)
        self._cut(run)
        return is_stopped

    def _cut(self, run: Run) -> None:
        if run.is_calling and run.task is not None:
            run.task.cancel()

    def _forget(self, execution_id: str) -> None:
        self._runs.pop(execution_id, None)

    async def _begin_and_run(
        self, execution_id: str, begin: Callable[[], Awaitable[T]], begun: asyncio.Future[T]
    ) -> None:
        try:
            given = await self._begin(execution_id, begin)
        except asyncio.CancelledError:
            begun.cancel()
            return
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            if not begun.done():
                begun.set_exception(error)
                begun.exception()  # looked at, even where the caller goes away before it is
            return
        if not begun.done():
            begun.set_result(given)
        if isinstance(given, Run):
            given.task = asyncio.current_task()
            await self._see_through(given)

    async def _begin(self, execution_id: str, begin: Callable[[], Awaitable[T]]) -> T:
        try:
            with self.tasks.may_be_cut():
                return await begin()
        except (Unavailable, ResourceExhausted) as error:  # the latter when there is no room to let it wait
            self.tasks.spawn(self._give_back(execution_id, error))
            raise
        except RpcError:
            raise  # refused: nothing was charged
        except BaseException:
            self.tasks.spawn(self._give_back(execution_id, _not_begun()))
            raise

    async def _give_back(self, execution_id: str, error: RpcError) -> None:
        """Settle what may have been begun, for as long as the database may still be about to begin it.

        Not a run that has been taken from the queue meanwhile, here or elsewhere: it is seen through there.
        """
        over = asyncio.get_running_loop().time() + BEGIN_SECONDS
        try:
            while not self._sees_through(execution_id):
                try:
                    await settle(self._database, execution_id, Outcome(Output(0), error), runner=self.replica)
                except LeaseLost:
                    return
                except NotFound:
                    if asyncio.get_running_loop().time() >= over:
                        return
                    await asyncio.sleep(GIVE_BACK_SECONDS)
                else:
                    return
        except Exception:
            log.exception("run not settled", execution_id=execution_id)

    def _sees_through(self, execution_id: str) -> bool:
        run = self._runs.get(execution_id)
        return run is not None and run.task is not None

    async def _see_through(self, run: Run) -> None:
        try:
            run.outcome = outcome = await self._outcome(run)
            if run.stop is Stop.LOST or await self._hand_on(run):
                run.log.abandon()
                return
            run.settlement = settlement = await settle(
                self._database,
                run.job.execution_id,
                outcome,
                organization_id=run.job.organization_id or None,
                runner=self.replica,
                last_sequence=run.log.last + 1,
            )
            run.publication.whole = settlement.is_whole
            run.log.append(
                completed(outcome, settlement)
                if outcome.error is None
                else failed(outcome.error, outcome, settlement)
            )
        except LeaseLost:
            log.warning("run lost to another replica", execution_id=run.job.execution_id)
            run.log.abandon()
        except Exception:
            execution_id = run.job.execution_id
            log.exception("run not settled", execution_id=execution_id)
            msg = "Something went wrong in the gateway after the run had ended."
            run.broken = Internal(msg, metadata={"execution_id": execution_id})
        finally:
            run.log.close()
            self.ended(run)

    async def _hand_on(self, run: Run) -> bool:
        """Leave a run that was cut off to other replicas, if it may be sent again."""
        outcome = run.outcome
        if outcome is None or not isinstance(outcome.error, Stopped) or not run.is_stored:
            return False
        await self._give_up(run.job.execution_id)
        return True

    async def _give_up(self, execution_id: str) -> None:
        """Let a run's lease run out now; where the database is away, it does so by itself."""
        try:
            await self._lease(execution_id, 0)
        except RpcError:
            log.warning("lease not given up", execution_id=execution_id)

    async def _outcome(self, run: Run) -> Outcome:
        begun = time.monotonic()
        with self.tasks.may_be_cut():
            outcome = await self._last_attempt(run)
        if run.cancelling is not None and outcome.error is not None:
            # Not cut off either: n8n has STOP_SECONDS for its answer, and a settlement has more.
            outcome.error = _cancelled(n8n_stopped=await run.cancelling)
        if outcome.error is not None:
            outcome.error.metadata.setdefault("execution_id", run.job.execution_id)
        outcome.n8n_execution_id = run.n8n_execution_id
        outcome.units = run.units
        outcome.duration_ms = round((time.monotonic() - begun) * 1000)
        return outcome

    async def _last_attempt(self, run: Run) -> Outcome:
        outcome = await self._attempt(run)
        for _ in range(MOST_ATTEMPTS - 1 if may_repeat(run.job.workflow) else 0):
            if outcome.state is not ExecutionState.UNKNOWN or isinstance(outcome.error, Stopped) or run.stop:
                break
            log.warning("run sent again", execution_id=run.job.execution_id)
            outcome = await self._attempt(run)
        return outcome

    async def _attempt(self, run: Run) -> Outcome:
        outcome = Outcome(Output(RESULT_LIMIT))
        run.log.append(started(run.job))
        run.is_calling = True
        try:
            await run.kept()
            await self._send(run, outcome)
        except LeaseLost:
            run.stop, outcome.error = Stop.LOST, Stopped()
        except RpcError as error:
            outcome.error = error
        except asyncio.CancelledError:
            outcome.error = Stopped()
        except Exception:
            log.exception("run broke", execution_id=run.job.execution_id)
            outcome.error = Internal("Something went wrong in the gateway while it ran the workflow.")
        finally:
            run.is_calling = False
        return outcome

    async def _send(self, run: Run, outcome: Outcome) -> None:
        """Have a run called that is surely this replica's: this process may have stood still since it was.

        Raises LeaseLost for one that is not, and the RpcError that failed it.
        """
        while True:
            try:
                return await self._caller.call(run, outcome)
            except N8nWithheld:
                await self._renew(run)

    async def _renew(self, run: Run) -> None:
        """Renew the lease of one run. Raises LeaseLost where another has it, Stopped if it is cancelled."""
        leased_at, execution_id = lease_clock(), run.job.execution_id
        answer = orjson.loads(await self._lease(execution_id, self.lease_seconds))
        if execution_id in answer["lost"]:
            log.warning("run lost to another replica", execution_id=execution_id)
            raise LeaseLost
        run.leased(leased_at, self.lease_seconds)
        if execution_id in answer["cancel"]:
            self.cancel(execution_id)
            raise Stopped

    async def _lease(self, execution_id: str, seconds: int) -> str:
        """Have a run leased to this replica for so long from now on, if it still is."""
        return await self._database.call(
            "renew_leases",
            None,
            p_runner=self.replica,
            p_execution_ids=[execution_id],
            p_lease_seconds=seconds,
        )


def may_repeat(workflow: Workflow) -> bool:
    """Whether a run whose outcome is unknown is sent again."""
    policy = workflow.unknown_outcome_policy
    return bool(workflow.is_idempotent) and policy is UnknownOutcomePolicy.RETRY


def _not_begun() -> Unavailable:
    msg = "The gateway was stopped before the run was begun."
    return Unavailable(msg, reason="SHUTTING_DOWN", retry_after=1)


def _cancelled(*, n8n_stopped: bool) -> Cancelled:
    metadata = {"n8n_stopped": str(n8n_stopped).lower()}
    return Cancelled("The run was cancelled.", reason="EXECUTION_CANCELLED", metadata=metadata)
