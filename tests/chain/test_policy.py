"""The policy of the organization that a call acts for."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from gateway.adapters.database import Json
from gateway.adapters.postgres import PostgresDatabase
from gateway.chain.policy import Policies
from gateway.gen.n8ngateway.v1.organization_pb import AuthPolicy, FingerprintPolicy
from gateway.rpc import remembered
from gateway.rpc.call import Call
from gateway.rpc.errors import FailedPrecondition, NotFound, Unavailable
from gateway.rpc.policy import Policy
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from gateway.rpc.remembered import FRESH_SECONDS
from tests.adapters.databases import Tenant, add_member, new_tenant, user
from tests.calls import call_of


class Counting:
    """Counts the questions on their way to the database, and can break them off."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.database = database
        self.asked = 0
        self.asking = asyncio.Event()
        self.away = False

    async def call(self, function: str, principal: Principal | None, /, **arguments: Json) -> str:
        self.asked += 1
        self.asking.set()
        if self.away:
            raise Unavailable("away", retry_after=1)
        return await self.database.call(function, principal, **arguments)

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


class Desk:
    """A tenant, and the guard that its callers pass."""

    def __init__(self, tenant: Tenant, database: PostgresDatabase) -> None:
        self.tenant = tenant
        self.counting = Counting(database)
        self.clock = 1000.0
        self.policies = Policies(self.counting, clock=lambda: self.clock)

    async def policy(self, principal: Principal | None = None, tenant: str | None = None) -> Policy | None:
        call = acting(principal or self.tenant.owner, tenant)
        await self.policies(call)
        return call.policy


def acting(principal: Principal, tenant: str | None = None) -> Call:
    call = call_of()
    call.principal = Principal(
        principal.kind, principal.subject, principal.database_role, principal.claims, tenant=tenant
    )
    return call


@pytest.fixture
async def desk(database: PostgresDatabase) -> Any:
    made = Desk(await new_tenant(database), database)
    yield made
    await made.policies.close()


async def test_a_user_acts_for_the_only_organization_it_belongs_to(desk: Desk) -> None:
    assert await desk.policy() == Policy(
        organization_id=desk.tenant.organization_id,
        auth_policy=AuthPolicy.JWT,
        minimum_signature_version=0,
        fingerprint_policy=FingerprintPolicy.LOG,
        rate_limit=None,
        max_open_streams=0,
    )


async def test_the_database_is_told_whose_policy_it_was(desk: Desk, database: PostgresDatabase) -> None:
    for principal, held_to in ((desk.tenant.owner, desk.tenant.organization_id), (user(), "")):
        call = acting(principal)
        await desk.policies(call)
        assert call.caller.held_to == held_to
    other = await new_tenant(database)
    call = acting(desk.tenant.owner, other.organization_id)
    await desk.policies(call)
    assert call.caller.held_to == ""


async def test_what_the_organization_set_is_told(desk: Desk, superuser: Any) -> None:
    await superuser.execute(
        "update organizations set auth_policy = 'AUTH_POLICY_JWT_AND_SIGNED', minimum_signature_version = 2,"
        " fingerprint_policy = 'FINGERPRINT_POLICY_DENY', rate_limit_requests = 7,"
        " rate_limit_period_seconds = 60, max_open_streams = 3 where id = $1",
        uuid.UUID(desk.tenant.organization_id),
    )
    assert await desk.policy() == Policy(
        desk.tenant.organization_id, AuthPolicy.JWT_AND_SIGNED, 2, FingerprintPolicy.DENY, (7, 60), 3
    )


async def test_a_named_organization_comes_before_the_tokens_and_that_before_the_only_one(
    desk: Desk, database: PostgresDatabase
) -> None:
    clerk = f"org_{uuid.uuid4().hex}"
    admin = user(o={"id": clerk, "rol": "admin"})
    bound = json.loads(
        await database.call(
            "create_organization", admin, p_organization={"name": "B", "clerk_organization_id": clerk}
        )
    )
    caller = user(desk.tenant.owner.subject, o={"id": clerk, "rol": "member"})
    for tenant, expected in ((None, bound["id"]), (desk.tenant.organization_id, desk.tenant.organization_id)):
        policy = await desk.policy(caller, tenant)
        assert policy is not None
        assert policy.organization_id == expected
    unbound = user(desk.tenant.owner.subject, o={"id": "org_nowhere", "rol": "admin"})
    policy = await desk.policy(unbound)
    assert policy is not None
    assert policy.organization_id == desk.tenant.organization_id


async def test_a_member_of_many_acts_for_none_until_it_says_which(
    desk: Desk, database: PostgresDatabase
) -> None:
    second = await new_tenant(database, desk.tenant.owner)
    assert await desk.policy() is None
    policy = await desk.policy(tenant=second.organization_id)
    assert policy is not None
    assert policy.organization_id == second.organization_id


async def test_a_foreign_organization_looks_like_one_that_does_not_exist(desk: Desk, superuser: Any) -> None:
    stranger, seen = user(), user()
    assert await desk.policy(stranger, desk.tenant.organization_id) is None
    assert await desk.policy(stranger, str(uuid.uuid4())) is None
    assert await desk.policy(stranger) is None
    await add_member(superuser, desk.tenant.organization_id, seen, "VIEWER")
    await superuser.execute(
        "update organization_members set is_external = true where profile_id = $1", seen.subject
    )
    assert await desk.policy(seen, desk.tenant.organization_id) is None


async def test_strangers_leave_nothing_behind(desk: Desk) -> None:
    stranger = user()
    for _ in range(10):
        await desk.policy(stranger, str(uuid.uuid4()))
    assert len(desk.policies._found) == 0


async def test_what_is_remembered_is_bounded(
    desk: Desk, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "REMEMBERED", 3)
    for _ in range(5):
        member = user()
        await add_member(superuser, desk.tenant.organization_id, member, "MEMBER")
        assert await desk.policy(member) is not None
    assert len(desk.policies._found) == 3


async def test_it_is_asked_for_once_in_its_lifetime(desk: Desk) -> None:
    await asyncio.gather(*(desk.policy() for _ in range(20)))
    desk.clock += FRESH_SECONDS - 0.01
    await desk.policy()
    assert desk.counting.asked == 1
    desk.clock += 0.01
    await desk.policy()
    assert desk.counting.asked == 2


@pytest.mark.parametrize("everything", [True, False])
async def test_a_change_that_is_told_is_seen_at_once(desk: Desk, superuser: Any, *, everything: bool) -> None:
    await desk.policy()
    await superuser.execute(
        "update organizations set auth_policy = 'AUTH_POLICY_SIGNED_KEY' where id = $1",
        uuid.UUID(desk.tenant.organization_id),
    )
    desk.policies.forget(str(uuid.uuid4()))
    before = await desk.policy()
    desk.policies.forget(None if everything else desk.tenant.organization_id)
    after = await desk.policy()
    assert before is not None
    assert after is not None
    assert (before.auth_policy, after.auth_policy) == (AuthPolicy.JWT, AuthPolicy.SIGNED_KEY)


async def test_an_answer_from_before_the_change_is_not_kept(desk: Desk) -> None:
    asking = asyncio.create_task(desk.policy())
    await desk.counting.asking.wait()
    desk.policies.forget(desk.tenant.organization_id)
    await asking
    assert len(desk.policies._found) == 0


async def test_without_the_database_nothing_unknown_goes_on(desk: Desk) -> None:
    await desk.policy()
    desk.counting.away = True
    await desk.policy()
    desk.clock += FRESH_SECONDS
    with pytest.raises(Unavailable) as raised:
        await desk.policy()
    assert raised.value.retry_after


async def test_only_users_are_asked_about(desk: Desk) -> None:
    call = call_of()
    for call.principal in (None, Principal(Kind.N8N, "n8n", DatabaseRole.SERVICE, "{}")):
        await desk.policies(call)
        assert call.policy is None
    assert desk.counting.asked == 0


async def test_a_call_that_goes_on_ends_with_its_membership_and_its_organization(
    desk: Desk, superuser: Any
) -> None:
    member = user()
    await add_member(superuser, desk.tenant.organization_id, member, "MEMBER")
    calls = [acting(member), acting(desk.tenant.owner), acting(user())]
    for call in calls:
        await desk.policies(call)
        await desk.policies.still(call)
    organization = {"p_organization_id": desk.tenant.organization_id}
    await desk.tenant.call("remove_member", **organization, p_profile_id=member.subject)
    desk.clock += FRESH_SECONDS
    with pytest.raises(NotFound):
        await desk.policies.still(calls[0])
    await desk.policies.still(calls[1])
    await desk.tenant.call(
        "update_organization", p_id=desk.tenant.organization_id, p_changes={"is_active": False}
    )
    desk.clock += FRESH_SECONDS
    with pytest.raises(FailedPrecondition) as raised:
        await desk.policies.still(calls[1])
    assert raised.value.reason == "ORGANIZATION_INACTIVE"
    # Who acted for none has nothing to lose.
    await desk.policies.still(calls[2])


async def test_a_stream_ends_with_the_membership_in_the_organization_that_it_tells_of(
    desk: Desk, database: PostgresDatabase, superuser: Any
) -> None:
    """Whether the call acted for another one, or for none because its user belongs to several."""
    member, shown = user(), desk.tenant.organization_id
    others = [(await new_tenant(database)).organization_id for _ in range(2)]
    for organization in (shown, *others):
        await add_member(superuser, organization, member, "MEMBER")
    for_none, for_another = acting(member), acting(member, others[0])
    for call in (for_none, for_another):
        await desk.policies(call)
        call.organization_id = shown
        await desk.policies.still(call)
    assert for_none.policy is None
    await desk.tenant.call("remove_member", p_organization_id=shown, p_profile_id=member.subject)
    desk.clock += FRESH_SECONDS
    for call in (for_none, for_another):
        with pytest.raises(NotFound):
            await desk.policies.still(call)


async def test_a_stream_goes_on_when_its_user_joins_another_organization(
    desk: Desk, database: PostgresDatabase, superuser: Any
) -> None:
    member = user()
    await add_member(superuser, desk.tenant.organization_id, member, "MEMBER")
    call = acting(member)
    await desk.policies(call)
    assert call.policy is not None
    await add_member(superuser, (await new_tenant(database)).organization_id, member, "MEMBER")
    desk.clock += FRESH_SECONDS
    await desk.policies.still(call)
