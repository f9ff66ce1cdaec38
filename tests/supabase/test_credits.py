from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

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
    added = AddCreditsResponse.from_json(text)
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


async def test_a_reference_adds_once_however_often_it_is_used(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database)
    results = await asyncio.gather(
        *(add_credits(database, tenant.organization_id, 5, "invoice 7") for _ in range(20))
    )
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
