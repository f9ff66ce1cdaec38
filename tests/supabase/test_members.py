from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from gateway.adapters.postgres import PostgresDatabase
from gateway.gen.n8ngateway.v1.member_pb import Member, MemberRole
from gateway.gen.n8ngateway.v1.organization_pb import Organization
from gateway.rpc.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from gateway.rpc.principal import Principal
from tests.adapters.databases import Tenant, add_api_key, add_member, new_tenant, user

ROLES = ["OWNER", "ADMIN", "MEMBER", "VIEWER"]


async def change(
    function: str, tenant: Tenant, caller: Principal, profile_id: str, role: str | None = None
) -> Member:
    arguments = {"p_organization_id": tenant.organization_id, "p_profile_id": profile_id}
    if role is not None:
        arguments["p_role"] = f"MEMBER_ROLE_{role}"
    return Member.from_json(await tenant.database.call(function, caller, **arguments))


async def with_role(tenant: Tenant, superuser: Any, role: str) -> Principal:
    member = user()
    await add_member(superuser, tenant.organization_id, member, role)
    return member


async def members(tenant: Tenant, **arguments: Any) -> Any:
    return await tenant.call("list_members", p_organization_id=tenant.organization_id, **arguments)


async def test_a_member_can_be_added_before_it_has_been_seen(database: PostgresDatabase) -> None:
    tenant, added = await new_tenant(database), user(email="new@example.com")
    member = await change("add_member", tenant, tenant.owner, added.subject, "MEMBER")
    assert (member.profile_id, member.role, member.email) == (added.subject, MemberRole.MEMBER, "")
    assert not member.is_external
    await database.call("meet_caller", added)
    assert (await change("get_member", tenant, added, added.subject)).email == "new@example.com"
    with pytest.raises(AlreadyExists) as raised:
        await change("add_member", tenant, tenant.owner, added.subject, "VIEWER")
    assert list(raised.value.fields) == ["profile_id"]


async def test_a_key_cannot_be_a_member(database: PostgresDatabase) -> None:
    """Its row would give the key of another tenant rights here."""
    tenant = await new_tenant(database)
    with pytest.raises(InvalidArgument):
        await change("add_member", tenant, tenant.owner, f"key:{uuid.uuid4()}", "OWNER")


async def test_members_come_in_pages_oldest_first(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    subjects = [tenant.owner.subject]
    subjects += [(await with_role(tenant, superuser, "MEMBER")).subject for _ in range(4)]
    pages: list[list[str]] = []
    after: str | None = None
    while after is not None or not pages:
        page = await members(tenant, p_after=after, p_limit=2)
        pages.append([member["profile_id"] for member in page["members"]])
        after = page["next"]
    assert pages == [subjects[:2], subjects[2:4], subjects[4:]]


@pytest.mark.parametrize("given", ROLES)
@pytest.mark.parametrize("role", ROLES)
async def test_nobody_gives_a_role_above_its_own(
    database: PostgresDatabase, superuser: Any, role: str, given: str
) -> None:
    tenant = await new_tenant(database)
    caller, other = [await with_role(tenant, superuser, name) for name in (role, "VIEWER")]
    allowed = role == "OWNER" or (role == "ADMIN" and given != "OWNER")
    for function, profile_id in (("add_member", user().subject), ("update_member", other.subject)):
        if allowed:
            assert (await change(function, tenant, caller, profile_id, given)).role.name == given
        else:
            with pytest.raises(PermissionDenied) as raised:
                await change(function, tenant, caller, profile_id, given)
            assert raised.value.reason == "ROLE_INSUFFICIENT"


@pytest.mark.parametrize("other", ROLES)
@pytest.mark.parametrize("role", ROLES)
async def test_nobody_ends_a_role_above_its_own(
    database: PostgresDatabase, superuser: Any, role: str, other: str
) -> None:
    tenant = await new_tenant(database)
    caller, gone = [await with_role(tenant, superuser, name) for name in (role, other)]
    if role == "OWNER" or (role == "ADMIN" and other != "OWNER"):
        await change("remove_member", tenant, caller, gone.subject)
        with pytest.raises(NotFound):
            await change("remove_member", tenant, caller, gone.subject)
        with pytest.raises(NotFound) as raised:
            await database.call("list_workflows", gone, p_organization_id=tenant.organization_id)
        assert raised.value.reason == "ORGANIZATION_NOT_FOUND"
    else:
        with pytest.raises(PermissionDenied):
            await change("remove_member", tenant, caller, gone.subject)


@pytest.mark.parametrize("role", ROLES)
async def test_everybody_may_leave(database: PostgresDatabase, superuser: Any, role: str) -> None:
    tenant = await new_tenant(database)
    caller = await with_role(tenant, superuser, role)
    await change("remove_member", tenant, caller, caller.subject)


async def test_the_last_owner_stays(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    for function, role in (("remove_member", None), ("update_member", "ADMIN")):
        with pytest.raises(FailedPrecondition) as raised:
            await change(function, tenant, tenant.owner, tenant.owner.subject, role)
        assert raised.value.reason == "LAST_OWNER"
    assert await change("update_member", tenant, tenant.owner, tenant.owner.subject, "OWNER")


async def test_of_two_owners_that_leave_at_once_one_stays(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    other = await with_role(tenant, superuser, "OWNER")
    left = await asyncio.gather(
        *(change("remove_member", tenant, owner, owner.subject) for owner in (tenant.owner, other)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, FailedPrecondition) for result in left) == 1


async def test_a_user_is_noted_at_first_sight(database: PostgresDatabase, superuser: Any) -> None:
    stranger = user(email="first@example.com")
    for _ in range(2):
        await database.call("meet_caller", stranger)
    row = await superuser.fetchrow("select * from profiles where id = $1", stranger.subject)
    assert (row["email"], row["created_at"]) == ("first@example.com", row["updated_at"])


async def test_a_clerk_member_is_shown_and_its_token_decides(database: PostgresDatabase) -> None:
    clerk_id = f"org_{uuid.uuid4().hex}"
    tenant = await new_tenant(database, user(o={"id": clerk_id, "rol": "admin"}))
    subject = user().subject
    for rol, role in (("member", MemberRole.MEMBER), ("admin", MemberRole.ADMIN)):
        seen = user(subject, o={"id": clerk_id, "rol": rol})
        await database.call("meet_caller", seen)
        member = await change("get_member", tenant, tenant.owner, subject)
        assert (member.role, member.is_external) == (role, True)
    for function, role_name in (("remove_member", None), ("update_member", "OWNER")):
        with pytest.raises(FailedPrecondition) as raised:
            await change(function, tenant, tenant.owner, subject, role_name)
        assert raised.value.reason == "MEMBER_EXTERNAL"
    # Without the organization in its token, the user is a stranger, whatever was noted.
    with pytest.raises(NotFound):
        await database.call("list_workflows", user(subject), p_organization_id=tenant.organization_id)
    assert json.loads(await database.call("list_organizations", user(subject)))["organizations"] == []


async def test_a_member_by_invitation_stays_one_when_its_token_tells_more(
    database: PostgresDatabase, superuser: Any
) -> None:
    clerk_id = f"org_{uuid.uuid4().hex}"
    tenant = await new_tenant(database, user(o={"id": clerk_id, "rol": "admin"}))
    viewer = user(o={"id": clerk_id, "rol": "admin"})
    await add_member(superuser, tenant.organization_id, viewer, "VIEWER")
    await database.call("meet_caller", viewer)
    member = await change("get_member", tenant, tenant.owner, viewer.subject)
    assert (member.role, member.is_external) == (MemberRole.VIEWER, False)


async def update(tenant: Tenant, caller: Principal | None = None, **changes: Any) -> Organization:
    text = await tenant.database.call(
        "update_organization", caller or tenant.owner, p_id=tenant.organization_id, p_changes=changes
    )
    return Organization.from_json(text)


async def test_an_organization_is_updated_by_what_is_named(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    slug = uuid.uuid4().hex
    made = await update(tenant, name="Neu", slug=slug, default_workflow_id=tenant.workflow_id)
    assert (made.name, made.slug, made.default_workflow_id) == ("Neu", slug, tenant.workflow_id)
    assert await update(tenant, name="Neu") == made
    assert (await update(tenant, default_workflow_id=None)).default_workflow_id == ""


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"id": str(uuid.uuid4())}, "update_mask"),
        ({"clerk_organization_id": "org_x"}, "update_mask"),
        ({"rate_limit_requests": 10**6}, "update_mask"),
        ({"default_workflow_id": str(uuid.uuid4())}, "default_workflow_id"),
        ({"slug": None}, "slug"),
        ({"name": None}, "name"),
    ],
)
async def test_an_update_that_breaks_a_rule_is_refused(
    database: PostgresDatabase, changes: dict[str, Any], wrong: str
) -> None:
    tenant = await new_tenant(database)
    with pytest.raises(InvalidArgument) as raised:
        await update(tenant, **changes)
    assert list(raised.value.fields) == [wrong]


async def test_the_default_workflow_is_none_of_others_and_none_that_is_gone(
    database: PostgresDatabase,
) -> None:
    tenant, other = await new_tenant(database), await new_tenant(database)
    await tenant.call("delete_workflow", p_id=tenant.workflow_id)
    for workflow_id in (other.workflow_id, tenant.workflow_id):
        with pytest.raises(InvalidArgument):
            await update(tenant, default_workflow_id=workflow_id)


async def test_only_owners_change_slug_and_activity(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    admin = await with_role(tenant, superuser, "ADMIN")
    await update(tenant, admin, name="By the admin")
    for changes in ({"slug": uuid.uuid4().hex}, {"is_active": False}, {"name": "x", "is_active": False}):
        with pytest.raises(PermissionDenied):
            await update(tenant, admin, **changes)


async def test_an_organization_can_be_stopped_and_set_back(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database, balance=5)
    assert (await update(tenant, is_active=False)).is_active is False
    for refused in (tenant.begin(), update(tenant, name="x"), members(tenant)):
        with pytest.raises(FailedPrecondition) as raised:
            await refused
        assert raised.value.reason == "ORGANIZATION_INACTIVE"
    assert (await update(tenant, is_active=True)).is_active
    await tenant.begin()


async def test_a_taken_slug_is_named(database: PostgresDatabase) -> None:
    tenant, other = await new_tenant(database), await new_tenant(database)
    taken = (await update(other)).slug
    with pytest.raises(AlreadyExists) as raised:
        await update(tenant, slug=taken)
    assert raised.value.fields == {"slug": "is taken"}


async def test_an_api_key_has_a_members_rights_in_its_own_organization_alone(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant, other = await new_tenant(database, balance=5), await new_tenant(database)
    key = await add_api_key(superuser, tenant.organization_id)
    begun = await tenant.begin(key)
    assert json.loads(await database.call("get_execution", key, p_id=begun["execution_id"]))[
        "created_by"
    ] == (f"key:{key.subject}")
    with pytest.raises(PermissionDenied):
        await database.call("delete_workflow", key, p_id=tenant.workflow_id)
    with pytest.raises(NotFound):
        await other.begin(key)


async def test_claims_of_a_key_count_only_with_its_subject(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database)
    key_id = (await add_api_key(superuser, tenant.organization_id)).subject
    for subject, refusal in (
        ("user_x", NotFound),
        (f"key:{uuid.uuid4()}", Unauthenticated),
        ("key:", Unauthenticated),
    ):
        forged = user(subject, key_id=key_id, organization_id=tenant.organization_id)
        with pytest.raises(refusal):
            await database.call("get_workflow", forged, p_id=tenant.workflow_id)


@pytest.mark.parametrize("end", ["revoked_at = now()", "expires_at = now()", "organization_id = $2"])
async def test_a_key_counts_while_it_lives_whatever_its_token_says(
    database: PostgresDatabase, superuser: Any, end: str
) -> None:
    tenant, other = await new_tenant(database, balance=5), await new_tenant(database)
    key = await add_api_key(superuser, tenant.organization_id)
    await tenant.begin(key)
    if end.endswith("$2"):
        key = replace(key, claims=key.claims.replace(tenant.organization_id, other.organization_id))
    else:
        await superuser.execute(f"update api_keys set {end} where id = $1", uuid.UUID(key.subject))
    calls: list[tuple[str, dict[str, Any]]] = [
        ("list_organizations", {}),
        ("get_workflow", {"p_id": other.workflow_id}),
        ("list_workflows", {"p_organization_id": other.organization_id}),
        ("begin_execution", {"p_execution_id": str(uuid.uuid4())}),
    ]
    for function, arguments in calls:
        with pytest.raises(Unauthenticated) as raised:
            await database.call(function, key, **arguments)
        assert raised.value.reason == "API_KEY_INVALID"


async def test_nothing_is_found_outside_of_the_tenant_that_a_call_names(database: PostgresDatabase) -> None:
    """Of two organizations of one user, each with rules of its own, one call acts for one."""
    tenant = await new_tenant(database, balance=5)
    other = await new_tenant(database, tenant.owner, balance=5)
    begun = await other.begin()
    named = replace(tenant.owner, tenant=tenant.organization_id)
    theirs = {"p_organization_id": other.organization_id}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("get_workflow", {"p_id": other.workflow_id}),
        ("update_workflow", {"p_id": other.workflow_id, "p_changes": {"name": "x"}}),
        ("set_workflow_active", {"p_id": other.workflow_id, "p_active": False}),
        ("delete_workflow", {"p_id": other.workflow_id}),
        ("get_execution", {"p_id": begun["execution_id"]}),
        ("list_workflows", theirs),
        ("list_members", theirs),
        ("add_member", theirs | {"p_profile_id": "user_x", "p_role": "MEMBER_ROLE_VIEWER"}),
        ("list_audit_events", theirs),
    ]
    for function, arguments in calls:
        with pytest.raises(NotFound):
            await database.call(function, named, **arguments)
        if not function.startswith("delete"):
            await database.call(function, tenant.owner, **arguments)
    # Where a request does not say for which organization it is, that one is meant.
    run = {"p_execution_id": str(uuid.uuid4())}
    with pytest.raises(NotFound):
        await database.call("begin_execution", named, **run, p_workflow_id=other.workflow_id)
    begun = json.loads(
        await database.call(
            "begin_execution", named, p_execution_id=str(uuid.uuid4()), p_workflow_id=tenant.workflow_id
        )
    )
    assert begun["organization_id"] == tenant.organization_id
    listed = json.loads(await database.call("list_organizations", named))["organizations"]
    assert {entry["id"] for entry in listed} == {tenant.organization_id, other.organization_id}
    await database.call("get_execution", tenant.owner, p_id=begun["execution_id"])


async def with_clerk(database: PostgresDatabase) -> tuple[Tenant, str]:
    clerk_id = f"org_{uuid.uuid4().hex}"
    return await new_tenant(database, user(o={"id": clerk_id, "rol": "admin"})), clerk_id


async def role_of(tenant: Tenant, member: Principal) -> MemberRole:
    return (await change("get_member", tenant, tenant.owner, member.subject)).role


async def test_nobody_rises_by_leaving(database: PostgresDatabase, superuser: Any) -> None:
    tenant, clerk_id = await with_clerk(database)
    viewer = user(o={"id": clerk_id, "rol": "admin"})
    await add_member(superuser, tenant.organization_id, viewer, "VIEWER")
    await change("remove_member", tenant, viewer, viewer.subject)
    await database.call("meet_caller", viewer)
    assert await role_of(tenant, viewer) is MemberRole.VIEWER
    for refused in (tenant.begin(viewer), change("update_member", tenant, viewer, viewer.subject, "ADMIN")):
        with pytest.raises(PermissionDenied) as raised:
            await refused
        assert raised.value.metadata["role"] == "MEMBER_ROLE_VIEWER"
    # An admin gives it back what Clerk says, and no more.
    assert (
        await change("update_member", tenant, tenant.owner, viewer.subject, "ADMIN")
    ).role is MemberRole.ADMIN
    await tenant.database.call("list_credentials", viewer, p_organization_id=tenant.organization_id)


async def test_clerks_role_can_be_lowered_and_not_raised(database: PostgresDatabase) -> None:
    tenant, clerk_id = await with_clerk(database)
    admin = user(o={"id": clerk_id, "rol": "admin"})
    await database.call("meet_caller", admin)
    credentials = {"p_organization_id": tenant.organization_id}
    await database.call("list_credentials", admin, **credentials)
    for role in ("MEMBER", "VIEWER"):
        lowered = await change("update_member", tenant, tenant.owner, admin.subject, role)
        assert (lowered.role.name, lowered.is_external) == (role, True)
        with pytest.raises(PermissionDenied):
            await database.call("list_credentials", admin, **credentials)
        await database.call("meet_caller", admin)
        assert (await role_of(tenant, admin)).name == role
    with pytest.raises(FailedPrecondition) as raised:
        await change("update_member", tenant, tenant.owner, admin.subject, "OWNER")
    assert raised.value.reason == "MEMBER_EXTERNAL"
    page = await tenant.call("list_audit_events", **credentials, p_resource_id=admin.subject)
    assert [event["changes"]["role"] for event in page["audit_events"]] == [
        "MEMBER_ROLE_VIEWER",
        "MEMBER_ROLE_MEMBER",
    ]
    # Less in Clerk is less here, whatever was allowed.
    await change("update_member", tenant, tenant.owner, admin.subject, "ADMIN")
    with pytest.raises(PermissionDenied):
        await database.call(
            "list_credentials", user(admin.subject, o={"id": clerk_id, "rol": "member"}), **credentials
        )


async def test_rights_can_be_taken_away_while_the_organization_is_inactive(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database)
    member, leaver = [await with_role(tenant, superuser, "ADMIN") for _ in range(2)]
    await update(tenant, is_active=False)
    await change("remove_member", tenant, leaver, leaver.subject)
    await change("remove_member", tenant, tenant.owner, member.subject)
    with pytest.raises(FailedPrecondition):
        await change("add_member", tenant, tenant.owner, member.subject, "VIEWER")


async def test_a_member_json_has_exactly_the_fields_of_the_message(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    [member] = (await members(tenant))["members"]
    assert set(member) == {field.name for field in Member.desc().fields}
