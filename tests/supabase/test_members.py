from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from gateway.adapters.postgres import PostgresDatabase
from gateway.gen.n8ngateway.v1.invitation_pb import Invitation
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


async def accept(tenant: Tenant, invited: Principal) -> Member:
    text = await tenant.database.call("accept_invitation", invited, p_organization_id=tenant.organization_id)
    return Member.from_json(text)


async def invitations(tenant: Tenant, invited: Principal) -> list[Any]:
    found: list[Any] = json.loads(await tenant.database.call("list_invitations", invited))["invitations"]
    return found


async def test_a_user_is_invited_and_accepts(database: PostgresDatabase) -> None:
    tenant, asked = await new_tenant(database), user(email="new@example.com")
    member = await change("add_member", tenant, tenant.owner, asked.subject, "MEMBER")
    assert (member.profile_id, member.role, member.email) == (asked.subject, MemberRole.MEMBER, "")
    assert (member.is_pending, member.is_external) == (True, False)
    [invitation] = await invitations(tenant, asked)
    assert Invitation.from_json(json.dumps(invitation)).organization_name == "Tenant"
    assert invitation.keys() == {field.name for field in Invitation.desc().fields}
    assert (invitation["role"], invitation["invited_by"]) == ("MEMBER_ROLE_MEMBER", tenant.owner.subject)
    accepted = await accept(tenant, asked)
    assert (accepted.role, accepted.is_pending, accepted.email) == (
        MemberRole.MEMBER,
        False,
        "new@example.com",
    )
    assert await invitations(tenant, asked) == []
    assert (await change("get_member", tenant, asked, asked.subject)).email == "new@example.com"
    with pytest.raises(NotFound) as unknown:
        await accept(tenant, asked)
    assert unknown.value.reason == "INVITATION_NOT_FOUND"


async def test_an_invitation_gives_no_rights(database: PostgresDatabase) -> None:
    tenant, asked = await new_tenant(database, balance=5), user()
    await change("add_member", tenant, tenant.owner, asked.subject, "OWNER")
    assert json.loads(await database.call("list_organizations", asked))["organizations"] == []
    for refused in (
        tenant.begin(asked),
        database.call("list_workflows", asked, p_organization_id=tenant.organization_id),
        database.call("get_workflow", asked, p_id=tenant.workflow_id),
        change("remove_member", tenant, asked, asked.subject),
    ):
        with pytest.raises(NotFound):
            await refused
    policy = await database.call("find_policy", None, p_claims=asked.claims)
    assert json.loads(policy) == {}


async def test_who_declines_is_no_member(database: PostgresDatabase) -> None:
    tenant, asked = await new_tenant(database), user()
    await change("add_member", tenant, tenant.owner, asked.subject, "ADMIN")
    await database.call("decline_invitation", asked, p_organization_id=tenant.organization_id)
    with pytest.raises(NotFound):
        await database.call("decline_invitation", asked, p_organization_id=tenant.organization_id)
    with pytest.raises(NotFound):
        await change("get_member", tenant, tenant.owner, asked.subject)


async def test_an_invitation_is_answered_by_the_invited_alone(database: PostgresDatabase) -> None:
    tenant, asked, another = await new_tenant(database), user(), user()
    await change("add_member", tenant, tenant.owner, asked.subject, "ADMIN")
    for function in ("accept_invitation", "decline_invitation"):
        with pytest.raises(NotFound):
            await database.call(function, another, p_organization_id=tenant.organization_id)
    assert await invitations(tenant, another) == []
    await accept(tenant, asked)


async def test_who_is_invited_or_a_member_cannot_be_invited_again(database: PostgresDatabase) -> None:
    tenant, asked = await new_tenant(database), user()
    await change("add_member", tenant, tenant.owner, asked.subject, "MEMBER")
    for _ in range(2):
        with pytest.raises(AlreadyExists) as raised:
            await change("add_member", tenant, tenant.owner, asked.subject, "VIEWER")
        assert list(raised.value.fields) == ["profile_id"]
        if await invitations(tenant, asked):
            await accept(tenant, asked)


async def test_admins_see_change_and_withdraw_invitations(database: PostgresDatabase, superuser: Any) -> None:
    tenant, asked = await new_tenant(database), user()
    admin, viewer = [await with_role(tenant, superuser, role) for role in ("ADMIN", "VIEWER")]
    await change("add_member", tenant, tenant.owner, asked.subject, "VIEWER")

    async def listed(caller: Principal) -> list[str]:
        pages: list[str] = []
        after: str | None = None
        while after is not None or not pages:
            text = await database.call(
                "list_members", caller, p_organization_id=tenant.organization_id, p_after=after, p_limit=1
            )
            page = json.loads(text)
            pages += [member["profile_id"] for member in page["members"]]
            after = page["next"]
        return pages

    members_alone = [tenant.owner.subject, admin.subject, viewer.subject]
    assert await listed(viewer) == members_alone
    assert await listed(admin) == [*members_alone, asked.subject]
    with pytest.raises(NotFound):
        await change("get_member", tenant, viewer, asked.subject)
    for function, role in (("update_member", "MEMBER"), ("remove_member", None)):
        with pytest.raises(PermissionDenied):
            await change(function, tenant, viewer, asked.subject, role)
    assert (await change("update_member", tenant, admin, asked.subject, "ADMIN")).role is MemberRole.ADMIN
    with pytest.raises(PermissionDenied):
        await change("update_member", tenant, admin, asked.subject, "OWNER")
    await change("update_member", tenant, tenant.owner, asked.subject, "OWNER")
    with pytest.raises(PermissionDenied):
        await change("remove_member", tenant, admin, asked.subject)
    await change("remove_member", tenant, tenant.owner, asked.subject)
    assert await listed(admin) == members_alone
    with pytest.raises(NotFound):
        await accept(tenant, asked)


async def test_nobody_joins_an_inactive_organization_and_everybody_may_decline(
    database: PostgresDatabase,
) -> None:
    tenant, asked = await new_tenant(database), user()
    await change("add_member", tenant, tenant.owner, asked.subject, "MEMBER")
    await update(tenant, is_active=False)
    with pytest.raises(FailedPrecondition):
        await accept(tenant, asked)
    await database.call("decline_invitation", asked, p_organization_id=tenant.organization_id)


async def test_whom_clerk_makes_a_member_is_given_a_role_at_once(database: PostgresDatabase) -> None:
    tenant, clerk_id = await with_clerk(database)
    external = user(o={"id": clerk_id, "rol": "member"})
    await database.call("meet_caller", external)
    given = await change("add_member", tenant, tenant.owner, external.subject, "OWNER")
    assert (given.role, given.is_external, given.is_pending) == (MemberRole.OWNER, False, False)
    await database.call("list_credentials", user(external.subject), p_organization_id=tenant.organization_id)


async def test_open_invitations_are_bounded(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    await superuser.execute(
        "with made as (insert into profiles (id) select $1 || i from generate_series(1, 1000) i returning id)"
        " insert into invitations (organization_id, profile_id, role, invited_by)"
        " select $2, id, 'MEMBER_ROLE_VIEWER', '' from made",
        f"user_{uuid.uuid4().hex}_",
        uuid.UUID(tenant.organization_id),
    )
    with pytest.raises(FailedPrecondition) as raised:
        await change("add_member", tenant, tenant.owner, user().subject, "VIEWER")
    assert raised.value.reason == "INVITATIONS_FULL"


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


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("revoked_at = now()", "API_KEY_REVOKED"),
        ("expires_at = now()", "API_KEY_EXPIRED"),
        ("revoked_at = now(), expires_at = now()", "API_KEY_REVOKED"),
        ("organization_id = $2", "API_KEY_INVALID"),
    ],
)
async def test_a_key_counts_while_it_lives_whatever_its_token_says(
    database: PostgresDatabase, superuser: Any, end: str, reason: str
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
        assert raised.value.reason == reason


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
