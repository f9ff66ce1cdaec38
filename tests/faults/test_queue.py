"""Limits and turns of several tenants, over two gateways that take one queued run at a time each."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.faulty_n8n import Served
from tests.faults.system import System, Tenant

MANY, FEW = 20, 3
LIMIT = 2

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNFINISHED = "select count(*) from executions where finished_at is null"
RUNS = """
select state, credits_used, count(*) from executions where organization_id = $1 and metadata ->> 'test' = $2
    and not (
        idempotency_key_expired and state = 'EXECUTION_STATE_FAILED' and credits_used = 0
        and n8n_execution_id is null
    )
group by 1, 2
"""
"""But those that were never sent nor cost anything, whose key is another attempt's."""
STOOD_STILL = {"REDIS_UNREACHABLE", "DATABASE_UNAVAILABLE"}
"""What is told of a part that stands still for a moment."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with System(tmp_path_factory.mktemp("queue"), EXECUTION_QUEUE_CONCURRENCY="1") as started:
        yield started


class Runs:
    """Runs of one test, made over any of the gateways."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.name = uuid.uuid4().hex

    async def start(self, tenant: Tenant, workflow: str) -> str:
        """Queue a run; give its key."""
        key = uuid.uuid4().hex
        assert (await self._post("executions", tenant, workflow, key))["state"]
        return key

    async def execute(self, tenant: Tenant, workflow: str, key: str) -> Any:
        """Run it to its end."""
        return await self._post("execute", tenant, workflow, key)

    async def of(self, tenant: Tenant) -> list[tuple[str, int, int]]:
        """How many there are of each state and price."""
        rows = await self._system.rows(RUNS, uuid.UUID(tenant.organization_id), self.name)
        return [(row["state"], row["credits_used"], row["count"]) for row in rows]

    async def _post(self, path: str, tenant: Tenant, workflow: str, key: str) -> Any:
        body = {
            "workflow_id": tenant.workflows[workflow],
            "data": {"key": key},
            "metadata": {"test": self.name},
        }
        headers = tenant.headers | {"Idempotency-Key": key}
        async with asyncio.timeout(60):
            while True:
                url = f"{self._system.url()}/api/v1/{path}"
                async with self._system.session.post(url, json=body, headers=headers) as response:
                    answer = await response.json()
                if response.status != 503:
                    break
                assert reason_of(answer) in STOOD_STILL, answer
                await asyncio.sleep(0.2)
        assert response.status == 200, answer
        return answer


def reason_of(status: dict[str, Any]) -> str:
    """The reason that a google.rpc.Status tells."""
    return next((detail["reason"] for detail in status.get("details", []) if "reason" in detail), "")


@pytest.fixture
def runs(system: System) -> Runs:
    system.n8n.gate.clear()
    system.n8n.served.clear()
    return Runs(system)


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await is_so():  # noqa: ASYNC110 - other processes bring it about
            await asyncio.sleep(0.05)


async def until_called(system: System, keys: Collection[str], number: int) -> None:
    """Until n8n was asked so often for these."""

    async def called() -> bool:
        return sum(system.n8n.calls[key] for key in keys) == number

    await until(called)


async def until_ended(system: System) -> None:
    async def ended() -> bool:
        return not (await system.rows(UNFINISHED))[0][0]

    await until(ended)


def most_at_once(served: list[Served]) -> int:
    """How many of these were in n8n's hands at one time."""
    changes = sorted(
        [(one.begun, 1) for one in served] + [(one.ended, -1) for one in served],
        key=lambda change: (change[0], change[1]),
    )
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


async def test_turns_go_round_between_tenants(system: System, runs: Runs) -> None:
    """While both gateways are busy one tenant queues many runs, and then another one a few."""
    busy, late = system.tenants
    first = [await runs.start(busy, "gated") for _ in system.gateways]
    await until_called(system, first, len(first))
    queued = [await runs.start(busy, "quick") for _ in range(MANY)]
    few = [await runs.start(late, "quick") for _ in range(FEW)]
    assert not any(system.n8n.calls[key] for key in queued + few)
    system.n8n.gate.set()
    await until_ended(system)
    order = [one.key for one in sorted(system.n8n.served, key=lambda one: one.begun) if one.key not in first]
    # Every second turn, and one more a gateway: what is taken first may reach n8n a moment later.
    assert max(order.index(key) for key in few) < 2 * FEW + len(system.gateways)
    assert {system.n8n.calls[key] for key in first + queued + few} == {1}
    assert await runs.of(busy) == [("EXECUTION_STATE_COMPLETED", 1, MANY + len(first))]
    assert await runs.of(late) == [("EXECUTION_STATE_COMPLETED", 1, FEW)]


async def test_an_organizations_limit_holds_over_all_gateways(system: System, runs: Runs) -> None:
    """For what is queued and for what is called, while nobody else is kept waiting."""
    limited, other = system.tenants
    await system.platform(
        "set_limits",
        p_organization_id=limited.organization_id,
        p_changes={"max_concurrent_executions": LIMIT},
    )
    keys = [uuid.uuid4().hex for _ in range(4 * LIMIT)]
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(runs.execute(limited, "gated", key)) for key in keys]
        queued = [await runs.start(limited, "gated") for _ in range(LIMIT)]
        wanted = [*keys, *queued]

        async def all_begun() -> bool:
            return sum(count for *_, count in await runs.of(limited)) == len(wanted)

        await until(all_begun)
        await until_called(system, wanted, LIMIT)
        assert (await runs.execute(other, "quick", uuid.uuid4().hex))["success"]
        assert sum(system.n8n.calls[key] for key in wanted) == LIMIT
        system.n8n.gate.set()
    await until_ended(system)
    assert {json.dumps(call.result()["data"]) for call in calls} == {json.dumps({"key": key}) for key in keys}
    assert most_at_once([one for one in system.n8n.served if one.key in wanted]) <= LIMIT
    assert {system.n8n.calls[key] for key in wanted} == {1}
    assert await runs.of(limited) == [("EXECUTION_STATE_COMPLETED", 1, len(wanted))]
