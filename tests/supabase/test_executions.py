from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from gateway.adapters.postgres import PostgresDatabase
from gateway.gen.n8ngateway.v1.execution_pb import Execution, ExecutionState
from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.rpc.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from gateway.rpc.status import DETAIL_TYPES
from gateway.rpc.stored_json import message_of
from tests.adapters.databases import Tenant, add_member, new_tenant, user

NOT_CHARGED = ["FAILED", "CANCELLED", "TIMED_OUT"]


async def ledger(superuser: Any, tenant: Tenant) -> list[tuple[str, int, int]]:
    await superuser.execute("select gateway.post_charges($1)", uuid.UUID(tenant.organization_id))
    rows = await superuser.fetch(
        "select kind::text, amount, balance_after from credit_entries where organization_id = $1 order by id",
        tenant.organization_id,
    )
    return [
        (row["kind"].removeprefix("CREDIT_ENTRY_KIND_"), row["amount"], row["balance_after"]) for row in rows
    ]


async def available(superuser: Any, tenant: Tenant) -> int:
    """Return the credits that are not held, having checked that the ledger agrees."""
    row = await superuser.fetchrow(
        "select a.balance, a.reserved, (select coalesce(sum(amount), 0) from credit_entries e"
        " where e.organization_id = a.organization_id) as sum, (select coalesce(sum(amount), 0)"
        " from reservations r where r.organization_id = a.organization_id and r.state = 'HELD')"
        " + (select coalesce(sum(credits), 0) from unposted_charges u"
        " where u.organization_id = a.organization_id) as held"
        " from credit_accounts a where organization_id = $1",
        tenant.organization_id,
    )
    assert (row["balance"], row["reserved"]) == (row["sum"], row["held"])
    return int(row["balance"] - row["reserved"])


async def reservations(superuser: Any, tenant: Tenant) -> list[tuple[str, int, int]]:
    rows = await superuser.fetch(
        "select state::text, amount, captured from reservations where organization_id = $1"
        " order by created_at",
        tenant.organization_id,
    )
    return [tuple(row) for row in rows]


async def get(tenant: Tenant, execution_id: str) -> Execution:
    text = await tenant.database.call("get_execution", tenant.owner, p_id=execution_id)
    return Execution.from_json(text, registry=DETAIL_TYPES, ignore_unknown_fields=True)


TOLD_OF_WORKFLOWS = {
    *("id", "webhook_path", "response_mode", "credential_mode", "is_idempotent", "unknown_outcome_policy"),
    *("timeout_seconds", "idle_timeout_seconds"),
}
"""What a runner has to know."""


async def test_a_begun_execution_holds_its_price_and_runs(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database, balance=10, price=3)
    execution_id = str(uuid.uuid4())
    begun = await tenant.begin(p_execution_id=execution_id, p_metadata={"source": "test"})
    workflow = begun.pop("workflow")
    assert begun == {
        "replayed": False,
        "execution_id": execution_id,
        "organization_id": tenant.organization_id,
        "state": "EXECUTION_STATE_RUNNING",
        "credits": 3,
        "credits_remaining": 7,
    }
    registered = await tenant.call("get_workflow", p_id=tenant.workflow_id)
    assert workflow == {name: registered[name] for name in TOLD_OF_WORKFLOWS}
    assert await ledger(superuser, tenant) == [("GRANT", 10, 10)]
    assert await reservations(superuser, tenant) == [("HELD", 3, 0)]
    assert await available(superuser, tenant) == 7
    stored = await get(tenant, execution_id)
    assert stored.state is ExecutionState.RUNNING
    assert (stored.credits_reserved, stored.credits_used) == (3, 0)
    assert stored.metadata == {"source": "test"}
    assert stored.created_by == tenant.owner.subject
    assert stored.started_at is not None
    assert stored.finished_at is None


async def test_a_completed_execution_is_charged(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database, balance=10, price=3)
    execution_id = (await tenant.begin())["execution_id"]
    settled = await tenant.settle(
        execution_id, p_duration_ms=150, p_result={"answer": [1, None, "é"]}, p_n8n_execution_id="77"
    )
    assert settled == {"state": "EXECUTION_STATE_COMPLETED", "credits_used": 3, "credits_remaining": 7}
    stored = await get(tenant, execution_id)
    assert stored.state is ExecutionState.COMPLETED
    assert (stored.credits_reserved, stored.credits_used, stored.execution_time_ms) == (0, 3, 150)
    assert stored.n8n_execution_id == "77"
    assert stored.result is not None
    assert json.loads(stored.result.to_json()) == {"answer": [1, None, "é"]}
    assert stored.finished_at is not None
    assert await ledger(superuser, tenant) == [("GRANT", 10, 10), ("CHARGE", -3, 7)]
    assert await reservations(superuser, tenant) == [("CAPTURED", 3, 3)]


@pytest.mark.parametrize("state", NOT_CHARGED)
async def test_an_execution_that_did_not_complete_costs_nothing(
    database: PostgresDatabase, superuser: Any, state: str
) -> None:
    tenant = await new_tenant(database, balance=10, price=3)
    execution_id = (await tenant.begin())["execution_id"]
    settled = await tenant.settle(execution_id, state, p_error={"code": 2, "message": "no"})
    assert settled == {"state": f"EXECUTION_STATE_{state}", "credits_used": 0, "credits_remaining": 10}
    assert await ledger(superuser, tenant) == [("GRANT", 10, 10)]
    assert await reservations(superuser, tenant) == [("VOIDED", 3, 0)]
    assert await available(superuser, tenant) == 10
    stored = await get(tenant, execution_id)
    assert stored.error is not None
    assert (stored.error.code, stored.error.message) == (2, "no")
    assert (stored.credits_reserved, stored.credits_used) == (0, 0)


async def test_what_has_ended_stays_as_it_ended(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database, balance=10)
    states = ["COMPLETED", *NOT_CHARGED]
    for first in states:
        execution_id = (await tenant.begin())["execution_id"]
        settled = await tenant.settle(execution_id, first)
        stored = await get(tenant, execution_id)
        before = await ledger(superuser, tenant)
        for second in states:
            assert await tenant.settle(execution_id, second, p_result={"x": 1}) == settled
        assert await get(tenant, execution_id) == stored
        assert await ledger(superuser, tenant) == before
    assert await available(superuser, tenant) == 9


@pytest.mark.parametrize("states", [NOT_CHARGED, ["COMPLETED", *NOT_CHARGED], ["COMPLETED"]])
async def test_a_reservation_is_resolved_once_however_many_settle(
    database: PostgresDatabase, superuser: Any, states: list[str]
) -> None:
    tenant = await new_tenant(database, balance=10)
    execution_id = (await tenant.begin())["execution_id"]
    results = await asyncio.gather(*(tenant.settle(execution_id, states[n % len(states)]) for n in range(30)))
    assert len({json.dumps(result, sort_keys=True) for result in results}) == 1
    charged = int(results[0]["state"] == "EXECUTION_STATE_COMPLETED")
    assert await available(superuser, tenant) == 10 - charged
    assert len(await ledger(superuser, tenant)) == 1 + charged


async def test_not_even_the_owner_resolves_a_reservation_again(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=10)
    execution_id = (await tenant.begin())["execution_id"]
    await tenant.settle(execution_id, "FAILED", p_result={"x": 1}, p_duration_ms=7)
    query = "select to_jsonb(e) from executions e where id = $1"
    stored = await superuser.fetchval(query, uuid.UUID(execution_id))
    for credits_used in ("1", "null"):
        again = f"gateway.end_execution(r, 'EXECUTION_STATE_COMPLETED', {credits_used})"
        told = await superuser.fetchval(
            f"select to_jsonb({again}) from reservations r where execution_id = $1", uuid.UUID(execution_id)
        )
        assert told == stored
    assert await superuser.fetchval(query, uuid.UUID(execution_id)) == stored
    assert await available(superuser, tenant) == 10
    for statement in ("update reservations set state = 'HELD'", "delete from reservations"):
        with pytest.raises(Exception, match="append-only"):
            await superuser.execute(f"{statement} where execution_id = $1", uuid.UUID(execution_id))


async def test_an_account_that_does_not_balance_cannot_be_written(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=10)
    for change in ("balance = 11", "spent = 1", "granted = 9", "reserved = 11", "reserved = -1"):
        with pytest.raises(Exception, match="credit_accounts_balance_check"):
            await superuser.execute(
                f"update credit_accounts set {change} where organization_id = $1",
                uuid.UUID(tenant.organization_id),
            )


@pytest.mark.parametrize(
    "statement",
    ["update credit_entries set amount = 1000", "delete from credit_entries", "truncate credit_entries"],
)
async def test_the_ledger_is_append_only(database: PostgresDatabase, superuser: Any, statement: str) -> None:
    await new_tenant(database, balance=10)
    with pytest.raises(Exception, match="append-only"):
        await superuser.execute(statement)


async def test_200_at_once_on_a_balance_of_50_are_exactly_50(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=50)
    results = await asyncio.gather(*(tenant.begin() for _ in range(200)), return_exceptions=True)
    begun = [result for result in results if isinstance(result, dict)]
    refused = [result for result in results if isinstance(result, FailedPrecondition)]
    assert (len(begun), len(refused)) == (50, 150)
    assert {error.reason for error in refused} == {"INSUFFICIENT_CREDITS"}
    assert sorted(result["credits_remaining"] for result in begun) == list(range(50))
    assert await available(superuser, tenant) == 0
    count = await superuser.fetchval(
        "select count(*) from executions where organization_id = $1", tenant.organization_id
    )
    assert count == 50


async def test_too_few_credits_say_how_many_and_write_nothing(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=2, price=3)
    with pytest.raises(FailedPrecondition) as raised:
        await tenant.begin()
    assert raised.value.reason == "INSUFFICIENT_CREDITS"
    assert raised.value.metadata == {"balance": "2", "price": "3"}
    assert await ledger(superuser, tenant) == [("GRANT", 2, 2)]
    assert (
        await superuser.fetchval(
            "select count(*) from executions where organization_id = $1", tenant.organization_id
        )
        == 0
    )


async def test_a_free_workflow_needs_no_credits_and_leaves_no_entry(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, price=0)
    for state in ("COMPLETED", "FAILED"):
        begun = await tenant.begin()
        assert (begun["credits"], begun["credits_remaining"]) == (0, 0)
        settled = await tenant.settle(begun["execution_id"], state)
        assert (settled["credits_used"], settled["credits_remaining"]) == (0, 0)
    assert await ledger(superuser, tenant) == []


@pytest.mark.parametrize(("agreed", "runs"), [(None, True), (4, True), (3, True), (2, False), (0, False)])
async def test_a_run_costs_at_most_what_the_caller_agreed_to(
    database: PostgresDatabase, agreed: int | None, *, runs: bool
) -> None:
    tenant = await new_tenant(database, balance=10, price=3)
    if runs:
        assert (await tenant.begin(p_credits=agreed))["credits"] == 3
        return
    with pytest.raises(FailedPrecondition) as raised:
        await tenant.begin(p_credits=agreed)
    assert raised.value.reason == "PRICE_ABOVE_LIMIT"
    assert raised.value.metadata == {"price": "3", "limit": str(agreed)}


async def test_an_inactive_workflow_does_not_run(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=10)
    await tenant.call("set_workflow_active", p_id=tenant.workflow_id, p_active=False)
    with pytest.raises(FailedPrecondition) as raised:
        await tenant.begin()
    assert raised.value.reason == "WORKFLOW_INACTIVE"


async def test_an_archived_workflow_is_not_found(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database, balance=10)
    await superuser.execute("update workflows set archived_at = now() where id = $1", tenant.workflow_id)
    with pytest.raises(NotFound) as raised:
        await tenant.begin()
    assert raised.value.reason == "WORKFLOW_NOT_FOUND"


async def test_a_call_that_names_no_workflow_runs_the_default_one(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=10)
    with pytest.raises(FailedPrecondition) as raised:
        await tenant.begin(p_workflow_id=None)
    assert raised.value.reason == "WORKFLOW_REQUIRED"
    assert list(raised.value.fields) == ["workflow_id"]
    await superuser.execute(
        "update organizations set default_workflow_id = $2 where id = $1",
        tenant.organization_id,
        tenant.workflow_id,
    )
    begun = await tenant.begin(p_workflow_id=None)
    assert message_of(begun["workflow"], Workflow).id == tenant.workflow_id


@pytest.mark.parametrize(
    ("role", "allowed"), [("OWNER", True), ("ADMIN", True), ("MEMBER", True), ("VIEWER", False)]
)
async def test_who_may_run_workflows(
    database: PostgresDatabase, superuser: Any, role: str, *, allowed: bool
) -> None:
    tenant = await new_tenant(database, balance=10)
    caller = user()
    await add_member(superuser, tenant.organization_id, caller, role)
    if allowed:
        begun = await tenant.begin(caller)
        assert (await get(tenant, begun["execution_id"])).created_by == caller.subject
        return
    with pytest.raises(PermissionDenied) as raised:
        await tenant.begin(caller)
    assert raised.value.reason == "ROLE_INSUFFICIENT"


async def test_nobody_runs_for_an_organization_of_others(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=10)
    with pytest.raises(NotFound) as raised:
        await tenant.begin(user())
    assert raised.value.reason == "ORGANIZATION_NOT_FOUND"


async def test_a_used_idempotency_key_gets_the_first_answer_and_is_not_charged(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=10, price=3)
    key: dict[str, Any] = {"p_idempotency_key": "key", "p_request_hash": "hash"}
    begun = await tenant.begin(**key)
    with pytest.raises(Aborted) as raised:
        await tenant.begin(**key)
    assert raised.value.reason == "IDEMPOTENCY_KEY_IN_USE"
    assert raised.value.metadata == {"execution_id": begun["execution_id"]}
    settled = await tenant.settle(begun["execution_id"], p_result='"done"', p_duration_ms=5)
    # The answer stays the same when the workflow, the price or the balance would not allow it any more.
    await tenant.begin()
    await tenant.begin()
    await tenant.call("set_workflow_active", p_id=tenant.workflow_id, p_active=False)
    before = await ledger(superuser, tenant)
    for _ in range(2):
        replayed = await tenant.begin(**key)
        execution = Execution.from_json(json.dumps(replayed.pop("execution")))
        assert execution == await get(tenant, begun["execution_id"])
        assert replayed == {
            "replayed": True,
            "in_progress": False,
            "execution_id": begun["execution_id"],
            "organization_id": tenant.organization_id,
            "credits_remaining": settled["credits_remaining"],
        }
    assert await ledger(superuser, tenant) == before


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1s"}


@pytest.mark.parametrize(
    ("state", "details", "is_free"),
    [
        ("FAILED", [RETRY_INFO], True),
        ("FAILED", [], False),
        ("UNKNOWN", [RETRY_INFO], False),
        ("COMPLETED", None, False),
        (None, None, False),
    ],
)
async def test_the_key_of_a_run_that_was_never_sent_is_released(
    database: PostgresDatabase, superuser: Any, state: str | None, details: Any, *, is_free: bool
) -> None:
    tenant = await new_tenant(database, balance=10, price=3)
    key: dict[str, Any] = {"p_idempotency_key": "key", "p_request_hash": "hash", "p_runner": "r"}
    begun = await tenant.begin(**key)
    if state is not None:
        error = None if details is None else json.dumps({"code": 14, "message": "away", "details": details})
        await tenant.settle(begun["execution_id"], state, p_error=error)
    release = {"p_execution_id": begun["execution_id"]}
    for released in (is_free, False):
        told = json.loads(await database.call("release_idempotency_key", None, **release))
        assert told == {"released": released}
    again = await tenant.begin(**key)
    assert again["replayed"] is not is_free
    assert (again["execution_id"] != begun["execution_id"]) is is_free
    if is_free:
        await tenant.settle(again["execution_id"])
        assert await available(superuser, tenant) == 7


async def test_an_idempotency_key_stands_for_one_request(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=10)
    begun = await tenant.begin(p_idempotency_key="key", p_request_hash="one")
    for settled in (False, True):
        if settled:
            await tenant.settle(begun["execution_id"])
        with pytest.raises(Aborted) as raised:
            await tenant.begin(p_idempotency_key="key", p_request_hash="two")
        assert raised.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_of_many_with_one_idempotency_key_one_runs(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database, balance=10)
    results = await asyncio.gather(
        *(tenant.begin(p_idempotency_key="key", p_request_hash="hash") for _ in range(30)),
        return_exceptions=True,
    )
    begun = [result for result in results if isinstance(result, dict)]
    assert len(begun) == 1
    assert all(isinstance(result, dict | Aborted) for result in results)
    assert await available(superuser, tenant) == 9


async def test_tenants_can_use_the_same_idempotency_key(database: PostgresDatabase) -> None:
    key: dict[str, Any] = {"p_idempotency_key": "key", "p_request_hash": "hash"}
    for _ in range(2):
        tenant = await new_tenant(database, balance=1)
        assert (await tenant.begin(**key))["replayed"] is False


async def test_an_execution_id_is_used_once(database: PostgresDatabase, superuser: Any) -> None:
    tenant, other = await new_tenant(database, balance=10), await new_tenant(database, balance=10)
    execution_id = (await tenant.begin())["execution_id"]
    for second in (tenant, other):
        with pytest.raises(AlreadyExists) as raised:
            await second.begin(p_execution_id=execution_id)
        assert raised.value.metadata == {}
    assert await available(superuser, tenant) == 9
    assert await available(superuser, other) == 10


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"p_metadata": []}, "metadata"),
        ({"p_execution_id": None}, "id"),
        ({"p_execution_id": "x"}, "execution_id"),
        ({"p_idempotency_key": "x" * 256}, None),
    ],
)
async def test_an_argument_that_does_not_fit_is_named(
    database: PostgresDatabase, arguments: dict[str, Any], field: str | None
) -> None:
    tenant = await new_tenant(database, balance=10)
    with pytest.raises(InvalidArgument) as raised:
        await tenant.begin(**arguments)
    assert list(raised.value.fields) == ([field] if field else [])


async def test_only_an_end_settles_and_only_what_was_begun(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=10)
    execution_id = (await tenant.begin())["execution_id"]
    for state in ("RUNNING", "PENDING", "UNSPECIFIED", "NONSENSE"):
        with pytest.raises(InvalidArgument):
            await tenant.settle(execution_id, state)
    with pytest.raises(NotFound) as raised:
        await tenant.settle(str(uuid.uuid4()))
    assert raised.value.reason == "EXECUTION_NOT_FOUND"


async def test_what_is_settled_is_of_the_organization_that_is_named(database: PostgresDatabase) -> None:
    mine, other = [await new_tenant(database, balance=5, price=2) for _ in range(2)]
    execution_id = (await mine.begin())["execution_id"]
    with pytest.raises(NotFound) as refused:
        await mine.settle(execution_id, p_organization_id=other.organization_id)
    assert refused.value.reason == "EXECUTION_NOT_FOUND"
    settled = await mine.settle(execution_id, p_organization_id=mine.organization_id)
    assert (settled["credits_used"], settled["credits_remaining"]) == (2, 3)


async def test_callers_cannot_settle(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=10)
    execution_id = (await tenant.begin())["execution_id"]
    with pytest.raises(PermissionDenied):
        await tenant.call("settle_execution", p_execution_id=execution_id, p_state="EXECUTION_STATE_FAILED")


async def test_another_tenants_execution_is_like_none(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=10)
    execution_id = (await tenant.begin())["execution_id"]
    for unknown in (execution_id, str(uuid.uuid4())):
        with pytest.raises(NotFound) as raised:
            await database.call("get_execution", user(), p_id=unknown)
        assert raised.value.reason == "EXECUTION_NOT_FOUND"


async def test_a_large_result_is_kept_and_a_cut_one_says_so(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=10)
    execution_id = (await tenant.begin())["execution_id"]
    await tenant.settle(execution_id, p_result='"' + "x" * 262_000 + '"', p_result_truncated=True)
    stored = await get(tenant, execution_id)
    assert stored.result_truncated
    assert stored.result is not None
    assert len(stored.result.to_json()) == 262_002


async def test_a_call_that_names_neither_workflow_nor_organization_is_refused(
    database: PostgresDatabase,
) -> None:
    """Or else whoever gives somebody a membership would get what that one sends."""
    tenant = await new_tenant(database)
    with pytest.raises(InvalidArgument) as raised:
        await database.call("begin_execution", tenant.owner, p_execution_id=str(uuid.uuid4()))
    assert raised.value.reason == "ORGANIZATION_REQUIRED"
