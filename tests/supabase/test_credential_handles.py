from __future__ import annotations

import asyncio
import json
import os
import uuid
from typing import Any

import pytest

from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.vault import SealedVault
from gateway.executions.credentials import StoredCredentials, hash_of
from gateway.rpc.errors import FailedPrecondition, PermissionDenied
from tests.adapters.databases import Tenant, new_tenant

REPLICA = "replica-1"


class Begun:
    """A run of a tenant with a credential, and its handle."""

    def __init__(self, tenant: Tenant, vault: SealedVault, execution_id: str, handle: str) -> None:
        self.tenant = tenant
        self.execution_id = execution_id
        self.handle = handle
        self._vault = vault

    async def again(self, replica: str = REPLICA) -> str:
        """The handle of another attempt, of this replica."""
        credentials = StoredCredentials(self.tenant.database, self._vault, replica)
        return await credentials.handle(self.execution_id)

    async def redeem(self, execution_id: str = "", handle: str = "", **arguments: Any) -> Any:
        text = await self.tenant.database.call(
            "redeem_credential_handle",
            None,
            p_handle_hash=hash_of(handle or self.handle),
            p_execution_id=execution_id or self.execution_id,
            **arguments,
        )
        return json.loads(text)


@pytest.fixture
async def begun(database: PostgresDatabase) -> Begun:
    tenant = await new_tenant(database, balance=5)
    vault = SealedVault(database, [("1", os.urandom(32))])
    envelopes = {
        name: vault.seal(tenant.organization_id, f"credential/{name}", "value") for name in ("A", "AB")
    }
    await tenant.call("store_credentials", p_organization_id=tenant.organization_id, p_credentials=envelopes)
    execution_id = (await tenant.begin(p_runner=REPLICA))["execution_id"]
    handle = await StoredCredentials(database, vault, REPLICA).handle(execution_id)
    return Begun(tenant, vault, execution_id, handle)


async def refused(begun: Begun, **arguments: Any) -> None:
    with pytest.raises(PermissionDenied) as raised:
        await begun.redeem(**arguments)
    assert raised.value.reason == "HANDLE_INVALID"


@pytest.mark.parametrize(
    ("names", "found"), [([], ["credential/A", "credential/AB"]), (["A", "missing"], ["credential/A"])]
)
async def test_a_handle_gives_its_own_run_what_it_names_or_all(
    begun: Begun, names: list[str], found: list[str]
) -> None:
    redeemed = await begun.redeem(p_names=names)
    assert redeemed["organization_id"] == begun.tenant.organization_id
    assert sorted(redeemed["secrets"]) == found
    await refused(begun)


async def test_of_ten_that_redeem_at_once_one_is_given(begun: Begun) -> None:
    results = await asyncio.gather(*(begun.redeem() for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(result, dict) for result in results) == 1


async def test_another_run_is_refused_and_spoils_nothing(begun: Begun) -> None:
    other = (await begun.tenant.begin())["execution_id"]
    await refused(begun, execution_id=other)
    await refused(begun, execution_id=str(uuid.uuid4()))
    await refused(begun, handle="gw_handle_of_nobody")
    assert await begun.redeem()


async def test_an_own_n8n_of_another_organization_is_refused(begun: Begun) -> None:
    await refused(begun, p_organization_ids=[str(uuid.uuid4())])
    assert await begun.redeem(p_organization_ids=[begun.tenant.organization_id])


async def test_after_5_minutes_it_is_too_late(begun: Begun, superuser: Any) -> None:
    lifetime = await superuser.fetchval(
        "select h.expires_at - e.created_at from credential_handles h"
        " join executions e on e.id = h.execution_id where h.execution_id = $1",
        uuid.UUID(begun.execution_id),
    )
    assert round(lifetime.total_seconds() / 10) == 30
    await superuser.execute(
        "update credential_handles set expires_at = now() where execution_id = $1",
        uuid.UUID(begun.execution_id),
    )
    await refused(begun)


async def test_a_run_that_has_ended_is_refused(begun: Begun) -> None:
    await begun.tenant.settle(begun.execution_id)
    await refused(begun)


async def test_each_attempt_of_a_run_has_a_handle_of_its_own(begun: Begun) -> None:
    """Whether the one before was used or not, it opens nothing any more."""
    second = await begun.again()
    await refused(begun)
    assert await begun.redeem(handle=second)
    third = await begun.again()
    await refused(begun, handle=second)
    assert await begun.redeem(handle=third)


async def test_a_replica_that_has_lost_a_run_takes_its_handle_from_nobody(begun: Begun) -> None:
    with pytest.raises(FailedPrecondition) as raised:
        await begun.again("replica-2")
    assert raised.value.reason == "LEASE_LOST"
    assert await begun.redeem()


async def test_a_run_that_has_ended_gets_no_handle(begun: Begun) -> None:
    await begun.tenant.settle(begun.execution_id)
    with pytest.raises(FailedPrecondition):
        await begun.again()


async def test_the_handle_itself_is_not_stored(begun: Begun, superuser: Any) -> None:
    row = await superuser.fetchrow(
        "select * from credential_handles where execution_id = $1", uuid.UUID(begun.execution_id)
    )
    assert begun.handle.removeprefix("gw_handle_") not in str(dict(row))
