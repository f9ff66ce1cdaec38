"""One run of a workflow, as its runner and its readers see it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

from protobuf import Oneof

from gateway.adapters.n8n import Redactor
from gateway.executions.lease_clock import lease_clock
from gateway.gen.n8ngateway.v1.execution_event_pb import (
    ExecutionCompleted,
    ExecutionFailed,
    ExecutionStarted,
)
from gateway.rpc.errors import RpcError, Unavailable
from gateway.rpc.status import status_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.adapters.n8n import N8n
    from gateway.executions.publisher import Publication
    from gateway.executions.settlement import Outcome, Settlement
    from gateway.gen.n8ngateway.v1.workflow_pb import Workflow


KEEP_SECONDS = 0.5
"""How long a run that may be sent again waits until what it is sent is kept: Redis may be away."""

_SURE_PART = 2 / 3
"""Of a lease, in which no other replica has taken the run up, whichever clock runs faster."""


@dataclass(frozen=True, slots=True)
class Job:
    """A begun execution: what is to be sent to n8n, and on whose account."""

    execution_id: str
    workflow: Workflow
    credits_reserved: int
    payload: bytes
    traceparent: str
    organization_id: str = ""


class Stop(Enum):
    """Why a run is not heard out."""

    CANCELLED = "cancelled"
    LOST = "lost"


class Moved(Exception):
    """The run goes on at another replica."""


class Run:
    """A run that is under way in this process, or has just ended here."""

    def __init__(self, job: Job, publication: Publication) -> None:
        self.job = job
        self.log = publication.log
        self.publication = publication
        self._secrets: Sequence[str] = ()
        self._redactor: Redactor | None = None
        self.n8n: N8n | None = None
        """Where it was sent to."""
        self.n8n_execution_id: str | None = None
        self.units: int | None = None
        self.leased_at = lease_clock()
        """When its lease was begun or last renewed, or a little before."""
        self.stop: Stop | None = None
        self.is_queued = False
        """Whether it came from the queue."""
        self.is_stored = False
        """Whether any replica knows what to send for it."""
        self.keeping: asyncio.Task[None] | None = None
        """What lets any replica know that, if they are to."""
        self.is_calling = False
        self.task: asyncio.Task[None] | None = None
        self.cancelling: asyncio.Task[bool] | None = None
        self.outcome: Outcome | None = None
        self.settlement: Settlement | None = None
        self.broken: RpcError | None = None

    @property
    def is_leased(self) -> bool:
        """Whether it is this replica's to settle."""
        return not self.log.is_closed

    def leased(self, at: float, seconds: float) -> None:
        """Note that it was leased to this replica for so long, at this time of `lease_clock` or later."""
        self.leased_at = at
        self.publication.sure_until = at + seconds * _SURE_PART

    def is_surely_leased(self) -> bool:
        """Whether no other replica has taken it up, whatever has stood still meanwhile."""
        return lease_clock() < self.publication.sure_until

    def sent_to(self, n8n: N8n, secrets: Sequence[str]) -> None:
        """Note which n8n the run is sent to, and what it is sent that must not come back."""
        self.n8n, self._secrets, self._redactor = n8n, secrets, None

    @property
    def redactor(self) -> Redactor:
        """What takes the run's secrets out of what is told of it, made when it is first needed."""
        if self._redactor is None:
            self._redactor = self.n8n.redactor(self._secrets) if self.n8n else Redactor(self._secrets)
        return self._redactor

    async def room(self) -> None:
        """See `Publication.room`."""
        await self.publication.room()

    async def kept(self) -> None:
        """Wait until any replica knows what to send for it, if they are to, but not long for Redis."""
        if self.keeping is not None:
            await asyncio.wait({self.keeping}, timeout=KEEP_SECONDS)

    async def ended(self) -> tuple[Outcome, Settlement]:
        """Wait for the end. Raises the RpcError that failed the run; Moved if it goes on elsewhere."""
        await self.log.closed()
        return self.settled()

    def settled(self) -> tuple[Outcome, Settlement]:
        """How it has ended; raises as `ended`."""
        if self.log.is_abandoned:
            raise Moved
        outcome, settlement = self.check_settled()
        if outcome.error is not None:
            raise outcome.error
        return outcome, settlement

    def check_settled(self) -> tuple[Outcome, Settlement]:
        """How it has ended. Raises the RpcError that kept it from being settled; its log has no end then."""
        if self.broken is not None:
            raise self.broken
        if self.outcome is None or self.settlement is None:
            msg = "The gateway stopped before the run was settled."
            metadata = {"execution_id": self.job.execution_id}
            raise Unavailable(msg, reason="SHUTTING_DOWN", metadata=metadata)
        return self.outcome, self.settlement


def started(job: Job) -> Oneof[Literal["started"], ExecutionStarted]:
    """The first event of a run."""
    return Oneof(
        "started", ExecutionStarted(workflow_id=job.workflow.id, credits_reserved=job.credits_reserved)
    )


def completed(outcome: Outcome, settlement: Settlement) -> Oneof[Literal["completed"], ExecutionCompleted]:
    """The last event of a run that went well."""
    event = ExecutionCompleted(
        credits_used=settlement.credits_used,
        credits_remaining=settlement.credits_remaining,
        execution_time_ms=outcome.duration_ms,
    )
    return Oneof("completed", event)


def failed(
    error: RpcError, outcome: Outcome, settlement: Settlement
) -> Oneof[Literal["failed"], ExecutionFailed]:
    """The last event of a run that did not."""
    event = ExecutionFailed(
        status=status_of(error, request_id=""),
        credits_used=settlement.credits_used,
        credits_remaining=settlement.credits_remaining,
        execution_time_ms=outcome.duration_ms,
        state=outcome.state,
    )
    return Oneof("failed", event)
