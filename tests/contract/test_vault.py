"""What every vault does."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from yarl import URL

from gateway.adapters.database import Database
from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.vault import SealedVault, SupabaseVault, Vault
from gateway.rpc.errors import FailedPrecondition, PermissionDenied
from tests.adapters.databases import Cluster, Tenant, login, new_tenant
from tests.adapters.postgrest import Postgrests, Project

KEYS = [("2", os.urandom(32)), ("1", os.urandom(32))]
VALUES = ["x", "hunter2 ☃ \n\"quoted\" \\ 'it''s'", "é" * 32768, json.dumps({"plain": "nested"})]

Make = Callable[[Database], Vault]


def sealed(database: Database) -> Vault:
    return SealedVault(database, KEYS)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream(superuser_url: URL, postgrests: Postgrests) -> str:
    """A PostgREST in front of the database."""
    return (await postgrests.serve(superuser_url)).url


@pytest.fixture(params=["direct", "rest"])
async def database(
    request: pytest.FixtureRequest, superuser_url: URL, upstream: str
) -> AsyncIterator[Database]:
    """Both ways to it."""
    if request.param == "direct":
        opened: Database = PostgresDatabase(login(superuser_url))
        yield opened
        await opened.close()
        return
    async with Project(upstream) as project:
        opened = project.database()
        yield opened
        await opened.close()


@pytest.fixture(params=[SupabaseVault, sealed], ids=["supabase", "sealed"])
def vault(request: pytest.FixtureRequest, database: Database) -> Vault:
    made: Vault = request.param(database)
    return made


async def keep(vault: Vault, tenant: Tenant, **values: str) -> None:
    envelopes = {
        name: vault.seal(tenant.organization_id.upper(), f"credential/{name}", value)
        for name, value in values.items()
    }
    await tenant.call("store_credentials", p_organization_id=tenant.organization_id, p_credentials=envelopes)


async def reveal(vault: Vault, tenant: Tenant) -> dict[str, str]:
    found = await vault.reveal(tenant.organization_id, prefix="credential/")
    return {name.removeprefix("credential/"): value for name, value in found.items()}


@pytest.mark.parametrize("value", VALUES, ids=["short", "odd", "longest", "like an envelope"])
async def test_what_is_kept_is_revealed(database: Database, vault: Vault, value: str) -> None:
    tenant = await new_tenant(database)
    await keep(vault, tenant, TOKEN=value)
    assert await reveal(vault, tenant) == {"TOKEN": value}


async def test_credentials_have_a_bound_together(database: Database, vault: Vault) -> None:
    tenant = await new_tenant(database)
    most = {f"LONG_{number}": "x" * (1 << 16) for number in range(7)}
    await keep(vault, tenant, **most, REST="x" * ((1 << 16) - 64))
    await keep(vault, tenant, REST="y" * ((1 << 16) - 64))
    with pytest.raises(FailedPrecondition) as caught:
        await keep(vault, tenant, MORE="x" * 128)
    assert caught.value.reason == "CREDENTIALS_FULL"
    assert await reveal(vault, tenant) == {**most, "REST": "y" * ((1 << 16) - 64)}


async def test_names_are_revealed_exactly_and_prefixes_whole(database: Database, vault: Vault) -> None:
    tenant = await new_tenant(database)
    await keep(vault, tenant, A="1", AB="2", B="3")
    names = ["credential/A", "credential/missing"]
    assert await vault.reveal(tenant.organization_id, names=names) == {"credential/A": "1"}
    assert await vault.reveal(tenant.organization_id, prefix="credential/A") == {
        "credential/A": "1",
        "credential/AB": "2",
    }
    assert await vault.reveal(tenant.organization_id) == {}


async def test_a_value_is_replaced_and_forgotten(database: Database, vault: Vault, superuser: Any) -> None:
    tenant = await new_tenant(database)
    await keep(vault, tenant, TOKEN="old", OTHER="kept")
    await keep(vault, tenant, TOKEN="new")
    assert await reveal(vault, tenant) == {"TOKEN": "new", "OTHER": "kept"}
    deleted = await tenant.call(
        "delete_credentials", p_organization_id=tenant.organization_id, p_names=["TOKEN", "missing"]
    )
    assert deleted == {"names": ["TOKEN"]}
    assert await reveal(vault, tenant) == {"OTHER": "kept"}
    await tenant.call("delete_credentials", p_organization_id=tenant.organization_id)
    assert await reveal(vault, tenant) == {}
    left = await superuser.fetch(
        "select from vault.secrets where name like $1", f"%{tenant.organization_id}%"
    )
    assert left == []


async def test_tenants_have_their_own(database: Database, vault: Vault) -> None:
    tenant, other = await new_tenant(database), await new_tenant(database)
    await keep(vault, tenant, TOKEN="mine")
    assert await reveal(vault, other) == {}
    await keep(vault, other, TOKEN="theirs")
    assert await reveal(vault, tenant) == {"TOKEN": "mine"}


async def test_one_vault_takes_over_what_another_kept(database: Database) -> None:
    tenant = await new_tenant(database)
    vaults = [SupabaseVault(database), sealed(database)]
    for vault in (*vaults, *vaults):
        await keep(vault, tenant, TOKEN=vault.mode)
        assert await reveal(vault, tenant) == {"TOKEN": vault.mode}
    for keeper, reader in (vaults, vaults[::-1]):
        await keep(keeper, tenant, TOKEN="hunter22")
        with capture_logs() as logs, pytest.raises(FailedPrecondition) as raised:
            await reveal(reader, tenant)
        assert raised.value.reason == "SECRET_UNREADABLE"
        assert "hunter22" not in str(logs)


async def test_only_the_gateway_reveals(database: Database, vault: Vault) -> None:
    tenant = await new_tenant(database)
    await keep(vault, tenant, TOKEN="mine")
    with pytest.raises(PermissionDenied):
        await tenant.call("reveal_secrets", p_organization_id=tenant.organization_id, p_prefix="credential/")


async def test_a_sealed_value_is_not_in_the_database(database: Database, superuser: Any) -> None:
    tenant = await new_tenant(database)
    await keep(sealed(database), tenant, TOKEN="hunter2-hunter2")
    row = await superuser.fetchrow(
        "select * from tenant_secrets where organization_id = $1", uuid.UUID(tenant.organization_id)
    )
    assert row["key_id"] == "2"
    assert b"hunter2".hex() not in str(row["sealed"])
    assert "hunter2" not in str(dict(row))


async def test_sealing_twice_gives_two_ciphertexts(database: Database) -> None:
    vault, organization_id = sealed(database), str(uuid.uuid4())
    envelopes = {vault.seal(organization_id, "credential/A", "same")["sealed"] for _ in range(100)}
    assert len(envelopes) == 100


async def test_an_older_key_still_opens_and_an_unknown_one_does_not(database: Database) -> None:
    tenant = await new_tenant(database)
    await keep(SealedVault(database, KEYS[1:]), tenant, TOKEN="old")
    assert await reveal(sealed(database), tenant) == {"TOKEN": "old"}
    for keys in (KEYS[:1], [("1", os.urandom(32))]):
        with pytest.raises(FailedPrecondition) as raised:
            await reveal(SealedVault(database, keys), tenant)
        assert raised.value.reason == "SECRET_UNREADABLE"


@pytest.mark.parametrize("change", ["another name", "another tenant", "another byte", "cut"])
async def test_a_ciphertext_that_was_moved_or_changed_does_not_open(
    database: Database, superuser: Any, change: str
) -> None:
    tenant, other = await new_tenant(database), await new_tenant(database)
    vault = sealed(database)
    await keep(vault, tenant, TOKEN="mine")
    change_sql = {
        "another name": ("name = 'credential/OTHER'", tenant),
        "another tenant": (f"organization_id = '{other.organization_id}'", other),
        "another byte": ("sealed = overlay(sealed placing 'AAAA' from 20)", tenant),
        "cut": ("sealed = left(sealed, 8)", tenant),
    }
    assignment, reader = change_sql[change]
    await superuser.execute(
        f"update tenant_secrets set {assignment} where organization_id = $1",
        uuid.UUID(tenant.organization_id),
    )
    with pytest.raises(FailedPrecondition) as raised:
        await reveal(vault, reader)
    assert raised.value.reason == "SECRET_UNREADABLE"


async def test_without_a_vault_nothing_is_kept_in_plain(superuser: Any, database: Database) -> None:
    tenant = await new_tenant(database)
    await superuser.execute("alter schema vault rename to hidden")
    try:
        with pytest.raises(FailedPrecondition) as raised:
            await keep(SupabaseVault(database), tenant, TOKEN="mine")
        assert raised.value.reason == "VAULT_MISSING"
        await keep(sealed(database), tenant, TOKEN="mine")
        assert await reveal(sealed(database), tenant) == {"TOKEN": "mine"}
    finally:
        await superuser.execute("alter schema hidden rename to vault")


@pytest.fixture
async def empty(cluster: Cluster) -> URL:
    """A database in which no other test has stored anything."""
    return await cluster.create("migrated")


@pytest.fixture
async def alone(empty: URL) -> AsyncIterator[Database]:
    opened = PostgresDatabase(login(empty))
    yield opened
    await opened.close()


async def wrong(vault: Vault) -> str:
    """What is told of the keys of a vault."""
    with capture_logs() as logs, pytest.raises(FailedPrecondition) as raised:
        await vault.check()
    assert raised.value.reason == "VAULT_KEY_WRONG"
    assert logs == []
    return raised.value.message


async def test_nothing_is_wrong_where_nothing_is_stored(alone: Database) -> None:
    await sealed(alone).check()
    await SupabaseVault(alone).check()


async def test_keys_are_tried_on_what_they_have_sealed(alone: Database) -> None:
    new, old = KEYS
    tenant = await new_tenant(alone)
    await keep(SealedVault(alone, [old]), tenant, A="sealed before", B="as well", C="and this", D="and that")
    await SealedVault(alone, [old]).check()
    told = await wrong(SealedVault(alone, [("1", os.urandom(32))]))
    assert told.startswith("The key '1' in VAULT_KEY is not the one that has sealed stored secrets: ")
    told = await wrong(SealedVault(alone, [new]))
    assert told.startswith("VAULT_KEY lacks the key '1', and secrets are stored that it has sealed: ")
    told = await wrong(SupabaseVault(alone))
    assert told.startswith("VAULT_KEY is missing: secrets are stored that its key '1' has sealed: ")


async def test_keys_may_change_one_after_the_other(alone: Database) -> None:
    new, old = KEYS
    tenant = await new_tenant(alone)
    await keep(SealedVault(alone, [old]), tenant, A="sealed before")
    await keep(SealedVault(alone, [new, old]), tenant, B="sealed after")
    for keys in ([old, new], [new, old]):
        await SealedVault(alone, keys).check()
    assert "lacks the key '2'" in await wrong(SealedVault(alone, [old]))
    assert "lacks the key '1'" in await wrong(SealedVault(alone, [new]))
    assert "The key '2'" in await wrong(SealedVault(alone, [("2", os.urandom(32)), old]))
    await keep(SealedVault(alone, [new, old]), tenant, A="sealed anew")
    await SealedVault(alone, [new]).check()


async def test_what_supabase_vault_keeps_needs_no_key(alone: Database) -> None:
    await keep(SupabaseVault(alone), await new_tenant(alone), TOKEN="in the vault")
    await SupabaseVault(alone).check()
    await sealed(alone).check()


async def test_one_secret_that_was_changed_makes_no_key_wrong(alone: Database, empty: URL) -> None:
    vault, connection = sealed(alone), await asyncpg.connect(str(empty))
    for _ in range(2):
        await keep(vault, await new_tenant(alone), TOKEN="mine")
    change = "update tenant_secrets set sealed = 'AAAA' where organization_id "
    first = "(select min(organization_id::text)::uuid from tenant_secrets)"
    await connection.execute(f"{change} = {first}")
    await vault.check()
    await connection.execute(f"{change} <> {first}")
    assert "The key '2'" in await wrong(vault)
    await connection.close()


async def test_keys_are_tried_on_both_ways_to_the_database(database: Database) -> None:
    await keep(sealed(database), await new_tenant(database), TOKEN="mine")
    assert "VAULT_KEY is missing" in await wrong(SupabaseVault(database))
