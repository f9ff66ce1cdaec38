from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import asyncpg
import pytest
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase
from gateway.gen.n8ngateway.v1.credit_pb import CreditEntryKind
from gateway.gen.n8ngateway.v1.credit_service_pb import AddCreditsResponse
from gateway.rpc.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from tests.adapters.databases import Tenant, add_credits, new_tenant


async def entries(superuser: Any, tenant: Tenant) -> int:
    count: int = await superuser.fetchval(
        "select count(*) from credit_entries where organization_id = $1", tenant.organization_id
    )
    return count


async def test_credits_are_added_with_an_entry(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    text = await database.call(
        "add_credits",
        None,
        p_organization_id=tenant.organization_id,
        p_amount=25,
        p_reference="invoice 7",
        p_description="November",
    )
    added = AddCreditsResponse.from_json(text, ignore_unknown_fields=True)
    assert added.entry is not None
    assert added.entry.kind is CreditEntryKind.GRANT
    assert (added.entry.amount, added.entry.balance_after) == (25, 25)
    assert (added.entry.description, added.entry.created_by) == ("November", "platform")
    assert added.balance is not None
    assert (added.balance.balance, added.balance.reserved, added.balance.available) == (25, 0, 25)


async def test_a_negative_amount_is_taken(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=10)
    taken = await add_credits(database, tenant.organization_id, -4)
    assert taken["entry"]["kind"] == "CREDIT_ENTRY_KIND_ADJUSTMENT"
    assert taken["balance"]["balance"] == 6
    with pytest.raises(FailedPrecondition) as raised:
        await add_credits(database, tenant.organization_id, -7)
    assert raised.value.reason == "INSUFFICIENT_CREDITS"
    assert raised.value.metadata == {"balance": "6", "price": "7"}
    assert raised.value.metadata == {"balance": "6", "price": "7"}


async def test_a_reference_adds_once_however_often_it_is_used(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database)
    results = await asyncio.gather(
        *(add_credits(database, tenant.organization_id, 5, "invoice 7") for _ in range(20))
    )
    assert sorted(result.pop("added_before") for result in results) == [False] + [True] * 19
    assert len({json.dumps(result, sort_keys=True) for result in results}) == 1
    assert results[0]["balance"]["balance"] == 5
    assert await entries(superuser, tenant) == 1
    with pytest.raises(Aborted) as raised:
        await add_credits(database, tenant.organization_id, 6, "invoice 7")
    assert raised.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_tenants_can_have_the_same_reference(database: PostgresDatabase) -> None:
    for _ in range(2):
        tenant = await new_tenant(database)
        assert (await add_credits(database, tenant.organization_id, 5, "invoice 7"))["balance"][
            "balance"
        ] == 5


async def test_a_balance_has_an_upper_end_and_what_is_held_counts(database: PostgresDatabase) -> None:
    """Or else giving back what is held could exceed what an integer holds."""
    tenant = await new_tenant(database, balance=2_000_000_000, price=1_000_000)
    begun = await tenant.begin()
    assert begun["credits_remaining"] == 1_999_000_000
    with pytest.raises(FailedPrecondition) as raised:
        await add_credits(database, tenant.organization_id, 1)
    assert raised.value.reason == "BALANCE_TOO_HIGH"
    settled = await tenant.settle(begun["execution_id"], "FAILED")
    assert settled["credits_remaining"] == 2_000_000_000


async def test_what_is_held_cannot_be_taken(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=10, price=3)
    begun = await tenant.begin()
    with pytest.raises(FailedPrecondition) as raised:
        await add_credits(database, tenant.organization_id, -8)
    assert raised.value.reason == "INSUFFICIENT_CREDITS"
    assert raised.value.metadata == {"balance": "7", "price": "8"}
    taken = await add_credits(database, tenant.organization_id, -7)
    assert {name: taken["balance"][name] for name in ("balance", "reserved", "available")} == {
        "balance": 3,
        "reserved": 3,
        "available": 0,
    }
    assert (await tenant.settle(begun["execution_id"]))["credits_remaining"] == 0


@pytest.mark.parametrize(
    ("amount", "reference"), [(0, "none"), (2**31, "too many"), (1, "x" * 256), (1, None), (None, "none")]
)
async def test_what_cannot_be_an_entry_is_refused(
    database: PostgresDatabase, superuser: Any, amount: int | None, reference: str | None
) -> None:
    tenant = await new_tenant(database, balance=10)
    with pytest.raises(InvalidArgument):
        await database.call(
            "add_credits",
            None,
            p_organization_id=tenant.organization_id,
            p_amount=amount,
            p_reference=reference,
        )
    assert await entries(superuser, tenant) == 1


async def charged(tenant: Tenant) -> str:
    """A run that was paid."""
    execution_id: str = (await tenant.begin())["execution_id"]
    await tenant.settle(execution_id)
    return execution_id


async def refund(
    database: PostgresDatabase, tenant: Tenant, execution_id: str, amount: int | None = None
) -> Any:
    text = await database.call(
        "refund_execution",
        None,
        p_organization_id=tenant.organization_id,
        p_execution_id=execution_id,
        p_amount=amount,
        p_description="It was of no use",
    )
    return json.loads(text)


async def usage(tenant: Tenant) -> int:
    found = await tenant.call("get_usage", p_organization_id=tenant.organization_id)
    credits_used: int = found["rows"][0]["credits_used"]
    return credits_used


async def is_right(database: PostgresDatabase, tenant: Tenant) -> bool:
    proof = await database.call("check_credits", None, p_organization_id=tenant.organization_id)
    return json.loads(proof) == {"accounts": 1, "found": 0, "violations": []}


# As whoever has the database could, past what it refuses by itself, and a restore that left something out.
TAMPERING = {
    "each organization has an account": ["delete from credit_accounts where organization_id = $1"],
    "each entry begins with the balance that another one ended with": [
        (
            "update credit_entries set amount = amount + 5"
            " where organization_id = $1 and kind = 'CREDIT_ENTRY_KIND_GRANT'"
        ),
        "update credit_accounts set balance = balance + 5, granted = granted + 5 where organization_id = $1",
    ],
    "each charge is of an execution": [
        "update credit_accounts set balance = balance + 5, spent = spent - 5 where organization_id = $1",
        (
            "insert into credit_entries (organization_id, kind, amount, balance_after)"
            " select $1, 'CREDIT_ENTRY_KIND_CHARGE', 5, balance from credit_accounts"
            " where organization_id = $1"
        ),
    ],
    "each reservation is of an execution": ["delete from executions where organization_id = $1"],
    "each execution has a reservation": ["delete from reservations where organization_id = $1"],
    "a run is charged what was captured of its reservation, once": [
        "update executions set credits_used = 0 where organization_id = $1"
    ],
    "what is reserved is the sum of the reservations under way and of charges to be posted": [
        "update credit_accounts set reserved = 1 where organization_id = $1"
    ],
    "the balance is the sum of the entries": [
        "delete from credit_entries where organization_id = $1 and kind = 'CREDIT_ENTRY_KIND_GRANT'"
    ],
    "a refund gives back a charge, at most what it was": [
        (
            "update credit_entries set amount = 8"
            " where organization_id = $1 and kind = 'CREDIT_ENTRY_KIND_REFUND'"
        )
    ],
}


@pytest.mark.parametrize("rule", TAMPERING)
async def test_a_ledger_that_was_tampered_with_is_not_right(
    database: PostgresDatabase, superuser: Any, rule: str
) -> None:
    tenant = await new_tenant(database, balance=20, price=7)
    execution_id = (await tenant.begin())["execution_id"]
    await tenant.settle(execution_id)
    await refund(database, tenant, execution_id, 3)
    assert await is_right(database, tenant)
    tampering = superuser.transaction()
    await tampering.start()
    try:
        await superuser.execute("set local session_replication_role = replica")
        for statement in TAMPERING[rule]:
            await superuser.execute(statement, uuid.UUID(tenant.organization_id))
        await superuser.execute("set local role service_role")
        proof = json.loads(await superuser.fetchval("select check_credits($1)", tenant.organization_id))
    finally:
        await tampering.rollback()
    assert rule in {violation["rule"] for violation in proof["violations"]}
    assert {violation["organization_id"] for violation in proof["violations"]} == {tenant.organization_id}


async def test_there_is_no_proof_of_an_unknown_organization(database: PostgresDatabase) -> None:
    with pytest.raises(NotFound) as raised:
        await database.call("check_credits", None, p_organization_id=str(uuid.uuid4()))
    assert raised.value.reason == "ORGANIZATION_NOT_FOUND"


async def test_entries_bear_times_in_their_order(database: PostgresDatabase, superuser_url: URL) -> None:
    tenant = await new_tenant(database)
    slow = await asyncpg.connect(str(superuser_url))
    try:
        async with slow.transaction():
            await slow.execute("set local role service_role")
            month = (await slow.fetchval("select clock_timestamp()")).isoformat()
            await add_credits(database, tenant.organization_id, 5)
            await slow.execute("select add_credits($1, 3, 'slow')", uuid.UUID(tenant.organization_id))
    finally:
        await slow.close()

    async def statement(**bounds: str) -> list[tuple[int, int]]:
        told = await tenant.call(
            "export_credit_entries", p_organization_id=tenant.organization_id, p_filter=bounds
        )
        return [(entry["amount"], entry["balance_after"]) for entry in told["entries"]]

    assert await statement(end_time=month) == []
    assert await statement(start_time=month) == [(5, 5), (3, 8)]


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59.9Z", "1970-01-01T00:00:00Z"])
@pytest.mark.parametrize("function", ["list_credit_entries", "export_credit_entries"])
async def test_a_time_of_old_leaves_out_nothing(
    database: PostgresDatabase, function: str, since: str
) -> None:
    tenant = await new_tenant(database, balance=20)
    told = await tenant.call(
        function, p_organization_id=tenant.organization_id, p_filter={"start_time": since}
    )
    assert [entry["amount"] for entry in told["entries"]] == [20]
    told = await tenant.call(function, p_organization_id=tenant.organization_id, p_filter={"end_time": since})
    assert told["entries"] == []


@pytest.mark.parametrize("amount", [None, 3, 7])
async def test_a_charge_is_given_back_once_however_often_that_is_asked_for(
    database: PostgresDatabase, amount: int | None
) -> None:
    tenant = await new_tenant(database, balance=20, price=7)
    execution_id, kept = await charged(tenant), await charged(tenant)
    results = await asyncio.gather(*(refund(database, tenant, execution_id, amount) for _ in range(10)))
    assert len({json.dumps(result, sort_keys=True) for result in results}) == 1
    entry = results[0]["entry"]
    given = amount or 7
    assert (entry["kind"], entry["amount"], entry["balance_after"]) == (
        "CREDIT_ENTRY_KIND_REFUND",
        given,
        6 + given,
    )
    assert (entry["execution_id"], entry["description"]) == (execution_id, "It was of no use")
    assert entry["created_by"] == "platform"
    assert results[0]["balance"]["available"] == 6 + given
    with pytest.raises(Aborted) as raised:
        await refund(database, tenant, execution_id, 5)
    assert (raised.value.reason, raised.value.metadata) == ("ALREADY_REFUNDED", {"amount": str(given)})
    assert await usage(tenant) == 14 - given
    page = await tenant.call("export_usage", p_organization_id=tenant.organization_id)
    given_back = {row["id"]: (row["credits_used"], row["credits_refunded"]) for row in page["executions"]}
    assert given_back == {execution_id: (7, given), kept: (7, 0)}
    stored = await tenant.call("get_execution", p_id=execution_id)
    assert stored["credits_used"] == 7
    assert await is_right(database, tenant)


async def test_no_more_is_given_back_than_was_charged(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=20, price=7)
    execution_id = await charged(tenant)
    with pytest.raises(FailedPrecondition) as raised:
        await refund(database, tenant, execution_id, 8)
    assert (raised.value.reason, raised.value.metadata) == ("REFUND_ABOVE_CHARGE", {"charged": "7"})
    for amount in (0, -1):
        with pytest.raises(InvalidArgument) as refused:
            await refund(database, tenant, execution_id, amount)
        assert list(refused.value.fields) == ["amount"]
    assert (await add_credits(database, tenant.organization_id, 1))["balance"]["balance"] == 14
    assert await is_right(database, tenant)


async def test_what_was_not_charged_is_not_given_back(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=20, price=7)
    failed, running = [(await tenant.begin())["execution_id"] for _ in range(2)]
    await tenant.settle(failed, "FAILED")
    for execution_id, told in ((failed, "Nothing was charged"), (running, "under way")):
        with pytest.raises(FailedPrecondition, match=told) as raised:
            await refund(database, tenant, execution_id)
        assert raised.value.reason == "NOT_CHARGED"
    other = await new_tenant(database, balance=20, price=7)
    for stranger, execution_id in ((other, failed), (tenant, str(uuid.uuid4()))):
        with pytest.raises(NotFound) as missing:
            await refund(database, stranger, execution_id)
        assert missing.value.reason == "EXECUTION_NOT_FOUND"


async def test_an_unknown_organization_is_not_found(database: PostgresDatabase) -> None:
    with pytest.raises(NotFound) as raised:
        await add_credits(database, str(uuid.uuid4()), 1)
    assert raised.value.reason == "ORGANIZATION_NOT_FOUND"


async def test_callers_cannot_add_credits(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    with pytest.raises(PermissionDenied):
        await tenant.call(
            "add_credits", p_organization_id=tenant.organization_id, p_amount=1, p_reference="mine"
        )


async def test_being_let_in_is_not_enough_to_add_credits(database: PostgresDatabase, superuser: Any) -> None:
    """EXECUTE alone, as authenticator has it, does not pass for being the gateway."""
    tenant = await new_tenant(database)
    with pytest.raises(Exception, match="Only the gateway itself"):
        await superuser.fetch("select add_credits($1, 1, 'mine')", uuid.UUID(tenant.organization_id))
