from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase
from gateway.rpc.errors import AlreadyExists, InvalidArgument, NotFound, PermissionDenied
from tests.adapters.databases import Cluster, Tenant, login, new_tenant, user


@pytest.fixture
async def url(cluster: Cluster) -> URL:
    """A database of its own: settings are everybody's."""
    return await cluster.create("migrated")


@pytest.fixture
async def database(url: URL) -> AsyncIterator[PostgresDatabase]:
    opened = PostgresDatabase(login(url))
    yield opened
    await opened.close()


async def as_platform(database: PostgresDatabase, function: str, **arguments: Any) -> Any:
    return json.loads(await database.call(function, None, **arguments))


async def settle(database: PostgresDatabase, name: str, value: str) -> Any:
    return await as_platform(database, "set_platform_setting", p_name=name, p_value=value)


async def refused(tenant: Tenant, function: str, **arguments: Any) -> None:
    with pytest.raises(PermissionDenied) as raised:
        await tenant.call(function, **arguments)
    assert raised.value.reason == "PLATFORM_ONLY"
    assert raised.value.metadata["setting"] in {"workflow_management", "organization_creation"}


async def test_tenants_manage_themselves_unless_it_is_said_otherwise(database: PostgresDatabase) -> None:
    defaults = {"workflow_management": "organization", "organization_creation": "anyone"}
    undecided = {"undecided": ["workflow_management", "organization_creation"]}
    assert await as_platform(database, "list_platform_settings") == defaults | undecided
    changed = await settle(database, "workflow_management", "platform")
    undecided = {"undecided": ["organization_creation"]}
    assert changed == defaults | undecided | {"workflow_management": "platform"}
    assert await settle(database, "workflow_management", "organization") == defaults | undecided
    undecided = {"undecided": ["workflow_management", "organization_creation"]}
    for _ in range(2):
        assert await settle(database, "workflow_management", "default") == defaults | undecided


async def test_who_may_not_create_an_organization_is_not_told_to(database: PostgresDatabase) -> None:
    for value, told in (("platform", "ask who runs this platform"), ("default", "or create one")):
        await settle(database, "organization_creation", value)
        with pytest.raises(InvalidArgument, match=told) as raised:
            await database.call("list_workflows", user())
        assert raised.value.reason == "ORGANIZATION_REQUIRED"


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("workflow_management", "anyone", "value"),
        ("organization_creation", "", "value"),
        ("price", "platform", "name"),
        ("price", "default", "name"),
    ],
)
async def test_only_settings_that_there_are_can_be_set(
    database: PostgresDatabase, name: str, value: str, wrong: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await settle(database, name, value)
    assert list(raised.value.fields) == [wrong]


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook_path": "elsewhere"},
        {"credits_per_execution": 0},
        {"pricing_mode": "PRICING_MODE_PER_SECOND", "credits_per_unit": 1},
        {"credits_per_unit": 7},
        {"name": "cheap", "credits_per_execution": 0},
    ],
)
async def test_the_platform_sets_paths_and_prices_when_it_says_so(
    database: PostgresDatabase, changes: dict[str, Any]
) -> None:
    tenant = await new_tenant(database, price=3)
    await settle(database, "workflow_management", "platform")
    before = await tenant.call("get_workflow", p_id=tenant.workflow_id)
    await refused(tenant, "update_workflow", p_id=tenant.workflow_id, p_changes=changes)
    assert await tenant.call("get_workflow", p_id=tenant.workflow_id) == before
    workflow = {"organization_id": tenant.organization_id, "name": "free", "webhook_path": "echo"}
    await refused(tenant, "register_workflow", p_workflow=workflow)
    # What costs nobody anything stays with the organization.
    await tenant.call("update_workflow", p_id=tenant.workflow_id, p_changes={"name": "mine"})
    changed = await as_platform(database, "update_workflow", p_id=tenant.workflow_id, p_changes=changes)
    assert changed.items() >= changes.items()
    made = await as_platform(database, "register_workflow", p_workflow=workflow)
    assert (await tenant.call("get_workflow", p_id=made["id"]))["name"] == "free"
    page = await tenant.call("list_audit_events", p_organization_id=tenant.organization_id, p_limit=1)
    [event] = page["audit_events"]
    assert (event["action"], event["actor_type"]) == ("workflow.registered", "platform")


async def test_what_the_platform_registered_can_be_switched(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    await settle(database, "workflow_management", "platform")
    made = await as_platform(
        database,
        "register_workflow",
        p_workflow={"organization_id": tenant.organization_id, "name": "new", "webhook_path": "new"},
    )
    for active in (False, True):
        await tenant.call("set_workflow_active", p_id=made["id"], p_active=active)
    # What the organization had registered itself cannot be brought back.
    await tenant.call("set_workflow_active", p_id=tenant.workflow_id, p_active=False)
    await refused(tenant, "set_workflow_active", p_id=tenant.workflow_id, p_active=True)
    await as_platform(database, "set_workflow_active", p_id=tenant.workflow_id, p_active=True)


async def test_the_platform_names_the_organization(database: PostgresDatabase) -> None:
    workflow: dict[str, Any] = {"name": "new", "webhook_path": "new"}
    for organization_id in ("", str(uuid.uuid4())):
        with pytest.raises(NotFound):
            await as_platform(
                database, "register_workflow", p_workflow=workflow | {"organization_id": organization_id}
            )
    with pytest.raises(NotFound):
        await as_platform(database, "update_workflow", p_id=str(uuid.uuid4()), p_changes={"name": "x"})


async def test_organizations_are_the_platforms_to_create_when_it_says_so(database: PostgresDatabase) -> None:
    await settle(database, "organization_creation", "platform")
    owner = user(o={"id": "org_acme", "rol": "admin"})
    with pytest.raises(PermissionDenied) as raised:
        await database.call("create_organization", owner, p_organization={"name": "Acme"})
    assert raised.value.reason == "PLATFORM_ONLY"
    wanted = {"name": "Acme", "clerk_organization_id": "org_acme"}
    made = await as_platform(
        database, "create_organization_for", p_organization=wanted, p_owner=owner.subject
    )
    assert made.items() >= (wanted | {"slug": "acme", "is_active": True}).items()
    listed = json.loads(await database.call("list_organizations", user(owner.subject)))["organizations"]
    assert [entry["id"] for entry in listed] == [made["id"]]
    tenant = Tenant(database, owner, made["id"], "")
    await tenant.call("update_organization", p_id=made["id"], p_changes={"slug": "acme-inc"})
    with pytest.raises(AlreadyExists):
        await as_platform(database, "create_organization_for", p_organization=wanted, p_owner=user().subject)
    for nobody in ("", f"key:{uuid.uuid4()}"):
        with pytest.raises(InvalidArgument):
            await as_platform(
                database, "create_organization_for", p_organization={"name": "x"}, p_owner=nobody
            )


async def test_a_trigger_holds_it_whatever_the_way(database: PostgresDatabase, url: URL) -> None:
    tenant = await new_tenant(database)
    await settle(database, "workflow_management", "platform")
    connection = await asyncpg.connect(str(url))
    try:
        # Never committed.
        await connection.execute("begin")
        await connection.execute(
            "create function public.cheap() returns void language sql security definer as"
            f" $$ update workflows set credits_per_execution = 0 where id = '{tenant.workflow_id}' $$"
        )
        await connection.execute("set local role authenticated")
        with pytest.raises(asyncpg.PostgresError) as raised:
            await connection.execute("select public.cheap()")
        assert raised.value.sqlstate == "GW403"
    finally:
        await connection.close()


async def test_who_has_an_n8n_of_its_own_goes_on_until_it_leaves_it(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    organization = {"p_organization_id": tenant.organization_id}
    await settle(database, "workflow_management", "platform")
    await tenant.call("set_n8n_instance", **organization, p_base_url="https://n8n.example.com")
    workflow = {"organization_id": tenant.organization_id, "name": "own", "webhook_path": "own"}
    own = await tenant.call("register_workflow", p_workflow=workflow)
    await tenant.call("update_workflow", p_id=own["id"], p_changes={"webhook_path": "expensive"})
    sold = await as_platform(database, "register_workflow", p_workflow=workflow | {"name": "sold"})
    await tenant.call("delete_n8n_instance", **organization)
    states = {
        made: (await tenant.call("get_workflow", p_id=made))["is_active"]
        for made in (own["id"], tenant.workflow_id, sold["id"])
    }
    assert states == {own["id"]: False, tenant.workflow_id: False, sold["id"]: True}
    await refused(tenant, "set_workflow_active", p_id=own["id"], p_active=True)


async def test_runs_that_wait_for_an_n8n_of_ones_own_do_not_go_to_the_shared_one(
    database: PostgresDatabase,
) -> None:
    tenant = await new_tenant(database, balance=5)
    organization = {"p_organization_id": tenant.organization_id}
    await settle(database, "workflow_management", "platform")
    begun = [(await tenant.begin(p_queue=True))["execution_id"] for _ in range(2)]
    # What was registered before goes on.
    assert (await started(database, begun[0]))["started"]
    await tenant.call("set_n8n_instance", **organization, p_base_url="https://n8n.example.com")
    await tenant.call("delete_n8n_instance", **organization)
    assert await started(database, begun[1]) == {"started": False, "reason": "ENDED"}
    run = await tenant.call("get_execution", p_id=begun[1])
    assert (run["state"], run["credits_used"]) == ("EXECUTION_STATE_FAILED", 0)
    assert run["error"]["details"][0]["reason"] == "N8N_CHANGED"
    assert (await tenant.call("get_credit_balance", **organization))["reserved"] == 1


async def started(database: PostgresDatabase, execution_id: str) -> Any:
    return await as_platform(database, "start_execution", p_execution_id=execution_id, p_runner="here")


async def test_of_limits_only_those_change_that_are_given(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)

    async def limits(**changes: Any) -> tuple[Any, int, int]:
        told = await as_platform(
            database, "set_limits", p_organization_id=tenant.organization_id, p_changes=changes
        )
        return told["rate_limit"], told["max_open_streams"], told["max_concurrent_executions"]

    rate = {"requests": 5, "period_seconds": 60}
    assert await limits() == (None, 0, 0)
    assert await limits(rate_limit=rate, max_open_streams=3) == (rate, 3, 0)
    assert await limits(max_concurrent_executions=7) == (rate, 3, 7)
    assert await limits() == (rate, 3, 7)
    assert await limits(rate_limit=None, max_open_streams=None) == (None, 0, 7)
    with pytest.raises(InvalidArgument):
        await limits(max_open_streams=-1)
    with pytest.raises(InvalidArgument):
        await limits(rate_limit={"requests": 5})
