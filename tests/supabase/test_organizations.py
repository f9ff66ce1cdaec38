from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from gateway.adapters.postgres import PostgresDatabase
from gateway.gen.n8ngateway.v1.organization_pb import AuthPolicy, FingerprintPolicy, Organization
from gateway.rpc.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from tests.adapters.databases import add_member, new_tenant, user


async def create(database: PostgresDatabase, caller: Principal, **fields: Any) -> Organization:
    text = await database.call("create_organization", caller, p_organization={"name": "Acme", **fields})
    return Organization.from_json(text)


def clerk(organization: str, role: str = "admin", subject: str | None = None) -> Principal:
    return user(subject, o={"id": organization, "rol": role})


def new_clerk_id() -> str:
    return f"org_{uuid.uuid4().hex}"


async def test_a_new_organization_has_what_it_was_given_and_the_defaults(database: PostgresDatabase) -> None:
    slug = f"acme-{uuid.uuid4().hex}"
    made = await create(
        database, user(), slug=slug, auth_policy="AUTH_POLICY_SIGNED_KEY", low_balance_threshold=5
    )
    assert (made.name, made.slug, made.is_active) == ("Acme", slug, True)
    assert made.auth_policy is AuthPolicy.SIGNED_KEY
    assert made.fingerprint_policy is FingerprintPolicy.LOG
    assert made.low_balance_threshold == 5
    assert made.created_at is not None
    assert made.created_at == made.updated_at
    assert uuid.UUID(made.id).version == 7


async def test_who_creates_an_organization_is_its_owner_and_gets_a_profile(
    database: PostgresDatabase, superuser: Any
) -> None:
    owner = user(email="owner@example.com")
    made = await create(database, owner)
    row = await superuser.fetchrow(
        "select p.email, m.role, a.balance from profiles p join organization_members m on m.profile_id = p.id"
        " join credit_accounts a on a.organization_id = m.organization_id where m.organization_id = $1",
        made.id,
    )
    assert tuple(row) == ("owner@example.com", "MEMBER_ROLE_OWNER", 0)


async def test_the_address_of_a_profile_follows_the_token(database: PostgresDatabase, superuser: Any) -> None:
    owner = user(email="old@example.com")
    await create(database, owner)
    await create(database, user(owner.subject))
    assert await superuser.fetchval("select email from profiles where id = $1", owner.subject) == (
        "old@example.com"
    )
    await create(database, user(owner.subject, email="new@example.com"))
    assert await superuser.fetchval("select email from profiles where id = $1", owner.subject) == (
        "new@example.com"
    )


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Ünïcode & Söhne", "n-code-s-hne"), ("東京", "organization-"), ("-- a --", "a"), ("x" * 100, "x" * 54)],
)
async def test_a_slug_is_made_from_the_name(database: PostgresDatabase, name: str, slug: str) -> None:
    assert (await create(database, user(), name=name)).slug.startswith(slug)


async def test_a_slug_made_from_the_name_is_told_apart_when_it_is_taken(database: PostgresDatabase) -> None:
    name = uuid.uuid4().hex
    made = [await create(database, user(), name=name) for _ in range(3)]
    assert made[0].slug == name
    assert len({organization.slug for organization in made}) == 3


async def test_a_slug_that_is_asked_for_and_taken_is_named(database: PostgresDatabase) -> None:
    slug = uuid.uuid4().hex
    await create(database, user(), slug=slug)
    with pytest.raises(AlreadyExists) as raised:
        await create(database, user(), slug=slug)
    assert raised.value.fields == {"slug": "is taken"}


async def test_of_ten_that_want_one_slug_one_gets_it(database: PostgresDatabase) -> None:
    slug = uuid.uuid4().hex
    results = await asyncio.gather(
        *(create(database, user(), slug=slug) for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(result, Organization) for result in results) == 1
    assert sum(isinstance(result, AlreadyExists) for result in results) == 9


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\tb"}, "name"),
        ({"slug": "Not A Slug"}, "slug"),
        ({"auth_policy": "AUTH_POLICY_NONE"}, "auth_policy"),
        ({"minimum_signature_version": 3}, "minimum_signature_version"),
        ({"low_balance_threshold": -1}, "low_balance_threshold"),
    ],
)
async def test_a_value_that_breaks_a_rule_is_named(
    database: PostgresDatabase, fields: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await create(database, user(), **fields)
    assert list(raised.value.fields) == [wrong]


async def test_an_administrator_binds_its_clerk_organization(database: PostgresDatabase) -> None:
    clerk_id = new_clerk_id()
    made = await create(database, clerk(clerk_id))
    assert made.clerk_organization_id == clerk_id
    again = await create(database, clerk(clerk_id))
    assert again.clerk_organization_id == ""


async def test_version_1_claims_bind_too(database: PostgresDatabase) -> None:
    clerk_id = new_clerk_id()
    made = await create(database, user(org_id=clerk_id, org_role="org:admin"))
    assert made.clerk_organization_id == clerk_id


async def test_a_mere_member_does_not_bind_a_clerk_organization(database: PostgresDatabase) -> None:
    made = await create(database, clerk(new_clerk_id(), "member"))
    assert made.clerk_organization_id == ""


async def test_a_clerk_organization_is_never_taken_from_the_body_alone(database: PostgresDatabase) -> None:
    clerk_id = new_clerk_id()
    for caller in (user(), clerk(new_clerk_id()), clerk(clerk_id, "member")):
        with pytest.raises(InvalidArgument) as raised:
            await create(database, caller, clerk_organization_id=clerk_id)
        assert list(raised.value.fields) == ["clerk_organization_id"]
    made = await create(database, clerk(clerk_id), clerk_organization_id=clerk_id)
    assert made.clerk_organization_id == clerk_id
    with pytest.raises(AlreadyExists) as taken:
        await create(database, clerk(clerk_id), clerk_organization_id=clerk_id)
    assert list(taken.value.fields) == ["clerk_organization_id"]


async def test_a_clerk_member_belongs_without_a_row(database: PostgresDatabase) -> None:
    clerk_id = new_clerk_id()
    made = await create(database, clerk(clerk_id))
    member = clerk(clerk_id, "member")
    assert Organization.from_json(await database.call("get_organization", member, p_id=made.id)) == made
    listed = json.loads(await database.call("list_organizations", member))
    assert [entry["id"] for entry in listed["organizations"]] == [made.id]
    with pytest.raises(PermissionDenied) as raised:
        await database.call("register_workflow", member, p_workflow={"name": "w", "webhook_path": "w"})
    assert raised.value.reason == "ROLE_INSUFFICIENT"
    assert raised.value.metadata == {"role": "MEMBER_ROLE_MEMBER", "required_role": "MEMBER_ROLE_ADMIN"}
    admin = clerk(clerk_id)
    await database.call("register_workflow", admin, p_workflow={"name": "w", "webhook_path": "w"})


async def test_a_row_decides_before_the_role_of_the_token(database: PostgresDatabase, superuser: Any) -> None:
    clerk_id = new_clerk_id()
    made = await create(database, clerk(clerk_id))
    viewer = clerk(clerk_id)
    await add_member(superuser, made.id, viewer, "VIEWER")
    with pytest.raises(PermissionDenied):
        await database.call("register_workflow", viewer, p_workflow={"name": "w", "webhook_path": "w"})


async def test_organizations_come_in_pages_oldest_first(database: PostgresDatabase) -> None:
    owner = user()
    made = [(await create(database, owner)).id for _ in range(5)]
    pages: list[list[str]] = []
    after: str | None = None
    while after is not None or not pages:
        page = json.loads(await database.call("list_organizations", owner, p_after=after, p_limit=2))
        pages.append([entry["id"] for entry in page["organizations"]])
        after = page["next"]
    assert pages == [made[:2], made[2:4], made[4:]]


async def test_a_last_page_that_is_full_says_that_it_is_the_last(database: PostgresDatabase) -> None:
    owner = user()
    await create(database, owner)
    page = json.loads(await database.call("list_organizations", owner, p_limit=1))
    assert page["next"] is None


async def test_who_belongs_to_none_gets_an_empty_page(database: PostgresDatabase) -> None:
    assert json.loads(await database.call("list_organizations", user())) == {
        "organizations": [],
        "next": None,
    }


async def test_another_tenants_organization_is_like_none(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    refusals = []
    for unknown in (tenant.organization_id, str(uuid.uuid4())):
        with pytest.raises(NotFound) as raised:
            await database.call("get_organization", user(), p_id=unknown)
        refusals.append((raised.value.message, raised.value.reason, raised.value.metadata))
    assert refusals[0] == refusals[1]


async def test_an_inactive_organization_can_be_read_but_not_used(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=5)
    await superuser.execute(
        "update organizations set is_active = false where id = $1", uuid.UUID(tenant.organization_id)
    )
    assert (await tenant.call("get_organization", p_id=tenant.organization_id))["is_active"] is False
    calls: dict[str, dict[str, Any]] = {
        "begin_execution": {"p_execution_id": str(uuid.uuid4()), "p_workflow_id": tenant.workflow_id},
        "register_workflow": {"p_workflow": {"name": "w", "webhook_path": "w"}},
        "list_workflows": {},
        "set_workflow_active": {"p_id": tenant.workflow_id, "p_active": False},
    }
    for function, arguments in calls.items():
        with pytest.raises(FailedPrecondition) as raised:
            await tenant.call(function, **arguments)
        assert raised.value.reason == "ORGANIZATION_INACTIVE"


async def test_a_call_that_names_no_organization_goes_to_the_only_one(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    listed = await tenant.call("list_workflows")
    assert [entry["id"] for entry in listed["workflows"]] == [tenant.workflow_id]


async def test_a_call_that_names_no_organization_goes_to_that_of_the_token(
    database: PostgresDatabase, superuser: Any
) -> None:
    clerk_id = new_clerk_id()
    made = await create(database, clerk(clerk_id))
    other = await new_tenant(database)
    member = clerk(clerk_id)
    await add_member(superuser, other.organization_id, member, "OWNER")
    text = await database.call("register_workflow", member, p_workflow={"name": "w", "webhook_path": "w"})
    assert json.loads(text)["organization_id"] == made.id


@pytest.mark.parametrize(
    ("organizations", "told"), [(0, "You belong to no organization"), (2, "You belong to several")]
)
async def test_a_call_that_could_mean_several_organizations_or_none_is_refused(
    database: PostgresDatabase, organizations: int, told: str
) -> None:
    caller = user()
    for _ in range(organizations):
        await create(database, caller)
    with pytest.raises(InvalidArgument, match=told) as raised:
        await database.call("list_workflows", caller)
    assert raised.value.reason == "ORGANIZATION_REQUIRED"
    assert list(raised.value.fields) == ["organization_id"]


async def test_a_call_without_an_identity_is_unauthenticated(database: PostgresDatabase) -> None:
    nobody = Principal(Kind.USER, "", DatabaseRole.AUTHENTICATED, '{"role": "authenticated"}')
    with pytest.raises(Unauthenticated):
        await create(database, nobody)
    with pytest.raises(Unauthenticated):
        await database.call("list_workflows", nobody)
