"""Runs between begin and end: queued, leased, taken up again, cancelled."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest
import uuid_utils

from gateway.adapters.postgres import PostgresDatabase
from gateway.gen.n8ngateway.v1.execution_pb import Execution, ExecutionState
from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.rpc.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from gateway.rpc.status import DETAIL_TYPES
from tests.adapters.databases import Tenant, add_api_key, add_member, new_tenant, user
from tests.supabase.test_executions import available, get, ledger

RUNNER = "runner-1"
RUNNING, PENDING = "EXECUTION_STATE_RUNNING", "EXECUTION_STATE_PENDING"


async def begin(tenant: Tenant, **arguments: Any) -> Any:
    """Begin as a gateway does: with an id in order, and with a runner that can wait."""
    return await tenant.begin(**({"p_execution_id": str(uuid_utils.uuid7()), "p_runner": RUNNER} | arguments))


async def start(tenant: Tenant, execution_id: str, runner: str = RUNNER) -> Any:
    text = await tenant.database.call(
        "start_execution", None, p_execution_id=execution_id, p_runner=runner, p_lease_seconds=60
    )
    return json.loads(text)


async def sweep(tenant: Tenant, **arguments: Any) -> list[tuple[str, str]]:
    """Sweep; what was done with runs of this tenant."""
    swept = json.loads(await tenant.database.call("sweep_executions", None, p_limit=1000, **arguments))
    own = [entry for entry in swept if entry["organization_id"] == tenant.organization_id]
    return [(entry["execution_id"], entry["action"]) for entry in own]


async def renew(tenant: Tenant, *execution_ids: str, runner: str = RUNNER) -> Any:
    text = await tenant.database.call(
        "renew_leases", None, p_runner=runner, p_execution_ids=list(execution_ids), p_lease_seconds=60
    )
    return json.loads(text)


async def expire(superuser: Any, *execution_ids: str, days_ago: int = 0) -> None:
    await superuser.execute(
        "update reservations set lease_expires_at = now() - interval '1 second' - make_interval(days => $2)"
        " where execution_id = any ($1::uuid[])",
        execution_ids,
        days_ago,
    )


async def limit(superuser: Any, tenant: Tenant, *, organization: int = 0, workflow: int = 0) -> None:
    await superuser.execute(
        "update organizations set max_concurrent_executions = $2 where id = $1",
        tenant.organization_id,
        organization,
    )
    await superuser.execute(
        "update workflows set concurrency_limit = $2 where id = $1", tenant.workflow_id, workflow
    )


async def set_workflow(superuser: Any, tenant: Tenant, **columns: Any) -> None:
    assigned = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, 2))
    await superuser.execute(
        f"update workflows set {assigned} where id = $1", tenant.workflow_id, *columns.values()
    )


async def test_a_queued_run_holds_its_price_and_starts_once(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=10, price=3)
    begun = await begin(tenant, p_queue=True, p_runner=None)
    assert (begun["state"], begun["credits_remaining"]) == (PENDING, 7)
    stored = await get(tenant, begun["execution_id"])
    assert (stored.state, stored.started_at, stored.execution_time_ms) == (ExecutionState.PENDING, None, 0)
    results = await asyncio.gather(
        *(start(tenant, begun["execution_id"], f"runner-{number}") for number in range(10))
    )
    (started,) = [result for result in results if result["started"]]
    assert started["credits"] == 3
    assert Workflow.from_json(json.dumps(started["workflow"])).id == tenant.workflow_id
    assert [result["reason"] for result in results if not result["started"]] == ["TAKEN"] * 9
    stored = await get(tenant, begun["execution_id"])
    assert stored.state is ExecutionState.RUNNING
    assert stored.started_at is not None
    await tenant.settle(begun["execution_id"], p_last_sequence=5)
    assert (await start(tenant, begun["execution_id"]))["reason"] == "ENDED"
    assert (await get(tenant, begun["execution_id"])).last_sequence == 5
    assert await available(superuser, tenant) == 7


async def test_a_run_that_waits_can_be_given_back_by_any_runner(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=10, price=3)
    begun = await begin(tenant, p_queue=True, p_runner=None)
    await tenant.settle(begun["execution_id"], "FAILED", p_runner=RUNNER)
    assert await available(superuser, tenant) == 10
    assert (await start(tenant, begun["execution_id"]))["reason"] == "ENDED"


async def test_only_a_runner_starts_and_only_what_was_begun(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=10)
    with pytest.raises(NotFound):
        await start(tenant, str(uuid.uuid4()))
    with pytest.raises(InvalidArgument):
        await start(tenant, (await begin(tenant, p_queue=True))["execution_id"], "")


@pytest.mark.parametrize("which", ["organization", "workflow"])
async def test_no_more_run_at_one_time_than_the_limit_and_the_others_in_order(
    database: PostgresDatabase, superuser: Any, which: str
) -> None:
    tenant = await new_tenant(database, balance=100)
    await limit(superuser, tenant, **{which: 3})
    begun = await asyncio.gather(*(begin(tenant) for _ in range(12)))
    running = [run["execution_id"] for run in begun if run["state"] == RUNNING]
    waiting = sorted(run["execution_id"] for run in begun if run["state"] == PENDING)
    assert (len(running), len(waiting)) == (3, 9)
    assert (await start(tenant, waiting[0]))["reason"] == "LIMIT"
    await tenant.settle(running[0])
    # A new one does not get before those that wait, nor does a later one.
    last = await begin(tenant)
    assert last["state"] == PENDING
    assert (await start(tenant, waiting[1]))["reason"] == "LIMIT"
    assert (await start(tenant, waiting[0]))["started"]
    await tenant.settle(running[1])
    await tenant.settle(running[2], "FAILED")
    assert (await start(tenant, waiting[2]))["started"], "there is room for the one before it, too"
    assert (await start(tenant, waiting[3]))["reason"] == "LIMIT"
    assert (await start(tenant, waiting[1]))["started"]


@pytest.mark.parametrize("which", ["organization", "workflow"])
async def test_a_limit_holds_however_many_start_at_once(
    database: PostgresDatabase, superuser: Any, which: str
) -> None:
    tenant = await new_tenant(database, balance=100)
    await limit(superuser, tenant, **{which: 4})
    queued = [await begin(tenant, p_queue=True) for _ in range(20)]
    ended: set[str] = set()
    while len(ended) < len(queued):
        await asyncio.gather(
            *(start(tenant, run["execution_id"], f"runner-{n}") for n in range(2) for run in queued)
        )
        rows = await superuser.fetch(
            "select execution_id from reservations where organization_id = $1 and state = 'HELD'"
            " and not queued",
            tenant.organization_id,
        )
        running = [str(row["execution_id"]) for row in rows]
        assert 1 <= len(running) <= 4
        await asyncio.gather(*(tenant.settle(execution_id) for execution_id in running))
        ended.update(running)
    assert await available(superuser, tenant) == 80


@pytest.mark.parametrize("price", [0, 1])
async def test_a_limit_holds_however_many_begin_at_once(
    database: PostgresDatabase, superuser: Any, price: int
) -> None:
    """Also where a run costs nothing, so that it would not have to wait for the account."""
    for _ in range(5):
        tenant = await new_tenant(database, balance=100, price=price)
        await limit(superuser, tenant, organization=2)
        begun = await asyncio.gather(*(begin(tenant) for _ in range(20)))
        assert [run["state"] for run in begun].count(RUNNING) == 2


async def test_who_waits_for_its_workflow_does_not_hold_up_other_workflows(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=100)
    await limit(superuser, tenant, organization=3, workflow=1)
    other = await tenant.call(
        "register_workflow",
        p_workflow={
            "organization_id": tenant.organization_id,
            "name": "other",
            "webhook_path": "other",
            "credits_per_execution": 1,
        },
    )
    first, *waiting = [await begin(tenant) for _ in range(5)]
    assert first["state"] == RUNNING
    assert {run["state"] for run in waiting} == {PENDING}
    states = [(await begin(tenant, p_workflow_id=other["id"]))["state"] for _ in range(3)]
    assert states == [RUNNING, RUNNING, PENDING]


async def test_a_caller_that_cannot_wait_is_refused_at_the_limit(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=100)
    await limit(superuser, tenant, organization=1)
    assert (await tenant.begin())["state"] == RUNNING
    with pytest.raises(FailedPrecondition) as raised:
        await tenant.begin()
    assert raised.value.reason == "CONCURRENCY_LIMIT"
    assert await available(superuser, tenant) == 99


async def test_leases_are_renewed_by_their_runner_alone(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database, balance=10)
    mine, theirs, ended = [(await begin(tenant))["execution_id"] for _ in range(3)]
    await superuser.execute("update reservations set runner = 'other' where execution_id = $1", theirs)
    await tenant.settle(ended)
    await expire(superuser, mine, theirs)
    unknown = str(uuid.uuid4())
    renewed = await renew(tenant, mine, theirs, ended, unknown)
    assert (set(renewed["lost"]), renewed["cancel"]) == ({theirs, ended, unknown}, [])
    assert await sweep(tenant) == [(theirs, "VOIDED")]
    assert await renew(tenant) == {"lost": [], "cancel": []}


@pytest.mark.parametrize(
    ("policy", "action", "used"),
    [
        ("UNKNOWN_OUTCOME_POLICY_VOID", "VOIDED", 0),
        ("UNKNOWN_OUTCOME_POLICY_CAPTURE", "CAPTURED", 3),
        ("UNKNOWN_OUTCOME_POLICY_RETRY", "RETRY", 0),
    ],
)
async def test_a_run_that_was_sent_and_left_fares_by_its_workflows_policy(
    database: PostgresDatabase, superuser: Any, policy: str, action: str, used: int
) -> None:
    tenant = await new_tenant(database, balance=10, price=3)
    await set_workflow(superuser, tenant, is_idempotent=True, unknown_outcome_policy=policy)
    execution_id = (await begin(tenant))["execution_id"]
    # What counts is the policy that the run was begun with.
    await set_workflow(superuser, tenant, unknown_outcome_policy="UNKNOWN_OUTCOME_POLICY_VOID")
    assert await sweep(tenant) == []
    await expire(superuser, execution_id)
    assert await sweep(tenant) == [(execution_id, action)]
    assert await sweep(tenant) == []
    stored = await get(tenant, execution_id)
    if action == "RETRY":
        assert (stored.state, stored.started_at, stored.credits_reserved) == (
            ExecutionState.PENDING,
            None,
            3,
        )
        assert (await start(tenant, execution_id, "runner-2"))["started"]
        with pytest.raises(FailedPrecondition) as raised:
            await tenant.settle(execution_id, p_runner=RUNNER)
        assert raised.value.reason == "LEASE_LOST"
        await tenant.settle(execution_id, p_runner="runner-2")
        assert await available(superuser, tenant) == 7
        return
    assert (stored.state, stored.credits_used) == (ExecutionState.UNKNOWN, used)
    assert stored.error is not None
    assert stored.error.code == 2
    assert await available(superuser, tenant) == 10 - used
    late = await tenant.settle(execution_id, p_runner=RUNNER)
    assert (late["state"], late["credits_used"]) == ("EXECUTION_STATE_UNKNOWN", used)


async def test_a_run_that_ends_every_runner_is_not_tried_for_ever(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=10)
    await set_workflow(
        superuser, tenant, is_idempotent=True, unknown_outcome_policy="UNKNOWN_OUTCOME_POLICY_RETRY"
    )
    execution_id = (await begin(tenant))["execution_id"]
    for _ in range(4):
        await expire(superuser, execution_id)
        assert await sweep(tenant) == [(execution_id, "RETRY")]
        assert (await start(tenant, execution_id))["started"]
    await expire(superuser, execution_id)
    assert await sweep(tenant) == [(execution_id, "VOIDED")]
    assert await available(superuser, tenant) == 10


async def test_of_a_run_that_waits_too_long_to_be_sent_again_nobody_says_that_it_was_not_sent(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=10)
    await set_workflow(
        superuser, tenant, is_idempotent=True, unknown_outcome_policy="UNKNOWN_OUTCOME_POLICY_RETRY"
    )
    told = []
    for arguments in ({"p_queue": True, "p_runner": None}, {}):
        execution_id = (await begin(tenant, **arguments))["execution_id"]
        await expire(superuser, execution_id)
        assert await sweep(tenant) == [(execution_id, "RETRY")]
        await expire(superuser, execution_id)
        assert await sweep(tenant, p_longest_wait_seconds=0) == [(execution_id, "VOIDED")]
        stored = await get(tenant, execution_id)
        assert stored.error is not None
        told.append((stored.state, "was not sent" in stored.error.message))
    assert told == [(ExecutionState.TIMED_OUT, True), (ExecutionState.TIMED_OUT, False)]
    assert await available(superuser, tenant) == 10


async def test_a_run_that_was_never_sent_is_queued_again_until_it_is_too_old(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=10)
    execution_id = (await begin(tenant, p_queue=True))["execution_id"]
    await expire(superuser, execution_id)
    assert await sweep(tenant) == [(execution_id, "RETRY")]
    await expire(superuser, execution_id)
    assert await sweep(tenant, p_longest_wait_seconds=0) == [(execution_id, "VOIDED")]
    stored = await get(tenant, execution_id)
    assert stored.state is ExecutionState.TIMED_OUT
    assert await available(superuser, tenant) == 10


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"p_runner": RUNNER, "p_lease_seconds": 0}, "lease_seconds"),
        ({"p_runner": RUNNER, "p_lease_seconds": -60}, "lease_seconds"),
        ({"p_runner": RUNNER, "p_lease_seconds": 601}, "lease_seconds"),
        ({"p_runner": RUNNER, "p_lease_seconds": None}, "lease_seconds"),
        ({"p_queue": True, "p_lease_seconds": 2_000_000_000}, "lease_seconds"),
        ({"p_runner": ""}, "runner"),
        ({"p_runner": "a name\n"}, "runner"),
        ({"p_runner": "r" * 65}, "runner"),
        ({"p_metadata": {"label": {"nested": "value"}}}, "metadata"),
        ({"p_metadata": {"label": ["value"]}}, "metadata"),
        ({"p_metadata": {"label": "x" * 600_000}}, "metadata"),
    ],
)
@pytest.mark.parametrize("concurrency", [0, 1])
async def test_a_run_begun_around_the_gateway_is_held_to_its_bounds(
    database: PostgresDatabase, superuser: Any, arguments: dict[str, Any], field: str, concurrency: int
) -> None:
    tenant = await new_tenant(database, balance=10)
    await limit(superuser, tenant, organization=concurrency)
    with pytest.raises(InvalidArgument) as raised:
        await tenant.begin(**arguments)
    assert set(raised.value.fields) == {field}
    assert await available(superuser, tenant) == 10


async def test_a_run_is_queued_or_it_is_not(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=10)
    with pytest.raises(InvalidArgument) as raised:
        await tenant.begin(p_queue=None)
    assert set(raised.value.fields) == {"queue"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"p_runner": None},
        {"p_runner": "nobody", "p_lease_seconds": 600},
        {"p_queue": True, "p_lease_seconds": 600},
    ],
)
async def test_a_run_begun_around_the_gateway_is_taken_up_within_ten_minutes(
    database: PostgresDatabase, superuser: Any, arguments: dict[str, Any]
) -> None:
    tenant = await new_tenant(database, balance=10)
    execution_id = (await tenant.begin(**arguments))["execution_id"]
    remaining = await superuser.fetchval(
        "select lease_expires_at - created_at from reservations where execution_id = $1", execution_id
    )
    assert 0 < remaining.total_seconds() <= 600


async def test_a_sweep_takes_turns_by_organization(database: PostgresDatabase, superuser: Any) -> None:
    many, few = [await new_tenant(database, balance=100) for _ in range(2)]
    floods = [(await begin(many))["execution_id"] for _ in range(40)]
    single = (await begin(few))["execution_id"]
    # Before all that other tests have left behind.
    await expire(superuser, *floods, days_ago=2)
    await expire(superuser, single, days_ago=1)
    swept = json.loads(await database.call("sweep_executions", None, p_limit=10))
    assert single in {entry["execution_id"] for entry in swept}
    assert len(swept) <= 10


async def test_many_sweepers_take_each_run_once(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database, balance=50)
    execution_ids = [(await begin(tenant))["execution_id"] for _ in range(30)]
    await expire(superuser, *execution_ids)
    swept = await asyncio.gather(
        *(sweep(tenant) for _ in range(8)), *(tenant.settle(entry) for entry in execution_ids)
    )
    actions = [entry for entries in swept if isinstance(entries, list) for entry in entries]
    assert len({execution_id for execution_id, _ in actions}) == len(actions)
    ended = [(await get(tenant, execution_id)).state for execution_id in execution_ids]
    assert set(ended) <= {ExecutionState.UNKNOWN, ExecutionState.COMPLETED}
    assert await available(superuser, tenant) == 50 - ended.count(ExecutionState.COMPLETED)


async def test_a_waiting_run_is_cancelled_at_once(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database, balance=10)
    execution_id = (await begin(tenant, p_queue=True))["execution_id"]
    for _ in range(2):
        cancelled = await tenant.call("cancel_execution", p_id=execution_id)
        assert cancelled.pop("runner") is None
        execution = Execution.from_json(
            json.dumps({name: value for name, value in cancelled.items() if value is not None}),
            registry=DETAIL_TYPES,
        )
        assert execution.state is ExecutionState.CANCELLED
        assert execution.error is not None
        assert execution.error.code == 1
    assert await available(superuser, tenant) == 10
    assert (await start(tenant, execution_id))["reason"] == "ENDED"


async def test_of_a_running_one_its_runner_is_told(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database, balance=10)
    execution_id = (await begin(tenant))["execution_id"]
    for _ in range(2):
        cancelled = await tenant.call("cancel_execution", p_id=execution_id)
        assert (cancelled["state"], cancelled["runner"]) == (RUNNING, RUNNER)
    assert await renew(tenant, execution_id) == {"lost": [], "cancel": [execution_id]}
    await tenant.settle(execution_id, "CANCELLED", p_runner=RUNNER)
    assert (await tenant.call("cancel_execution", p_id=execution_id))["state"] == "EXECUTION_STATE_CANCELLED"
    other = (await begin(tenant))["execution_id"]
    await tenant.settle(other)
    with pytest.raises(FailedPrecondition) as raised:
        await tenant.call("cancel_execution", p_id=other)
    assert raised.value.reason == "EXECUTION_ENDED"
    assert await available(superuser, tenant) == 9


async def test_who_may_cancel(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database, balance=10)
    execution_id = (await begin(tenant))["execution_id"]
    viewer, stranger = user(), user()
    await add_member(superuser, tenant.organization_id, viewer, "VIEWER")
    confined = await add_api_key(superuser, tenant.organization_id, workflow_ids=[str(uuid.uuid4())])
    foreign = await add_api_key(superuser, (await new_tenant(database)).organization_id)
    with pytest.raises(PermissionDenied):
        await database.call("cancel_execution", viewer, p_id=execution_id)
    for caller in (stranger, confined, foreign):
        with pytest.raises(NotFound):
            await database.call("cancel_execution", caller, p_id=execution_id)
    key = await add_api_key(superuser, tenant.organization_id, workflow_ids=[tenant.workflow_id])
    assert json.loads(await database.call("cancel_execution", key, p_id=execution_id))["runner"] == RUNNER


async def test_a_run_under_way_is_answered_to_who_can_wait_for_it(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=10)
    key: dict[str, Any] = {"p_idempotency_key": "key", "p_request_hash": "hash"}
    begun = await begin(tenant, **key)
    again = await begin(tenant, **key)
    assert (again["replayed"], again["in_progress"]) == (True, True)
    assert again["execution_id"] == begun["execution_id"]
    assert again["execution"]["state"] == RUNNING
    with pytest.raises(Aborted) as raised:
        await begin(tenant, **(key | {"p_request_hash": "other"}))
    assert raised.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_an_idempotency_key_is_free_again_after_a_day(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=10)
    key: dict[str, Any] = {"p_idempotency_key": "key", "p_request_hash": "hash"}
    first = await begin(tenant, **key)

    async def age(hours: int) -> None:
        await superuser.execute(
            "update executions set created_at = now() - make_interval(hours => $2)"
            " where id = $1 and not idempotency_key_expired",
            first["execution_id"],
            hours,
        )

    await age(25)
    assert (await begin(tenant, **key))["replayed"], "it has not ended"
    await tenant.settle(first["execution_id"])
    await age(23)
    assert (await begin(tenant, **key))["replayed"]
    await age(25)
    results = await asyncio.gather(*(begin(tenant, **(key | {"p_request_hash": "new"})) for _ in range(20)))
    begun = [result for result in results if not result["replayed"]]
    assert len(begun) == 1
    assert {result["execution_id"] for result in results} == {begun[0]["execution_id"]}
    assert (await get(tenant, first["execution_id"])).idempotency_key == "key"
    assert await available(superuser, tenant) == 8


async def test_a_confined_key_gets_no_stored_result_of_other_workflows(
    database: PostgresDatabase, superuser: Any
) -> None:
    """The request hash is the same where the default workflow has changed in between."""
    tenant = await new_tenant(database, balance=10)
    other = await tenant.call(
        "register_workflow",
        p_workflow={"organization_id": tenant.organization_id, "name": "other", "webhook_path": "other"},
    )

    async def set_default(workflow_id: str) -> None:
        await superuser.execute(
            "update organizations set default_workflow_id = $2 where id = $1",
            tenant.organization_id,
            workflow_id,
        )

    key: dict[str, Any] = {"p_idempotency_key": "key", "p_request_hash": "hash", "p_workflow_id": None}
    await set_default(tenant.workflow_id)
    begun = await begin(tenant, **key)
    await tenant.settle(begun["execution_id"], p_result='"not for all"')
    await set_default(other["id"])
    confined = await add_api_key(superuser, tenant.organization_id, workflow_ids=[other["id"]])
    with pytest.raises(Aborted) as raised:
        await tenant.begin(confined, **key)
    assert raised.value.reason == "IDEMPOTENCY_KEY_REUSED"
    assert raised.value.metadata == {}


PRICES = [
    ("PRICING_MODE_FIXED", 7, {"p_duration_ms": 99_000, "p_units": 99}, 20),
    ("PRICING_MODE_PER_SECOND", 7, {"p_duration_ms": 0}, 7),
    ("PRICING_MODE_PER_SECOND", 7, {"p_duration_ms": 1000}, 7),
    ("PRICING_MODE_PER_SECOND", 7, {"p_duration_ms": 1001}, 14),
    ("PRICING_MODE_PER_SECOND", 7, {"p_duration_ms": 2001}, 20),
    ("PRICING_MODE_PER_SECOND", 1_000_000, {"p_duration_ms": 2_147_483_647}, 20),
    ("PRICING_MODE_PER_SECOND", 7, {}, 7),
    ("PRICING_MODE_REPORTED_UNITS", 3, {"p_units": 4}, 12),
    ("PRICING_MODE_REPORTED_UNITS", 3, {"p_units": 7}, 20),
    ("PRICING_MODE_REPORTED_UNITS", 1_000_000, {"p_units": 2_147_483_647}, 20),
    ("PRICING_MODE_REPORTED_UNITS", 3, {"p_units": 0}, 0),
    ("PRICING_MODE_REPORTED_UNITS", 3, {"p_units": -5}, 0),
    ("PRICING_MODE_REPORTED_UNITS", 3, {}, 0),
]


@pytest.mark.parametrize(("mode", "unit", "arguments", "price"), PRICES)
async def test_what_a_run_costs(
    database: PostgresDatabase, superuser: Any, mode: str, unit: int, arguments: dict[str, Any], price: int
) -> None:
    tenant = await new_tenant(database, balance=100, price=20)
    await set_workflow(superuser, tenant, pricing_mode=mode, credits_per_unit=unit)
    begun = await begin(tenant)
    assert begun["credits_remaining"] == 80
    # A price that is raised meanwhile is not for runs under way.
    await set_workflow(superuser, tenant, credits_per_unit=9, credits_per_execution=90)
    settled = await tenant.settle(begun["execution_id"], **arguments)
    assert (settled["credits_used"], settled["credits_remaining"]) == (price, 100 - price)
    charges = [("CHARGE", -price, 100 - price)] if price else []
    assert await ledger(superuser, tenant) == [("GRANT", 100, 100), *charges]
    assert await available(superuser, tenant) == 100 - price


@pytest.mark.parametrize(
    ("policy", "used"), [("UNKNOWN_OUTCOME_POLICY_VOID", 0), ("UNKNOWN_OUTCOME_POLICY_CAPTURE", 20)]
)
async def test_an_unknown_outcome_is_charged_in_full_or_not_at_all(
    database: PostgresDatabase, superuser: Any, policy: str, used: int
) -> None:
    tenant = await new_tenant(database, balance=100, price=20)
    await set_workflow(
        superuser,
        tenant,
        pricing_mode="PRICING_MODE_PER_SECOND",
        credits_per_unit=1,
        unknown_outcome_policy=policy,
    )
    execution_id = (await begin(tenant))["execution_id"]
    settled = await tenant.settle(execution_id, "UNKNOWN", p_duration_ms=1)
    assert settled == {
        "state": "EXECUTION_STATE_UNKNOWN",
        "credits_used": used,
        "credits_remaining": 100 - used,
    }
    assert await available(superuser, tenant) == 100 - used


async def events(superuser: Any, tenant: Tenant) -> list[tuple[str, Any]]:
    await superuser.execute("select gateway.post_charges($1)", uuid.UUID(tenant.organization_id))
    rows = await superuser.fetch(
        "select type, payload from outbox_events where organization_id = $1 order by id",
        tenant.organization_id,
    )
    return [(row["type"], json.loads(row["payload"])) for row in rows]


async def test_a_low_balance_is_told_once_until_it_is_high_again(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=12, price=3)
    await superuser.execute(
        "update organizations set low_balance_threshold = 8, has_webhooks = true where id = $1",
        tenant.organization_id,
    )

    async def low() -> list[int]:
        found = [payload for kind, payload in await events(superuser, tenant) if kind == "credits.low"]
        assert all(payload["low_balance_threshold"] == 8 for payload in found)
        return [payload["balance"]["balance"] for payload in found]

    async def run(state: str) -> None:
        await tenant.settle((await begin(tenant))["execution_id"], state)
        await events(superuser, tenant)

    await run("COMPLETED")
    await run("FAILED")
    assert await low() == []
    await run("COMPLETED")
    await run("COMPLETED")
    assert await low() == [6]
    await tenant.database.call(
        "add_credits", None, p_organization_id=tenant.organization_id, p_amount=4, p_reference="too few"
    )
    assert await low() == [6]
    await tenant.database.call(
        "add_credits", None, p_organization_id=tenant.organization_id, p_amount=2, p_reference="enough"
    )
    await run("COMPLETED")
    assert await low() == [6, 6]


async def test_a_threshold_that_is_raised_above_the_balance_is_told_at_once(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=5)
    await superuser.execute(
        "update organizations set has_webhooks = true where id = $1", tenant.organization_id
    )
    for threshold in (5, 6, 7, 0, 6):
        changed = await tenant.call(
            "update_organization",
            p_id=tenant.organization_id,
            p_changes={"low_balance_threshold": threshold},
        )
        assert changed["low_balance_threshold"] == threshold
    told = [payload["low_balance_threshold"] for _, payload in await events(superuser, tenant)]
    assert told == [6, 6]


async def test_charges_are_posted_together_by_who_reads_and_who_sweeps(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=20, price=2)
    organization = {"p_organization_id": tenant.organization_id}

    async def run_some() -> None:
        begun = await asyncio.gather(*(begin(tenant) for _ in range(3)))
        await asyncio.gather(*(tenant.settle(run["execution_id"]) for run in begun))

    async def posted() -> int:
        count: int = await superuser.fetchval(
            "select count(*) from credit_entries where organization_id = $1 and amount < 0",
            tenant.organization_id,
        )
        return count

    await run_some()
    assert (await posted(), await available(superuser, tenant)) == (0, 14)
    balance = await tenant.call("get_credit_balance", **organization)
    assert (balance["balance"], balance["reserved"], balance["available"]) == (14, 0, 14)
    assert await posted() == 3
    await run_some()
    await sweep(tenant)
    assert await posted() == 6
    entries = (await tenant.call("list_credit_entries", **organization))["entries"]
    assert [entry["balance_after"] for entry in entries] == [8, 10, 12, 14, 16, 18, 20]


async def test_the_end_of_a_run_is_told_once_to_who_listens(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=10)

    async def every_end() -> None:
        settled = (await begin(tenant))["execution_id"]
        for _ in range(2):
            await tenant.settle(settled, p_result='"kept"')
        swept = (await begin(tenant))["execution_id"]
        await expire(superuser, swept)
        await sweep(tenant)
        cancelled = (await begin(tenant, p_queue=True))["execution_id"]
        await tenant.call("cancel_execution", p_id=cancelled)

    await every_end()
    assert await events(superuser, tenant) == []
    await superuser.execute(
        "update organizations set has_webhooks = true where id = $1", tenant.organization_id
    )
    await every_end()
    told = await events(superuser, tenant)
    assert {kind for kind, _ in told} == {"execution.finished"}
    states = [payload["execution"]["state"] for _, payload in told]
    assert states == [f"EXECUTION_STATE_{state}" for state in ("COMPLETED", "UNKNOWN", "CANCELLED")]
    assert all("result" not in payload["execution"] for _, payload in told)


@pytest.mark.parametrize(
    "states",
    [
        ["PENDING"],
        ["RUNNING"],
        ["PENDING", "RUNNING"],
        ["FAILED"],
        ["CANCELLED", "FAILED", "TIMED_OUT", "UNKNOWN"],
        ["COMPLETED"],
        ["COMPLETED", "FAILED", "RUNNING"],
    ],
)
async def test_a_list_is_of_the_states_that_are_asked_for(
    database: PostgresDatabase, states: list[str]
) -> None:
    tenant = await new_tenant(database, balance=100)
    in_state: dict[str, str] = {
        "RUNNING": (await begin(tenant))["execution_id"],
        "PENDING": (await begin(tenant, p_queue=True))["execution_id"],
    }
    for state in ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT", "UNKNOWN"):
        in_state[state] = (await begin(tenant))["execution_id"]
        await tenant.settle(in_state[state], state)
    filtered = {"states": [f"EXECUTION_STATE_{state}" for state in states]}
    listed = await tenant.call("list_executions", p_filter=filtered)
    assert {run["id"] for run in listed["executions"]} == {in_state[state] for state in states}
