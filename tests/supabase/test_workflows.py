from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from gateway.adapters.postgres import PostgresDatabase
from gateway.gen.n8ngateway.v1.workflow_pb import (
    CredentialMode,
    PricingMode,
    ResponseMode,
    UnknownOutcomePolicy,
    Workflow,
)
from gateway.rpc.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from tests.adapters.databases import Tenant, add_member, new_tenant, user

WORKFLOW = {"name": "report", "webhook_path": "reports/monthly"}


async def register(tenant: Tenant, **fields: Any) -> Workflow:
    return Workflow.from_json(
        await tenant.database.call("register_workflow", tenant.owner, p_workflow=WORKFLOW | fields)
    )


async def test_a_new_workflow_has_the_defaults(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    made = await register(tenant)
    assert (made.name, made.webhook_path, made.organization_id) == (
        "report",
        "reports/monthly",
        tenant.organization_id,
    )
    assert made.is_active
    assert made.is_idempotent is False
    assert made.credits_per_execution == 0
    assert made.pricing_mode is PricingMode.FIXED
    assert made.response_mode is ResponseMode.AUTO
    assert made.credential_mode is CredentialMode.NONE
    assert made.unknown_outcome_policy is UnknownOutcomePolicy.VOID
    assert made.archived_at is None


async def test_a_workflow_keeps_every_field(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    given = Workflow(
        organization_id=tenant.organization_id,
        name="Größter Bericht",
        description="all of it\nin two lines",
        n8n_workflow_id="aB3_-",
        webhook_path="a.b/c-d/~e",
        credits_per_execution=1_000_000,
        pricing_mode=PricingMode.PER_SECOND,
        credits_per_unit=3,
        response_mode=ResponseMode.STREAMING,
        credential_mode=CredentialMode.HANDLE,
        concurrency_limit=7,
        is_idempotent=True,
        unknown_outcome_policy=UnknownOutcomePolicy.RETRY,
        timeout_seconds=3600,
        idle_timeout_seconds=60,
        is_active=False,
    )
    text = await database.call(
        "register_workflow", tenant.owner, p_workflow=given.to_json(use_proto_field_name=True)
    )
    made = Workflow.from_json(text)
    given.id, given.created_at, given.updated_at = made.id, made.created_at, made.updated_at
    assert made == given
    assert Workflow.from_json(await database.call("get_workflow", tenant.owner, p_id=made.id)) == given


@pytest.mark.parametrize(
    "field", ["pricing_mode", "response_mode", "credential_mode", "unknown_outcome_policy"]
)
async def test_an_unspecified_enum_is_the_default(database: PostgresDatabase, field: str) -> None:
    tenant = await new_tenant(database)
    plain = await register(tenant)
    made = await register(tenant, name="other", **{field: f"{field.upper()}_UNSPECIFIED"})
    assert getattr(made, field) is getattr(plain, field)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"name": ""}, "name"),
        ({"webhook_path": ""}, "webhook_path"),
        ({"webhook_path": "../rest/users"}, "webhook_path"),
        ({"webhook_path": "a/../b"}, "webhook_path"),
        ({"webhook_path": "a/./b"}, "webhook_path"),
        ({"webhook_path": "/a"}, "webhook_path"),
        ({"webhook_path": "a//b"}, "webhook_path"),
        ({"webhook_path": "a/"}, "webhook_path"),
        ({"webhook_path": "http://evil.example/x"}, "webhook_path"),
        ({"webhook_path": "a?b"}, "webhook_path"),
        ({"webhook_path": "a%2e%2e"}, "webhook_path"),
        ({"webhook_path": "a\nb"}, "webhook_path"),
        ({"webhook_path": "a\n"}, "webhook_path"),
        ({"webhook_path": "x" * 256}, "webhook_path"),
        ({"credits_per_execution": -1}, "credits_per_execution"),
        ({"response_mode": "RESPONSE_MODE_GUESS"}, "response_mode"),
        ({"timeout_seconds": 86401}, "timeout_seconds"),
        ({"unknown_outcome_policy": "UNKNOWN_OUTCOME_POLICY_RETRY"}, "is_idempotent"),
        ({"n8n_workflow_id": "a b"}, "n8n_workflow_id"),
    ],
)
async def test_a_value_that_breaks_a_rule_is_named(
    database: PostgresDatabase, fields: dict[str, Any], wrong: str
) -> None:
    tenant = await new_tenant(database)
    with pytest.raises(InvalidArgument) as raised:
        await register(tenant, **fields)
    assert list(raised.value.fields) == [wrong]


async def test_a_name_is_unique_in_its_organization_only(database: PostgresDatabase) -> None:
    tenant, other = await new_tenant(database), await new_tenant(database)
    await register(tenant)
    await register(other)
    with pytest.raises(AlreadyExists) as raised:
        await register(tenant)
    assert raised.value.fields == {"name": "is taken"}


async def test_the_name_of_an_archived_workflow_is_free(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    made = await register(tenant)
    await superuser.execute("update workflows set archived_at = now() where id = $1", uuid.UUID(made.id))
    await register(tenant)


@pytest.mark.parametrize(
    ("role", "allowed"), [("OWNER", True), ("ADMIN", True), ("MEMBER", False), ("VIEWER", False)]
)
async def test_who_may_change_workflows(
    database: PostgresDatabase, superuser: Any, role: str, *, allowed: bool
) -> None:
    tenant = await new_tenant(database)
    caller = user()
    await add_member(superuser, tenant.organization_id, caller, role)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("register_workflow", {"p_workflow": WORKFLOW}),
        ("set_workflow_active", {"p_id": tenant.workflow_id, "p_active": False}),
    ]
    for function, arguments in calls:
        if allowed:
            await database.call(function, caller, **arguments)
        else:
            with pytest.raises(PermissionDenied) as raised:
                await database.call(function, caller, **arguments)
            assert raised.value.reason == "ROLE_INSUFFICIENT"
    await database.call("get_workflow", caller, p_id=tenant.workflow_id)
    await database.call("list_workflows", caller, p_organization_id=tenant.organization_id)


async def test_workflows_come_in_pages_newest_first(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    made = [tenant.workflow_id] + [(await register(tenant, name=f"w{n}")).id for n in range(4)]
    pages: list[list[str]] = []
    after: str | None = None
    while after is not None or not pages:
        page = await tenant.call("list_workflows", p_after=after, p_limit=2)
        pages.append([entry["id"] for entry in page["workflows"]])
        after = page["next"]
    made.reverse()
    assert pages == [made[:2], made[2:4], made[4:]]


async def test_a_page_has_at_most_200(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    await superuser.execute(
        "insert into workflows (organization_id, name, webhook_path) select $1, n::text, 'x'"
        " from generate_series(1, 250) n",
        uuid.UUID(tenant.organization_id),
    )
    sizes = [
        len((await tenant.call("list_workflows", p_limit=limit))["workflows"])
        for limit in (None, 0, -1, 201, 10**9)
    ]
    assert sizes == [50, 1, 1, 200, 200]


async def test_a_list_can_be_of_active_or_archived_ones(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    off = await register(tenant, name="off", is_active=False)
    gone = await register(tenant, name="gone")
    await superuser.execute("update workflows set archived_at = now() where id = $1", uuid.UUID(gone.id))

    async def ids(**arguments: Any) -> list[str]:
        return [entry["id"] for entry in (await tenant.call("list_workflows", **arguments))["workflows"]]

    assert await ids() == [off.id, tenant.workflow_id]
    assert await ids(p_active=True) == [tenant.workflow_id]
    assert await ids(p_active=False) == [off.id]
    assert await ids(p_archived=True) == [gone.id, off.id, tenant.workflow_id]


async def test_a_workflow_is_moved_between_active_and_inactive(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    for active in (False, False, True, True):
        moved = await tenant.call("set_workflow_active", p_id=tenant.workflow_id, p_active=active)
        assert moved["is_active"] is active
        assert await tenant.call("get_workflow", p_id=tenant.workflow_id) == moved


async def test_moving_it_where_it_is_changes_nothing(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    before = await tenant.call("get_workflow", p_id=tenant.workflow_id)
    assert await tenant.call("set_workflow_active", p_id=tenant.workflow_id, p_active=True) == before


async def test_an_archived_workflow_is_read_but_not_moved(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    await superuser.execute(
        "update workflows set archived_at = now() where id = $1", uuid.UUID(tenant.workflow_id)
    )
    assert (await tenant.call("get_workflow", p_id=tenant.workflow_id))["archived_at"]
    for active in (True, False):
        with pytest.raises(FailedPrecondition) as raised:
            await tenant.call("set_workflow_active", p_id=tenant.workflow_id, p_active=active)
        assert raised.value.reason == "WORKFLOW_ARCHIVED"


async def test_another_tenants_workflow_is_like_none(database: PostgresDatabase) -> None:
    tenant, other = await new_tenant(database), await new_tenant(database, balance=5)
    refusals = []
    for unknown in (tenant.workflow_id, str(uuid.uuid4())):
        calls: list[tuple[str, dict[str, Any]]] = [
            ("get_workflow", {"p_id": unknown}),
            ("set_workflow_active", {"p_id": unknown, "p_active": False}),
            ("begin_execution", {"p_execution_id": str(uuid.uuid4()), "p_workflow_id": unknown}),
        ]
        for function, arguments in calls:
            with pytest.raises(NotFound) as raised:
                await other.call(function, **arguments)
            refusals.append((raised.value.message, raised.value.reason, raised.value.metadata))
    assert set(map(repr, refusals)) == {repr(("There is no such workflow.", "WORKFLOW_NOT_FOUND", {}))}


async def test_the_default_workflow_must_be_the_organizations_own(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant, other = await new_tenant(database), await new_tenant(database)
    with pytest.raises(Exception, match="organizations_default_workflow_id_fkey"):
        await superuser.execute(
            "update organizations set default_workflow_id = $2 where id = $1",
            uuid.UUID(tenant.organization_id),
            uuid.UUID(other.workflow_id),
        )


async def test_a_workflow_json_has_exactly_the_fields_of_the_message(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    text = await database.call("get_workflow", tenant.owner, p_id=tenant.workflow_id)
    assert set(json.loads(text)) == {field.name for field in Workflow.desc().fields}


async def update(tenant: Tenant, **changes: Any) -> Workflow:
    text = await tenant.database.call(
        "update_workflow", tenant.owner, p_id=tenant.workflow_id, p_changes=changes
    )
    return Workflow.from_json(text)


async def test_an_update_changes_what_it_names_and_nothing_else(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, price=3)
    before = Workflow.from_json(await database.call("get_workflow", tenant.owner, p_id=tenant.workflow_id))
    after = await update(tenant, name="Neu", timeout_seconds=9, response_mode="RESPONSE_MODE_STREAMING")
    before.name, before.timeout_seconds, before.response_mode = "Neu", 9, ResponseMode.STREAMING
    assert before.updated_at != after.updated_at
    before.updated_at = after.updated_at
    assert after == before


async def test_an_update_to_what_is_there_changes_nothing(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, price=3)
    before = await update(tenant)
    assert await update(tenant, name=before.name, credits_per_execution=3, description=None) == before


async def test_null_and_unspecified_stand_for_the_default(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, price=3)
    await update(
        tenant,
        description="x",
        is_idempotent=True,
        pricing_mode="PRICING_MODE_PER_SECOND",
        credits_per_unit=1,
    )
    after = await update(
        tenant,
        description="DESCRIPTION_UNSPECIFIED",
        is_idempotent=None,
        pricing_mode="PRICING_MODE_UNSPECIFIED",
    )
    assert (after.description, after.is_idempotent) == ("DESCRIPTION_UNSPECIFIED", False)
    assert after.pricing_mode is PricingMode.FIXED


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"organization_id": str(uuid.uuid4())}, "update_mask"),
        ({"id": str(uuid.uuid4())}, "update_mask"),
        ({"archived_at": None}, "update_mask"),
        ({"is_active": False}, "update_mask"),
        ({"name": None}, "name"),
        ({"webhook_path": "../rest/users"}, "webhook_path"),
        ({"unknown_outcome_policy": "UNKNOWN_OUTCOME_POLICY_RETRY"}, "is_idempotent"),
    ],
)
async def test_an_update_that_breaks_a_rule_changes_nothing(
    database: PostgresDatabase, changes: dict[str, Any], wrong: str
) -> None:
    tenant = await new_tenant(database)
    before = await update(tenant)
    with pytest.raises(InvalidArgument) as raised:
        await update(tenant, description="new", **changes)
    assert list(raised.value.fields) == [wrong]
    assert await update(tenant) == before


@pytest.mark.parametrize("mode", ["PRICING_MODE_PER_SECOND", "PRICING_MODE_REPORTED_UNITS"])
@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"credits_per_unit": 3}, {"credits_per_execution"}),
        ({"credits_per_execution": 3}, {"credits_per_unit"}),
        ({}, {"credits_per_unit", "credits_per_execution"}),
    ],
)
async def test_a_metered_price_is_never_nothing(
    database: PostgresDatabase, mode: str, given: dict[str, int], wrong: set[str]
) -> None:
    tenant = await new_tenant(database)
    whole = {"pricing_mode": mode, "credits_per_unit": 3, "credits_per_execution": 30}
    with pytest.raises(InvalidArgument, match=r"both credits_per_unit and credits_per_execution") as raised:
        await register(tenant, pricing_mode=mode, **given)
    assert set(raised.value.fields) == wrong
    # What counts is how the workflow would stand afterwards, whichever field is changed.
    with pytest.raises(InvalidArgument) as raised:
        await update(tenant, **dict.fromkeys(whole, 0) | given | {"pricing_mode": mode})
    assert set(raised.value.fields) == wrong
    await update(tenant, **whole)
    for name in wrong:
        with pytest.raises(InvalidArgument) as raised:
            await update(tenant, **{name: 0})
        assert list(raised.value.fields) == [name]
    await update(tenant, pricing_mode="PRICING_MODE_FIXED", credits_per_unit=0, credits_per_execution=0)


async def test_a_metered_price_of_nothing_from_before_stays_until_it_is_changed(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=5)
    await superuser.execute("set session_replication_role = replica")
    try:
        await superuser.execute(
            "update workflows set pricing_mode = $2, credits_per_unit = 3, credits_per_execution = 0"
            " where id = $1",
            tenant.workflow_id,
            "PRICING_MODE_PER_SECOND",
        )
    finally:
        await superuser.execute("reset session_replication_role")
    changed = await update(tenant, description="new")
    assert (changed.pricing_mode, changed.credits_per_execution) == (PricingMode.PER_SECOND, 0)
    with pytest.raises(InvalidArgument):
        await update(tenant, credits_per_unit=4)
    assert (await update(tenant, credits_per_execution=30)).credits_per_execution == 30


async def test_a_workflow_cannot_take_a_name_that_is_taken(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    await register(tenant)
    with pytest.raises(AlreadyExists) as raised:
        await update(tenant, name="report")
    assert raised.value.fields == {"name": "is taken"}


async def test_a_deleted_workflow_is_archived_and_no_default(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=5)
    await superuser.execute(
        "update organizations set default_workflow_id = $2 where id = $1",
        uuid.UUID(tenant.organization_id),
        uuid.UUID(tenant.workflow_id),
    )
    await tenant.call("delete_workflow", p_id=tenant.workflow_id)
    archived = await tenant.call("get_workflow", p_id=tenant.workflow_id)
    assert archived["archived_at"]
    await tenant.call("delete_workflow", p_id=tenant.workflow_id)
    assert await tenant.call("get_workflow", p_id=tenant.workflow_id) == archived
    organization = await tenant.call("get_organization", p_id=tenant.organization_id)
    assert organization["default_workflow_id"] is None
    with pytest.raises(NotFound):
        await tenant.begin()
    with pytest.raises(FailedPrecondition) as raised:
        await update(tenant, name="again")
    assert raised.value.reason == "WORKFLOW_ARCHIVED"
