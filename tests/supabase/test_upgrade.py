"""Databases of older versions, brought up to date."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from gateway.adapters.postgres import PostgresDatabase, migrations
from tests.adapters.databases import (
    AUTHENTICATOR_PASSWORD,
    Cluster,
    Tenant,
    add_credits,
    login,
    new_tenant,
)

TWO_PHASES = "20261122104000"


async def old_entries(superuser: Any, tenant: Tenant) -> list[tuple[str, int, int]]:
    rows = await superuser.fetch(
        "select kind::text, amount, balance_after from credit_entries where organization_id = $1 order by id",
        tenant.organization_id,
    )
    return [
        (row["kind"].removeprefix("CREDIT_ENTRY_KIND_"), row["amount"], row["balance_after"]) for row in rows
    ]


async def test_runs_that_were_charged_when_they_began_hold_their_price_instead(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await cluster.create()
    everything = migrations.migrations()
    before = [migration for migration in everything if migration.version < TWO_PHASES]
    monkeypatch.setattr(migrations, "migrations", lambda: before)
    await migrations.apply(str(url), local=True, authenticator_password=AUTHENTICATOR_PASSWORD)
    database = PostgresDatabase(login(url))
    superuser = await asyncpg.connect(str(url))
    try:
        tenant = await new_tenant(database, balance=100, price=3)
        bystander = await new_tenant(database, balance=7)
        completed, failed, *under_way = [(await tenant.begin())["execution_id"] for _ in range(5)]
        await tenant.settle(completed)
        await tenant.settle(failed, "FAILED")
        keyed = await tenant.begin(p_idempotency_key="key", p_request_hash="hash")
        assert (await old_entries(superuser, tenant))[-1] == ("CHARGE", -3, 85)

        monkeypatch.setattr(migrations, "migrations", lambda: everything)
        await migrations.apply(str(url), local=True)

        given_back = [("REFUND", 3, 85 + 3 * number) for number in range(1, 5)]
        assert (await old_entries(superuser, tenant))[-4:] == given_back
        account = await superuser.fetchrow(
            "select balance, reserved, granted, spent from credit_accounts where organization_id = $1",
            tenant.organization_id,
        )
        assert tuple(account) == (97, 12, 100, 3)
        states = await superuser.fetch(
            "select state::text, count(*) from reservations group by state order by state"
        )
        assert [tuple(row) for row in states] == [("CAPTURED", 1), ("HELD", 4), ("VOIDED", 1)]

        # What the older version calls, with what it knows of.
        assert (await tenant.settle(under_way[0]))["credits_remaining"] == 85
        assert (await tenant.settle(under_way[1], "TIMED_OUT"))["credits_remaining"] == 88
        assert (await tenant.settle(completed, "FAILED"))["credits_used"] == 3
        assert json.loads(await database.call("sweep_executions", None)) == []
        await tenant.settle(keyed["execution_id"], p_result='"kept"')
        again = await tenant.begin(p_idempotency_key="key", p_request_hash="hash")
        assert again["execution"]["result"] == "kept"
        begun = await tenant.begin()
        assert (begun["credits_remaining"], begun["replayed"]) == (85, False)
        assert (await add_credits(database, bystander.organization_id, 1))["balance"]["balance"] == 8
    finally:
        await superuser.close()
        await database.close()
