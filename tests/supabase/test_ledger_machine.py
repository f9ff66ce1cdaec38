"""The ledger under whatever comes, at once and in any order: its rules hold after every step."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable
from typing import Any

import asyncpg
import uuid_utils
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase
from gateway.rpc.errors import Aborted, FailedPrecondition
from tests.adapters.databases import Tenant, add_credits, login, new_tenant

RUNNERS = ["runner-1", "runner-2"]
STATES = ["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT", "UNKNOWN"]
REFUSALS = {
    "INSUFFICIENT_CREDITS",
    "BALANCE_TOO_HIGH",
    "LEASE_LOST",
    "EXECUTION_ENDED",
    "IDEMPOTENCY_KEY_REUSED",
    "NOT_CHARGED",
    "ALREADY_REFUNDED",
    "REFUND_ABOVE_CHARGE",
}
EXPIRE = (
    "update reservations set lease_expires_at = now() - interval '1 second'"
    " where execution_id = any ($1::uuid[]) and state = 'HELD'"
)
RUNNING = "select count(*) from reservations where organization_id = $1 and state = 'HELD' and not queued"

# What is done, with which execution, and how; as many at once as there are elements.
Batch = list[tuple[str, int, int]]
batches = st.lists(
    st.tuples(
        st.sampled_from(["settle", "complete", "start", "sweep", "renew", "cancel", "refund"]),
        st.integers(0, 30),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=12,
)


class Ledger(RuleBasedStateMachine):
    """One organization with a workflow, and several gateways at work on it."""

    url: URL

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database = PostgresDatabase(login(self.url), max_connections=8)
        self.superuser = self.run(asyncpg.connect(str(self.url)))
        self.executions: list[str] = []
        self.ended: dict[str, tuple[str, int]] = {}

    def teardown(self) -> None:
        self.run(self.database.close())
        self.run(self.superuser.close())
        self.runner.close()

    def run(self, work: Awaitable[Any]) -> Any:
        async def awaited() -> Any:
            return await work

        return self.runner.run(awaited())

    @initialize(
        balance=st.integers(1, 40),
        price=st.integers(0, 9),
        unit=st.integers(0, 4),
        mode=st.sampled_from(["FIXED", "PER_SECOND", "REPORTED_UNITS"]),
        policy=st.sampled_from(["VOID", "CAPTURE", "RETRY"]),
        organization_limit=st.sampled_from([0, 0, 2, 5]),
        workflow_limit=st.sampled_from([0, 0, 1, 3]),
    )
    def begin_with(self, balance: int, policy: str, organization_limit: int, **workflow: Any) -> None:
        async def made() -> Tenant:
            tenant = await new_tenant(self.database, balance=balance)
            # A metered price that is nothing is refused.
            mode = workflow["mode"] if workflow["price"] and workflow["unit"] else "FIXED"
            changes = {
                "credits_per_execution": workflow["price"],
                "credits_per_unit": workflow["unit"],
                "pricing_mode": f"PRICING_MODE_{mode}",
                "is_idempotent": True,
                "unknown_outcome_policy": f"UNKNOWN_OUTCOME_POLICY_{policy}",
                "concurrency_limit": workflow["workflow_limit"],
            }
            await tenant.call("update_workflow", p_id=tenant.workflow_id, p_changes=changes)
            await tenant.call(
                "update_organization",
                p_id=tenant.organization_id,
                p_changes={"low_balance_threshold": 10},
            )
            await self._service(
                "set_limits",
                p_organization_id=tenant.organization_id,
                p_changes={"max_concurrent_executions": organization_limit},
            )
            return tenant

        self.tenant = self.run(made())
        self.limits = [limit for limit in (organization_limit, workflow["workflow_limit"]) if limit]

    @rule(amount=st.integers(-20, 20).filter(bool))
    def add(self, amount: int) -> None:
        self.run(self.allowed(add_credits(self.database, self.tenant.organization_id, amount)))

    @rule(number=st.integers(1, 8), queue=st.booleans(), keys=st.integers(1, 8))
    def begin(self, number: int, keys: int, *, queue: bool) -> None:
        """Many begin at once, some of them with the same idempotency key."""
        key = uuid.uuid4().hex
        self.run(self.together(*(self._begin(f"{key} {n % keys}", queue=queue) for n in range(number))))

    @rule(batch=batches)
    @precondition(lambda self: self.executions)
    def work(self, batch: Batch) -> None:
        """Runners, sweepers and callers do what they do, all at once."""
        self.run(self.together(*(self._operation(*operation) for operation in batch)))

    @rule(batch=batches, chosen=st.sets(st.integers(0, 30)))
    @precondition(lambda self: self.executions)
    def lose_runners(self, batch: Batch, chosen: set[int]) -> None:
        """Some leases run out, and then all goes on."""
        lost = [self.executions[index % len(self.executions)] for index in chosen]
        self.run(self.superuser.execute(EXPIRE, lost))
        self.work(batch)

    @invariant()
    @precondition(lambda self: hasattr(self, "tenant"))
    def the_ledger_is_right(self) -> None:
        proof = self.run(
            self.database.call("check_credits", None, p_organization_id=self.tenant.organization_id)
        )
        assert json.loads(proof) == {"accounts": 1, "found": 0, "violations": []}

    @invariant()
    @precondition(lambda self: hasattr(self, "tenant"))
    def no_more_run_than_may(self) -> None:
        running = self.run(self.superuser.fetchval(RUNNING, self.tenant.organization_id))
        assert not self.limits or running <= min(self.limits)

    async def together(self, *work: Awaitable[Any]) -> None:
        await asyncio.gather(*(self.allowed(each) for each in work))

    async def allowed(self, work: Awaitable[Any]) -> None:
        try:
            await work
        except (FailedPrecondition, Aborted) as error:
            # Above all no deadlock, which would be CONCURRENT_CHANGE.
            if error.reason not in REFUSALS:
                raise

    async def _begin(self, key: str, *, queue: bool) -> None:
        begun = await self.tenant.begin(
            p_execution_id=str(uuid_utils.uuid7()),
            p_idempotency_key=key,
            p_request_hash="hash",
            p_runner=RUNNERS[0],
            p_queue=queue,
        )
        if not begun["replayed"]:
            self.executions.append(begun["execution_id"])

    async def _operation(self, what: str, index: int, how: int) -> None:
        execution_id = self.executions[index % len(self.executions)]
        runner = RUNNERS[how % 2]
        match what:
            case "settle":
                await self._settle(execution_id, STATES[how % 5], p_runner=runner)
            case "complete":
                await self._settle(
                    execution_id, "COMPLETED", p_duration_ms=how * 700, p_units=how, p_result="1"
                )
            case "start":
                await self._service("start_execution", p_execution_id=execution_id, p_runner=runner)
            case "sweep":
                await self._service("sweep_executions", p_limit=1 + how)
            case "renew":
                await self._service("renew_leases", p_runner=runner, p_execution_ids=self.executions[-20:])
            case "refund":
                await self._service(
                    "refund_execution",
                    p_organization_id=self.tenant.organization_id,
                    p_execution_id=execution_id,
                    p_amount=how or None,
                )
            case "cancel":
                await self.tenant.call("cancel_execution", p_id=execution_id)

    async def _settle(self, execution_id: str, state: str, **arguments: Any) -> None:
        """However often, and however: what an execution ended with is what it has ended with."""
        settled = await self.tenant.settle(execution_id, state, **arguments)
        outcome = (settled["state"], settled["credits_used"])
        assert self.ended.setdefault(execution_id, outcome) == outcome

    async def _service(self, function: str, **arguments: Any) -> None:
        await self.database.call(function, None, **arguments)


def test_the_ledger_holds_whatever_comes(superuser_url: URL) -> None:
    machine = type("LedgerOfTheTest", (Ledger,), {"url": superuser_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
