from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from gateway.adapters.postgres import PostgresDatabase
from gateway.gen.n8ngateway.v1.audit_event_pb import AuditEvent
from gateway.rpc.api_keys import new_key, new_secret
from gateway.rpc.call import current_request_id
from gateway.rpc.errors import NotFound, RpcError
from tests.adapters.databases import Tenant, add_credits, new_tenant, user

SEALED = {"sealed": "c2VhbGVkLXZhbHVl", "key_id": "1"}


async def events(tenant: Tenant, **narrowed: Any) -> list[Any]:
    """All of them, oldest first, each read as the proto message that callers get."""
    page = await tenant.call("list_audit_events", p_organization_id=tenant.organization_id, **narrowed)
    for event in page["audit_events"]:
        AuditEvent.from_json(json.dumps(event))
    return page["audit_events"][::-1]


async def told(tenant: Tenant, **narrowed: Any) -> list[tuple[str, Any]]:
    return [(event["action"], event["changes"]) for event in await events(tenant, **narrowed)]


async def test_what_is_done_is_told_with_what_changed(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, price=3)
    [created, added, registered] = await told(tenant)
    assert created[0] == "organization.created"
    assert created[1]["name"] == "Tenant"
    assert added == ("member.added", {"role": "MEMBER_ROLE_OWNER"})
    assert registered[0] == "workflow.registered"
    assert registered[1]["credits_per_execution"] == 3
    organization, workflow = {"p_id": tenant.organization_id}, {"p_id": tenant.workflow_id}
    renamed: dict[str, Any] = {"name": "Renamed", "default_workflow_id": tenant.workflow_id}
    await tenant.call("update_organization", **organization, p_changes=renamed)
    await tenant.call("update_organization", **organization, p_changes=renamed)
    await tenant.call("update_workflow", **workflow, p_changes={"webhook_path": "other"})
    await tenant.call("set_workflow_active", **workflow, p_active=False)
    await tenant.call("set_workflow_active", **workflow, p_active=False)
    await tenant.call("set_workflow_active", **workflow, p_active=True)
    await tenant.call("delete_workflow", **workflow)
    [updated, moved, deactivated, activated, deleted, changed] = (await told(tenant))[3:]
    assert updated == ("organization.updated", renamed)
    assert moved == ("workflow.updated", {"webhook_path": "other"})
    assert deactivated == ("workflow.deactivated", {"is_active": False})
    assert activated == ("workflow.activated", {"is_active": True})
    assert deleted[0] == "workflow.deleted"
    assert deleted[1].keys() == {"archived_at", "is_active"}
    assert changed == ("organization.updated", {"default_workflow_id": None})


async def test_members_come_and_go(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    asked, gone = user(), user()
    for invited in (asked, gone):
        member = {"p_organization_id": tenant.organization_id, "p_profile_id": invited.subject}
        await tenant.call("add_member", **member, p_role="MEMBER_ROLE_MEMBER")
    await tenant.call("remove_member", **member)
    assert await told(tenant, p_resource_id=gone.subject) == [
        ("member.invited", {"role": "MEMBER_ROLE_MEMBER"}),
        ("member.uninvited", {}),
    ]
    member["p_profile_id"] = asked.subject
    await tenant.call("update_member", **member, p_role="MEMBER_ROLE_ADMIN")
    await database.call("accept_invitation", asked, p_organization_id=tenant.organization_id)
    await tenant.call("update_member", **member, p_role="MEMBER_ROLE_VIEWER")
    await tenant.call("remove_member", **member)
    await tenant.call("add_member", **member, p_role="MEMBER_ROLE_OWNER")
    await database.call("decline_invitation", asked, p_organization_id=tenant.organization_id)
    found = await events(tenant, p_resource_id=asked.subject)
    assert [(event["action"], event["changes"].get("role")) for event in found] == [
        ("member.invited", "MEMBER_ROLE_MEMBER"),
        ("member.invited", "MEMBER_ROLE_ADMIN"),
        ("member.added", "MEMBER_ROLE_ADMIN"),
        ("member.updated", "MEMBER_ROLE_VIEWER"),
        ("member.removed", None),
        ("member.invited", "MEMBER_ROLE_OWNER"),
        ("member.declined", None),
    ]
    assert [event["actor_id"] == asked.subject for event in found] == [
        event["action"] in {"member.added", "member.declined"} for event in found
    ]


async def test_a_member_that_clerk_tells_of_is_no_change(database: PostgresDatabase) -> None:
    clerk_id = f"org_{uuid.uuid4().hex}"
    tenant = await new_tenant(database, user(o={"id": clerk_id, "rol": "admin"}))
    external = user(o={"id": clerk_id})
    await database.call("meet_caller", external)
    assert await events(tenant, p_resource_id=external.subject) == []


async def test_keys_and_credentials_are_told_without_their_secrets(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database)
    organization = {"p_organization_id": tenant.organization_id}
    first = new_key()
    key = await tenant.call(
        "create_api_key",
        **organization,
        p_api_key={"name": "ci", "scopes": ["workflows:read"]},
        p_public_id=first.public_id,
        p_secret_hash=first.secret_hash,
        p_client_secret=SEALED,
    )
    second = new_secret(first.public_id)
    await tenant.call(
        "rotate_api_key",
        **organization,
        p_id=key["id"],
        p_secret_hash=second.secret_hash,
        p_client_secret=SEALED,
        p_overlap_seconds=0,
    )
    await database.call("touch_api_key", None, p_id=key["id"])
    for _ in range(2):
        await tenant.call("revoke_api_key", **organization, p_id=key["id"])
    [created, rotated, revoked] = await told(tenant, p_resource_id=key["id"])
    assert created[0] == "api_key.created"
    assert created[1].items() >= {"name": "ci", "scopes": ["workflows:read"]}.items()
    assert rotated == ("api_key.rotated", {"secrets": ["key", "client_secret"]})
    assert revoked[0] == "api_key.revoked"
    await tenant.call("store_credentials", **organization, p_credentials={"A": SEALED, "B": SEALED})
    await tenant.call("store_credentials", **organization, p_credentials={"A": {"plain": "plain-value"}})
    await tenant.call("delete_credentials", **organization, p_names=["A", "C"])
    assert await told(tenant, p_resource_id="A") == [
        ("credential.stored", {}),
        ("credential.stored", {}),
        ("credential.deleted", {}),
    ]
    assert await told(tenant, p_resource_id="B") == [("credential.stored", {})]
    stored = await superuser.fetch("select * from audit_events")
    for secret in (first.secret_hash, second.secret_hash, SEALED["sealed"], "plain-value"):
        assert secret not in str(stored)


async def test_it_tells_who_did_it_and_by_which_request(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    current_request_id.set("request-4711")
    impersonated = user(tenant.owner.subject, act={"sub": "user_support"})
    workflow = {"p_id": tenant.workflow_id, "p_active": False}
    await database.call("set_workflow_active", impersonated, **workflow)
    [event] = await events(tenant, p_action="workflow.deactivated")
    actor = {"actor_type": "user", "actor_id": tenant.owner.subject, "impersonator_id": "user_support"}
    assert event.items() >= (actor | {"request_id": "request-4711"}).items()
    assert (event["resource_type"], event["resource_id"]) == ("workflow", tenant.workflow_id)
    # Somebody at the database itself.
    await superuser.execute(
        "update workflows set description = 'by hand' where id = $1", uuid.UUID(tenant.workflow_id)
    )
    [event] = await events(tenant, p_action="workflow.updated")
    assert event["changes"] == {"description": "by hand"}
    assert (event["actor_type"], event["actor_id"], event["request_id"]) == ("platform", "", "")


@pytest.mark.parametrize(
    ("role", "claims", "expected"),
    [
        ("authenticated", {"sub": "key:7"}, ("api_key", "7")),
        ("authenticated", {"sub": "n8n"}, ("user", "n8n")),
        ("service_role", {"sub": "n8n"}, ("n8n", "")),
        ("service_role", {"sub": "user_1", "act": {"sub": "user_2"}}, ("platform", "")),
        ("service_role", {}, ("platform", "")),
    ],
)
async def test_every_kind_of_caller_is_told_apart(
    database: PostgresDatabase, superuser: Any, role: str, claims: Any, expected: tuple[str, str]
) -> None:
    tenant = await new_tenant(database)
    async with superuser.transaction():
        # As a SECURITY DEFINER function runs: the owner acts, and the role that was set stays to be seen.
        await superuser.execute(
            "create function public.does() returns void language sql security definer as"
            f" $$ select gateway.audit('{tenant.organization_id}', 'test.done', 'test', '1') $$"
        )
        await superuser.execute("grant execute on function public.does() to authenticated, service_role")
        await superuser.execute(
            "select set_config('request.jwt.claims', $1, true), set_config('role', $2, true)",
            json.dumps(claims),
            role,
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with superuser.transaction():
                await superuser.execute("select gateway.audit(null, 'test.done', 'test', '1')")
        await superuser.execute("select public.does()")
        await superuser.execute("set local role none")
        await superuser.execute("drop function public.does()")
    [event] = await events(tenant, p_action="test.done")
    assert (event["actor_type"], event["actor_id"], event["impersonator_id"]) == (*expected, "")


async def test_a_change_that_fails_is_not_told(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    before = await events(tenant)
    for changes in ({"slug": "No Slug"}, {"name": ""}, {"default_workflow_id": str(uuid.uuid4())}):
        with pytest.raises(RpcError):
            await tenant.call("update_organization", p_id=tenant.organization_id, p_changes=changes)
    assert await events(tenant) == before


async def test_what_was_told_stays(superuser: Any, database: PostgresDatabase) -> None:
    await new_tenant(database)
    for statement in (
        "update audit_events set action = 'a.b'",
        "delete from audit_events",
        "truncate audit_events",
    ):
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await superuser.execute(statement)


async def test_events_come_in_pages_and_are_narrowed(database: PostgresDatabase) -> None:
    tenant, other = await new_tenant(database), await new_tenant(database)
    for active in (False, True) * 3:
        await tenant.call("set_workflow_active", p_id=tenant.workflow_id, p_active=active)
    expected = [event["id"] for event in await events(tenant, p_resource_id=tenant.workflow_id)][::-1]
    assert len(expected) == 7
    pages: list[list[str]] = []
    after: str | None = None
    while after is not None or not pages:
        page = await tenant.call(
            "list_audit_events",
            p_organization_id=tenant.organization_id,
            p_resource_id=tenant.workflow_id,
            p_after=after,
            p_limit=3,
        )
        pages.append([event["id"] for event in page["audit_events"]])
        after = page["next"]
    assert pages == [expected[:3], expected[3:6], expected[6:]]
    assert len(await events(tenant, p_action="workflow.activated")) == 3
    assert len(await events(tenant, p_actor_id=tenant.owner.subject)) == 9
    assert await events(tenant, p_actor_id=other.owner.subject) == []
    assert {event["organization_id"] for event in await events(other)} == {other.organization_id}
    with pytest.raises(NotFound):
        await other.call("list_audit_events", p_organization_id=tenant.organization_id)


async def test_a_time_span_is_taken_at_its_word(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    for active in (False, True, False):
        await tenant.call("set_workflow_active", p_id=tenant.workflow_id, p_active=active)
    told = await events(tenant, p_resource_id=tenant.workflow_id)
    times = [event["created_at"] for event in told]
    for function in ("list_audit_events", "export_audit_events"):

        async def within(start: str | None, end: str | None, function: str = function) -> list[str]:
            page = await tenant.call(
                function, p_organization_id=tenant.organization_id, p_start_time=start, p_end_time=end
            )
            found = [event["created_at"] for event in page["audit_events"]]
            return sorted(found)

        assert await within(times[1], None) == times[1:]
        assert (await within(None, times[2]))[-2:] == times[:2]
        assert await within(times[1], times[2]) == [times[1]]
        long_ago = (datetime.now(UTC) - timedelta(days=365)).isoformat()
        assert await within(None, long_ago) == []
        assert times[0] in await within(long_ago, None)


async def test_an_export_goes_on_where_it_was(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    await superuser.execute(
        "select gateway.audit($1, 'test.counted', 'test', i::text) from generate_series(1, 2100) i",
        uuid.UUID(tenant.organization_id),
    )
    found: list[str] = []
    after: str | None = None
    while after is not None or not found:
        page = await tenant.call(
            "export_audit_events", p_organization_id=tenant.organization_id, p_after=after
        )
        found += [event["resource_id"] for event in page["audit_events"]]
        after = page["next"]
    assert found[3:] == [str(number) for number in range(1, 2101)]


async def test_credits_of_the_platform_are_told_and_charges_are_not(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, price=2)
    for amount, reference in ((10, "invoice 1"), (10, "invoice 1"), (-3, "mistake")):
        await add_credits(database, tenant.organization_id, amount, reference)
    begun = await tenant.begin()
    await tenant.settle(begun["execution_id"])
    found = await events(tenant, p_action="credits.added")
    assert [(event["changes"]["amount"], event["changes"]["reference"]) for event in found] == [
        (10, "invoice 1"),
        (-3, "mistake"),
    ]
    assert {event["actor_type"] for event in found} == {"platform"}
    assert len(await events(tenant)) == 5
    for _ in range(2):
        await database.call(
            "refund_execution",
            None,
            p_organization_id=tenant.organization_id,
            p_execution_id=begun["execution_id"],
            p_description="Sorry",
        )
    [refunded] = await events(tenant, p_action="credits.refunded")
    assert refunded["actor_type"] == "platform"
    assert refunded["changes"] == {
        "amount": 2,
        "balance_after": 7,
        "execution_id": begun["execution_id"],
        "description": "Sorry",
    }
