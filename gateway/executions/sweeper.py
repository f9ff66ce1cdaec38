"""Takes up the runs of replicas that are gone, and those that have waited for too long."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import orjson
import structlog

from gateway.executions.lease_clock import lease_clock
from gateway.rpc.periodic import Periodic

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.executions.dispatcher import Dispatcher
    from gateway.executions.ending import Endings
    from gateway.executions.leases import Leases

log = structlog.get_logger("gateway.executions")

AT_ONCE = 100


class Sweeper(Periodic):
    """Looks for leases that have run out, at random times so that replicas seldom meet.

    The database gives each such run to one sweeper, and ends it by its workflow's policy or has it sent
    again. Runs that this process has in hand are renewed before: it may have stood still itself. Where it
    has, others may have, too, and get the time to renew theirs. `start` it, then `close` it.
    """

    def __init__(
        self,
        database: Database,
        leases: Leases,
        dispatcher: Dispatcher,
        endings: Endings,
        lease_seconds: int,
    ) -> None:
        super().__init__(log, "runs not swept", retry=lease_seconds / 4)
        self._database = database
        self._leases = leases
        self._dispatcher = dispatcher
        self._endings = endings
        self._lease_seconds = lease_seconds
        self._due = math.inf
        """When this turn was to come."""

    async def turn(self) -> float:
        """Take up all there are."""
        if self._has_stood_still():
            self._due = math.inf  # once: whoever is always late has to sweep, too
            await self._leases.renew_all()
            return self._lease_seconds / 3
        await self._leases.renew_overdue()
        while await self.sweep() == AT_ONCE:
            pass
        pause = self._lease_seconds * random.uniform(0.15, 0.4)  # noqa: S311 - no secret
        self._due = lease_clock() + pause
        return pause

    def _has_stood_still(self) -> bool:
        return lease_clock() - self._due > self._lease_seconds / 6

    async def sweep(self) -> int:
        """Take up the runs whose lease has run out; the answer is how many there were."""
        text = await self._database.call(
            "sweep_executions", None, p_limit=AT_ONCE, p_lease_seconds=self._lease_seconds
        )
        actions = orjson.loads(text)
        for action in actions:
            if action["action"] == "RETRY":
                await self._dispatcher.enqueue_again(action["execution_id"])
            else:
                log.warning("run taken up", **action)
                await self._endings.tell(action["execution_id"])
        return len(actions)
