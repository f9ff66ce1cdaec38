"""Keeps this replica's runs its own: each is leased for a while, then others take it up."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

import orjson
import structlog

from gateway.executions.lease_clock import lease_clock
from gateway.rpc.errors import Unavailable
from gateway.rpc.periodic import Periodic

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.executions.runner import Runner

log = structlog.get_logger("gateway.executions")


class Lives(Protocol):
    """Where replicas tell that they live; see `gateway.adapters.redis.event_streams`."""

    async def beat(self, writer: str, seconds: int) -> None:
        """Live for so long. Raises Unavailable."""
        ...


class Leases(Periodic):
    """Renews the leases of all runs in one call, three times before they run out; `start`, then `close`.

    The answer tells which of them other replicas have taken, and which are to be cancelled.
    """

    def __init__(self, database: Database, runner: Runner, lives: Lives) -> None:
        self._every = runner.lease_seconds / 3
        super().__init__(log, "leases not renewed", retry=self._every)
        self._database = database
        self._runner = runner
        self._lives = lives

    async def turn(self) -> float:
        """Tell that this replica lives, and renew what is old enough to need it: most runs are over before.

        At one time, or a Redis that stands still would keep the leases waiting.
        """
        await asyncio.gather(self._live(), self._renew(older_than=self._every / 2))
        return self._every

    async def renew_overdue(self) -> None:
        """Renew what should have been renewed before now: this process, or the database, has stood still."""
        await self._renew(older_than=self._every * 1.5)

    async def renew_all(self) -> None:
        """Renew whatever is in hand: how old it is nobody knows who has stood still."""
        await self._renew(older_than=0)

    async def _live(self) -> None:
        with contextlib.suppress(Unavailable):  # readers elsewhere will ask the database
            await self._lives.beat(self._runner.replica, self._runner.lease_seconds)

    async def _renew(self, *, older_than: float) -> None:
        now = lease_clock()
        leased = [
            run for run in self._runner.runs.values() if run.is_leased and now - run.leased_at >= older_than
        ]
        if not leased:
            return
        text = await self._database.call(
            "renew_leases",
            None,
            p_runner=self._runner.replica,
            p_execution_ids=[run.job.execution_id for run in leased],
            p_lease_seconds=self._runner.lease_seconds,
        )
        answer = orjson.loads(text)
        for run in leased:
            if run.job.execution_id not in answer["lost"]:
                run.leased(now, self._runner.lease_seconds)
        for execution_id in answer["lost"]:
            self._runner.lose(execution_id)
        for execution_id in answer["cancel"]:
            self._runner.cancel(execution_id)
