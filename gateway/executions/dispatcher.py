"""Queued runs, from the queue that replicas share to this replica's runner."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import structlog

from gateway.executions.lease_clock import lease_clock
from gateway.executions.output import Output
from gateway.executions.run import Job
from gateway.executions.runner import may_repeat
from gateway.executions.settlement import Outcome, settle
from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.rpc.errors import DataLoss, ResourceExhausted, RpcError, Unavailable
from gateway.rpc.periodic import Periodic
from gateway.rpc.stored_json import message_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.adapters.database import Database
    from gateway.adapters.redis.run_queue import Taken
    from gateway.adapters.vault import Vault
    from gateway.executions.ending import Endings
    from gateway.executions.run import Run
    from gateway.executions.runner import Runner

log = structlog.get_logger("gateway.executions")

REST_MS = 500
"""How long a workflow waits at most after a limit was reached, unless a run of its organization ends."""
LOOK_SECONDS = 1.0
STARTS_AT_ONCE = 16


class Queue(Protocol):
    """See `gateway.adapters.redis.run_queue`. All methods raise Unavailable."""

    async def check(self) -> None:
        """Whether there is a queue."""
        ...

    async def store(self, execution_id: str, organization_id: str, workflow_id: str, data: bytes) -> None:
        """Keep what a run is to be sent. Raises ResourceExhausted for too much of one organization."""
        ...

    async def drop(self, execution_id: str) -> None:
        """Forget it."""
        ...

    async def enqueue(self, execution_id: str, *, rest_ms: int = 0) -> bool:
        """Let it wait for its turn."""
        ...

    async def take(self, left_out: Collection[str] = ()) -> Taken | None:
        """The next run."""
        ...

    async def release(self, organization_id: str) -> bool:
        """End the rests of an organization."""
        ...

    async def organizations(self) -> set[str]:
        """Those whose runs wait."""
        ...


class Dispatcher(Periodic):
    """Takes runs from the queue and starts them, `capacity` at one time, of one organization half as many.

    The database decides whether a run may start; one that may not goes back and its workflow rests, until
    a run of its organization ends. Payloads wait sealed by the vault.
    """

    def __init__(
        self,
        database: Database,
        queue: Queue,
        runner: Runner,
        vault: Vault,
        endings: Endings,
        *,
        capacity: int,
    ) -> None:
        super().__init__(log, "queue not read", retry=LOOK_SECONDS)
        self._database = database
        self._queue = queue
        self._endings = endings
        self._runner = runner
        self._vault = vault
        self._capacity = capacity
        self._running: Counter[str] = Counter()
        """Queued runs that run here, by organization."""
        self._starting: dict[str, asyncio.Task[None]] = {}
        """By organization: of one, runs start one after the other, as the database wants them in order."""
        self._waiting: set[str] = set()
        """Organizations whose runs may be waiting for the end of others."""
        runner.ended = self._ended

    async def close(self) -> None:
        """Take no more runs: others will."""
        await super().close()
        if self._starting:
            await asyncio.wait(self._starting.values())

    def hear(self, told: bytes | None) -> None:
        """A run of this organization may be taken; None when that may have been told unheard."""
        if told is not None:
            self._waiting.add(told.decode())
        self.wake()

    async def check(self) -> None:
        """Raises Unavailable while nothing can be queued."""
        await self._queue.check()

    def keep(self, run: Run) -> None:
        """Keep what a run is to be sent if it may be sent again, by any replica; it is sent after that."""
        if may_repeat(run.job.workflow):
            run.keeping = self._runner.tasks.spawn(self._keep(run))

    async def _keep(self, run: Run) -> None:
        try:
            await self.store(run.job)
        except ResourceExhausted:
            return
        except Unavailable:
            pass  # it may be kept nevertheless
        else:
            run.is_stored = True
        if not run.is_leased:  # it did not wait for this, and has ended
            await self._forget(run)

    async def store(self, job: Job) -> None:
        """Keep what a run is to be sent. Raises Unavailable without Redis, ResourceExhausted without room."""
        parcel = {"payload": job.payload.decode(), "traceparent": job.traceparent}
        envelope = self._vault.seal(
            job.organization_id, _name(job.execution_id), orjson.dumps(parcel).decode()
        )
        await self._queue.store(
            job.execution_id, job.organization_id, job.workflow.id, orjson.dumps(envelope)
        )

    async def enqueue(self, execution_id: str) -> None:
        """Let a stored run wait for its turn. Without Redis a sweeper will, once it is back."""
        try:
            await self._queue.enqueue(execution_id)
        except Unavailable:
            log.warning("run not queued yet", execution_id=execution_id)

    async def enqueue_again(self, execution_id: str) -> None:
        """Let a run wait that nobody has taken up; one that cannot be sent any more has failed."""
        if not await self._queue.enqueue(execution_id):
            await self._give_up(execution_id, _lost())

    async def drop(self, execution_id: str) -> None:
        """Forget what a run was to be sent."""
        try:
            await self._queue.drop(execution_id)
        except Unavailable:
            log.info("payload not dropped", execution_id=execution_id)

    async def turn(self) -> float:
        """Take what there is room for."""
        with contextlib.suppress(Unavailable):  # Redis is away, as others have said
            await self._take_all()
        return LOOK_SECONDS

    async def _take_all(self) -> None:
        while len(self._starting) < STARTS_AT_ONCE and self._running.total() < self._capacity:
            sated = [name for name, count in self._running.items() if count >= max(1, self._capacity // 2)]
            taken = await self._queue.take({*sated, *self._starting})
            if taken is None:
                return
            organization_id = taken.organization_id
            self._running[organization_id] += 1
            task = self._starting[organization_id] = asyncio.create_task(self._start(taken))
            task.add_done_callback(partial(self._started, organization_id))

    def _started(self, organization_id: str, _task: asyncio.Task[None]) -> None:
        del self._starting[organization_id]
        self.wake()

    async def _start(self, taken: Taken) -> None:
        is_running = False
        try:
            is_running = await self._try_to_start(taken)
        except RpcError as error:
            log.warning("run not started", execution_id=taken.execution_id, reason=error.reason)
        except Exception:
            log.exception("run not started", execution_id=taken.execution_id)
        finally:
            if not is_running:
                self._leave(taken.organization_id)

    async def _try_to_start(self, taken: Taken) -> bool:
        leased_at = lease_clock()  # before it is: this process may stand still until the answer is read
        answer = orjson.loads(
            await self._database.call(
                "start_execution",
                None,
                p_execution_id=taken.execution_id,
                p_runner=self._runner.replica,
                p_lease_seconds=self._runner.lease_seconds,
            )
        )
        if not answer["started"]:
            await self._put_back(taken, answer["reason"])
            return False
        try:
            job = self._job(taken, answer)
        except RpcError as error:
            await self._give_up(taken.execution_id, error, runner=self._runner.replica)
            return False
        run = await self._runner.take_over(job, leased_at, attempt=answer["attempts"])
        run.is_queued = run.is_stored = True
        return True

    async def _put_back(self, taken: Taken, reason: str) -> None:
        if reason == "LIMIT":
            self._waiting.add(taken.organization_id)
            await self._queue.enqueue(taken.execution_id, rest_ms=REST_MS)
        elif reason == "ENDED":
            await self._queue.drop(taken.execution_id)

    def _job(self, taken: Taken, answer: dict[str, Any]) -> Job:
        if not taken.data:
            raise _lost()
        name = _name(taken.execution_id)
        text = self._vault.open(taken.organization_id, {name: orjson.loads(taken.data)})[name]
        parcel = orjson.loads(text)
        return Job(
            execution_id=taken.execution_id,
            workflow=message_of(answer["workflow"], Workflow),
            credits_reserved=answer["credits"],
            payload=parcel["payload"].encode(),
            traceparent=parcel["traceparent"],
            organization_id=taken.organization_id,
        )

    async def _give_up(self, execution_id: str, error: RpcError, *, runner: str | None = None) -> None:
        """End a run that was not sent, and cannot be."""
        error.metadata["execution_id"] = execution_id
        await settle(self._database, execution_id, Outcome(Output(0), error), runner=runner)
        await self._endings.tell(execution_id)

    def _ended(self, run: Run) -> None:
        """A run has ended here: those that waited for it may start, anywhere."""
        organization_id = run.job.organization_id
        if run.is_queued:
            self._leave(organization_id)
        if run.is_stored or (run.keeping is not None and run.keeping.done()):
            self._runner.tasks.spawn(self._forget(run))
        if organization_id in self._waiting:
            self._runner.tasks.spawn(self._release(organization_id))

    async def _forget(self, run: Run) -> None:
        if not run.log.is_abandoned:  # or another replica sends it
            await self.drop(run.job.execution_id)

    def _leave(self, organization_id: str) -> None:
        self._running[organization_id] -= 1
        if self._running[organization_id] <= 0:
            del self._running[organization_id]
        self.wake()

    async def _release(self, organization_id: str) -> None:
        try:
            if not await self._queue.release(organization_id):
                self._waiting.discard(organization_id)
        except Unavailable:
            pass  # rests end by themselves


def _lost() -> DataLoss:
    msg = "What the run was to be sent was lost. It was not charged: ask again."
    return DataLoss(msg, reason="PAYLOAD_LOST", retry_after=1)


def _name(execution_id: str) -> str:
    return f"run/{execution_id}"
