"""Which n8n an organization's runs go to, with a real database and real sockets."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.adapters.addresses import Networks
from gateway.adapters.n8n import API_KEY, INTERNAL_SECRET, N8n, N8nInstances, StopResult, Timeouts
from gateway.adapters.n8n import instances as instances_module
from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.vault import SealedVault
from gateway.rpc.errors import FailedPrecondition, NotFound, RpcError
from tests.adapters.databases import Tenant, cluster, database, new_tenant, superuser, superuser_url
from tests.adapters.n8n_server import Server, chunked, http, serving

__all__ = ["cluster", "database", "superuser", "superuser_url"]

PATIENT = Timeouts(connect=10, idle=10, total=30)
DEFAULT_SECRET = "secret-of-the-default-n8n"
OWN_SECRET = "secret-of-the-tenants-n8n"
OWN_KEY = "key-of-the-tenants-n8n"
LOOPBACK = Networks(["127.0.0.0/8"])


@pytest.fixture
async def servers() -> AsyncIterator[tuple[Server, Server]]:
    """The default n8n's, and the tenant's."""
    async with serving() as default, serving() as own:
        default.play = default.answer(http(b'"default"'))
        own.play = own.answer(http(b'"own"'))
        yield default, own


@pytest.fixture
def vault(database: PostgresDatabase) -> SealedVault:
    return SealedVault(database, [("1", os.urandom(32))])


@pytest.fixture
async def tenant(database: PostgresDatabase) -> Tenant:
    return await new_tenant(database)


@pytest.fixture
async def instances(
    servers: tuple[Server, Server], database: PostgresDatabase, vault: SealedVault
) -> AsyncIterator[N8nInstances]:
    async with N8n(servers[0].url, internal_secret=DEFAULT_SECRET) as default:
        made = N8nInstances(default, database, vault, LOOPBACK)
        yield made
        await made.close()


async def set_own(tenant: Tenant, vault: SealedVault, url: str, **secrets: str) -> Any:
    named = {"internal_secret": INTERNAL_SECRET, "api_key": API_KEY}
    return await tenant.call(
        "set_n8n_instance",
        p_organization_id=tenant.organization_id,
        p_base_url=url,
        p_secrets={
            named[name]: vault.seal(tenant.organization_id, named[name], value)
            for name, value in secrets.items()
        },
        p_secret_digest="d" * 64 if "internal_secret" in secrets else None,
    )


async def answer(n8n: N8n) -> str:
    async with n8n.run("echo", b"{}", timeouts=PATIENT) as response:
        pieces = [piece async for some in response.pieces for piece in some]
    return str(json.loads(pieces[0].data))  # type: ignore[union-attr]


async def where(instances: N8nInstances, organization_id: str, execution_id: str | None = None) -> str:
    async with instances.of(organization_id, execution_id) as n8n:
        return await answer(n8n)


async def test_an_organization_without_one_uses_the_default(
    instances: N8nInstances, tenant: Tenant, servers: tuple[Server, Server]
) -> None:
    assert await where(instances, tenant.organization_id) == "default"
    assert DEFAULT_SECRET.encode() in servers[0].requests[0][0]


async def test_its_own_is_used_with_its_own_secrets(
    instances: N8nInstances, tenant: Tenant, vault: SealedVault, servers: tuple[Server, Server]
) -> None:
    shown = await set_own(tenant, vault, servers[1].url, internal_secret=OWN_SECRET, api_key=OWN_KEY)
    assert (shown["has_internal_secret"], shown["has_api_key"]) == (True, True)
    assert OWN_SECRET not in str(shown)
    assert await where(instances, tenant.organization_id) == "own"
    async with instances.of(tenant.organization_id) as n8n:
        servers[1].play = servers[1].answer(http(b"{}"))
        assert await n8n.stop("17") is StopResult.STOPPED
    heads = b"".join(head for head, _ in servers[1].requests)
    assert OWN_SECRET.encode() in heads
    assert OWN_KEY.encode() in heads
    assert DEFAULT_SECRET.encode() not in heads
    assert servers[0].requests == []


async def test_a_change_is_seen_when_it_is_told_and_runs_under_way_stay(
    instances: N8nInstances, tenant: Tenant, vault: SealedVault, servers: tuple[Server, Server]
) -> None:
    default, own = servers
    await set_own(tenant, vault, own.url, internal_secret=OWN_SECRET)
    own.play = own.answer(*chunked(b'"ow', ended=False))
    async with instances.of(tenant.organization_id) as n8n, n8n.run("x", b"{}", timeouts=PATIENT):
        await tenant.call("delete_n8n_instance", p_organization_id=tenant.organization_id)
        instances.forget(tenant.organization_id)
        assert await where(instances, tenant.organization_id) == "default"
        await set_own(tenant, vault, default.url + "/second", internal_secret=OWN_SECRET)
        instances.forget(tenant.organization_id)
        assert await where(instances, tenant.organization_id) == "default"
        assert b"/second/webhook/echo" in default.requests[-1][0]
        # The first is out of use but for this run, whose connections are still there.
        own.play = own.answer(http(b'"still"'))
        assert await answer(n8n) == "still"
    with pytest.raises(RuntimeError):
        await answer(n8n)


async def test_a_run_of_its_own_does_not_go_to_the_default(
    instances: N8nInstances,
    database: PostgresDatabase,
    vault: SealedVault,
    servers: tuple[Server, Server],
) -> None:
    """Though what is remembered may be older than the run, or than the change."""
    tenant = await new_tenant(database, balance=5)
    await set_own(tenant, vault, servers[1].url, internal_secret=OWN_SECRET)
    of_own = (await tenant.begin())["execution_id"]
    assert await where(instances, tenant.organization_id, of_own) == "own"
    await tenant.call("delete_n8n_instance", p_organization_id=tenant.organization_id)
    instances.forget(tenant.organization_id)
    of_default = (await tenant.begin())["execution_id"]
    for _ in range(2):
        assert await where(instances, tenant.organization_id, of_default) == "default"
        with pytest.raises(FailedPrecondition) as refused:
            await where(instances, tenant.organization_id, of_own)
        assert refused.value.reason == "N8N_CHANGED"
    assert len(servers[0].requests) == 2
    await set_own(tenant, vault, servers[1].url, internal_secret=OWN_SECRET)
    instances.forget(tenant.organization_id)
    assert await where(instances, tenant.organization_id, of_own) == "own"


async def test_connections_are_kept_as_long_as_nothing_changes(
    instances: N8nInstances, tenant: Tenant, vault: SealedVault, servers: tuple[Server, Server]
) -> None:
    await set_own(tenant, vault, servers[1].url, internal_secret=OWN_SECRET)
    for _ in range(3):
        assert await where(instances, tenant.organization_id) == "own"
        instances.forget(tenant.organization_id)
    assert servers[1].connections == 1


async def test_the_one_unused_for_longest_makes_room(
    instances: N8nInstances,
    database: PostgresDatabase,
    vault: SealedVault,
    servers: tuple[Server, Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(instances_module, "MOST_OPEN", 2)
    tenants = [await new_tenant(database) for _ in range(3)]
    for one in tenants:
        await set_own(one, vault, servers[1].url, internal_secret=OWN_SECRET)
        assert await where(instances, one.organization_id) == "own"
    assert list(instances.circuits()) == ["", *(one.organization_id for one in tenants[1:])]
    assert await where(instances, tenants[0].organization_id) == "own"


async def test_a_private_address_is_refused_at_the_connection(
    database: PostgresDatabase, tenant: Tenant, vault: SealedVault, servers: tuple[Server, Server]
) -> None:
    await set_own(tenant, vault, servers[1].url)
    async with N8n(servers[0].url, internal_secret=DEFAULT_SECRET) as default:
        instances = N8nInstances(default, database, vault, Networks())
        with pytest.raises(RpcError) as caught:
            await where(instances, tenant.organization_id)
        await instances.close()
    assert caught.value.reason == "N8N_ADDRESS_REFUSED"
    assert servers[1].connections == 0


async def test_a_redirect_is_not_followed(
    instances: N8nInstances, tenant: Tenant, vault: SealedVault, servers: tuple[Server, Server]
) -> None:
    default, own = servers
    await set_own(tenant, vault, own.url, internal_secret=OWN_SECRET)
    own.play = own.answer(http(b"", status=307, Location=f"{default.url}/webhook/echo"))
    with pytest.raises(RpcError) as caught:
        await where(instances, tenant.organization_id)
    assert caught.value.reason == "N8N_REDIRECTED"
    assert default.requests == []


async def test_another_host_is_not_sent_the_secrets_of_the_one_before(
    tenant: Tenant, vault: SealedVault
) -> None:
    await set_own(tenant, vault, "https://n8n.example.com/a", internal_secret=OWN_SECRET, api_key=OWN_KEY)
    for url in ("https://evil.example.com/a", "http://n8n.example.com/a", "https://n8n.example.com:444"):
        with pytest.raises(FailedPrecondition) as caught:
            await set_own(tenant, vault, url, internal_secret=OWN_SECRET)
        assert caught.value.reason == "N8N_SECRETS_NEEDED"
    shown = await set_own(tenant, vault, "https://n8n.example.com/b")
    assert (shown["base_url"], shown["has_api_key"]) == ("https://n8n.example.com/b", True)
    await set_own(tenant, vault, "https://new.example.com", internal_secret=OWN_SECRET, api_key=OWN_KEY)


async def test_deleted_is_forgotten_with_its_secrets(
    tenant: Tenant, vault: SealedVault, superuser: Any
) -> None:
    await set_own(tenant, vault, "https://n8n.example.com", internal_secret=OWN_SECRET)
    for _ in range(2):
        await tenant.call("delete_n8n_instance", p_organization_id=tenant.organization_id)
    with pytest.raises(NotFound):
        await tenant.call("get_n8n_instance", p_organization_id=tenant.organization_id)
    kept = await superuser.fetchval(
        "select count(*) from tenant_secrets where organization_id = $1::uuid", tenant.organization_id
    )
    assert kept == 0
    noted = await superuser.fetch(
        "select action, changes from audit_events where organization_id = $1::uuid"
        " and resource_type = 'n8n_instance' order by id",
        tenant.organization_id,
    )
    assert [row["action"] for row in noted] == ["n8n_instance.set", "n8n_instance.deleted"]
    assert json.loads(noted[0]["changes"]) == {
        "base_url": "https://n8n.example.com",
        "secrets": ["internal_secret"],
    }
    assert OWN_SECRET not in str(noted)


async def test_many_that_begin_at_once_share_one(
    instances: N8nInstances, tenant: Tenant, vault: SealedVault, servers: tuple[Server, Server]
) -> None:
    await set_own(tenant, vault, servers[1].url, internal_secret=OWN_SECRET)
    used: set[int] = set()

    async def one() -> None:
        async with instances.of(tenant.organization_id) as n8n:
            used.add(id(n8n))
            assert await answer(n8n) == "own"

    await asyncio.gather(*(one() for _ in range(20)))
    assert len(used) == 1
