"""Beginning a run on a database that takes its time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gateway.adapters.database import Json
from gateway.adapters.n8n import N8n
from gateway.executions.lease_clock import lease_clock
from gateway.executions.publisher import Publisher
from gateway.executions.run import Run
from gateway.executions.runner import Runner
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from gateway.services.execution import ExecutionService
from tests.calls import call_of
from tests.executions.accounts import PRICE, Accounts
from tests.executions.test_runner import Accepting, caller, n8n

__all__ = ["n8n"]

OWNER = Principal(Kind.USER, "user_1", DatabaseRole.AUTHENTICATED, "{}")


class Beginning(Accounts):
    """Begins runs, too, each some moments after it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun_at = 0.0

    async def call(self, function: str, principal: Principal | None, /, **arguments: Json) -> str:
        if function != "begin_execution":
            return await super().call(function, principal, **arguments)
        self.begun_at = lease_clock()
        await asyncio.sleep(0.01)
        return json.dumps(
            {
                "replayed": False,
                "state": "EXECUTION_STATE_RUNNING",
                "organization_id": "01936f5e-7c00-7000-8000-000000000001",
                "credits": PRICE,
                "workflow": {"webhook_path": "gated"},
            }
        )


class Keeping:
    """Sees what runs there are."""

    def __init__(self) -> None:
        self.runs: asyncio.Queue[Run] = asyncio.Queue()

    def keep(self, run: Run) -> None:
        self.runs.put_nowait(run)


async def test_a_lease_counts_from_before_it_was_asked_for(n8n: N8n) -> None:
    """Or a process that stands still until it reads the answer would take an old lease for a new one."""
    accounts, publisher, keeping = Beginning(), Publisher(Accepting(), "this replica"), Keeping()
    publisher.start()
    runner = Runner(accounts, caller(n8n), publisher, replica="this replica")
    parts: Any = accounts, runner, keeping, None, None
    executing = asyncio.create_task(
        ExecutionService(*parts).execute(ExecuteRequest(), call_of(principal=OWNER))
    )
    run = await asyncio.wait_for(keeping.runs.get(), 60)
    assert run.leased_at <= accounts.begun_at
    await runner.drain(0)
    await asyncio.gather(executing, return_exceptions=True)
    await publisher.close(1)
