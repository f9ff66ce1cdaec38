"""What an organization's auth_policy asks of callers, held by the database whichever way they name it."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from gateway.adapters.postgres import PostgresDatabase
from gateway.gen.n8ngateway.v1.organization_pb import AuthPolicy, Organization
from gateway.rpc.api_keys import new_key
from gateway.rpc.errors import FailedPrecondition, InvalidArgument, PermissionDenied, RpcError
from gateway.rpc.principal import Principal
from tests.adapters.databases import Tenant, add_api_key, add_member, new_tenant, user

ENVELOPE = {"sealed": "AA==", "key_id": "1"}


def signed(caller: Principal, organization_id: str, version: int = 2) -> Principal:
    """The caller as the gateway passes it on after a signature by a key of this organization."""
    claim = {"organization_id": organization_id, "version": version}
    return user(caller.subject, gateway_signed=claim)


async def ask_for(superuser: Any, tenant: Tenant, policy: str, minimum: int = 0) -> None:
    await superuser.execute(
        "update organizations set auth_policy = $1, minimum_signature_version = $2 where id = $3",
        f"AUTH_POLICY_{policy}",
        minimum,
        uuid.UUID(tenant.organization_id),
    )


async def outcome(database: PostgresDatabase, caller: Principal, function: str, **arguments: Any) -> str:
    """OK, or the reason of the refusal."""
    try:
        await database.call(function, caller, **arguments)
    except RpcError as error:
        return error.reason
    return "OK"


async def update(tenant: Tenant, caller: Principal, **changes: Any) -> Organization:
    text = await tenant.database.call(
        "update_organization", caller, p_id=tenant.organization_id, p_changes=changes
    )
    return Organization.from_json(text)


async def make_key(tenant: Tenant, caller: Principal | None = None) -> str:
    made = new_key()
    text = await tenant.database.call(
        "create_api_key",
        caller or tenant.owner,
        p_organization_id=tenant.organization_id,
        p_api_key={"name": "key", "scopes": []},
        p_public_id=made.public_id,
        p_secret_hash=made.secret_hash,
        p_client_secret=ENVELOPE,
    )
    return str(json.loads(text)["id"])


async def test_where_only_keys_sign_admins_administrate_and_others_are_refused(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=5)
    callers = {"OWNER": tenant.owner, "KEY": await add_api_key(superuser, tenant.organization_id)}
    for role in ("ADMIN", "MEMBER", "VIEWER"):
        callers[role] = user()
        await add_member(superuser, tenant.organization_id, callers[role], role)
    await ask_for(superuser, tenant, "SIGNED_KEY")
    of = {"p_organization_id": tenant.organization_id}
    listed = {name: await outcome(database, who, "list_workflows", **of) for name, who in callers.items()}
    assert listed == dict.fromkeys(("OWNER", "KEY", "ADMIN"), "OK") | dict.fromkeys(
        ("MEMBER", "VIEWER"), "AUTH_POLICY"
    )
    read = {
        name: await outcome(database, who, "get_workflow", p_id=tenant.workflow_id)
        for name, who in callers.items()
    }
    assert read["ADMIN"] == read["OWNER"] == read["KEY"] == "OK"
    assert read["MEMBER"] == read["VIEWER"] == "WORKFLOW_NOT_FOUND"
    await make_key(tenant, callers["ADMIN"])


async def test_where_only_keys_sign_nothing_is_run_with_a_session_token(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=5)
    key = await add_api_key(superuser, tenant.organization_id)
    await ask_for(superuser, tenant, "SIGNED_KEY")
    run = (await tenant.begin(key))["execution_id"]
    with pytest.raises(PermissionDenied) as refused:
        await tenant.begin()
    assert refused.value.reason == "AUTH_POLICY"
    assert await outcome(database, tenant.owner, "get_execution", p_id=run) == "OK"
    assert await outcome(database, tenant.owner, "cancel_execution", p_id=run) == "AUTH_POLICY"
    assert await outcome(database, key, "cancel_execution", p_id=run) == "OK"


async def test_an_invitation_decides_before_the_tokens_role(
    database: PostgresDatabase, superuser: Any
) -> None:
    clerk = {"o": {"id": f"org_{uuid.uuid4().hex}", "rol": "admin"}}
    tenant = await new_tenant(database, user(**clerk))
    invited = user(**clerk)
    await add_member(superuser, tenant.organization_id, invited, "VIEWER")
    await ask_for(superuser, tenant, "SIGNED_KEY")
    seen = {
        name: await outcome(database, who, "get_workflow", p_id=tenant.workflow_id)
        for name, who in {"invited": invited, "admin": user(**clerk)}.items()
    }
    assert seen == {"invited": "WORKFLOW_NOT_FOUND", "admin": "OK"}


async def test_where_both_are_asked_for_neither_alone_serves(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant, other = await new_tenant(database, balance=5), await new_tenant(database)
    await ask_for(superuser, tenant, "JWT_AND_SIGNED", minimum=2)
    of = {"p_organization_id": tenant.organization_id}
    callers = {
        "unsigned": (tenant.owner, "AUTH_POLICY"),
        "key": (await add_api_key(superuser, tenant.organization_id), "AUTH_POLICY"),
        "signed for another": (signed(tenant.owner, other.organization_id), "AUTH_POLICY"),
        "signed by version 1": (signed(tenant.owner, tenant.organization_id, 1), "AUTH_POLICY"),
        "no version": (
            user(tenant.owner.subject, gateway_signed={"organization_id": tenant.organization_id}),
            "AUTH_POLICY",
        ),
        "signed": (signed(tenant.owner, tenant.organization_id), "OK"),
        "a stranger who signed": (signed(user(), tenant.organization_id), "ORGANIZATION_NOT_FOUND"),
    }
    for name, (caller, expected) in callers.items():
        assert await outcome(database, caller, "list_workflows", **of) == expected, name
        seen = await outcome(database, caller, "get_workflow", p_id=tenant.workflow_id)
        assert seen == ("OK" if expected == "OK" else "WORKFLOW_NOT_FOUND"), name
    assert (await tenant.begin(signed(tenant.owner, tenant.organization_id)))["replayed"] is False


async def test_policies_are_set_by_owners(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    admin = user()
    await add_member(superuser, tenant.organization_id, admin, "ADMIN")
    for changes in ({"auth_policy": "AUTH_POLICY_SIGNED_KEY"}, {"minimum_signature_version": 2}):
        with pytest.raises(PermissionDenied):
            await update(tenant, admin, **changes)
    made = await update(
        tenant, tenant.owner, auth_policy="AUTH_POLICY_SIGNED_KEY", minimum_signature_version=2
    )
    assert (made.auth_policy, made.minimum_signature_version) == (AuthPolicy.SIGNED_KEY, 2)
    back = await update(tenant, tenant.owner, auth_policy=None, minimum_signature_version=None)
    assert (back.auth_policy, back.minimum_signature_version) == (AuthPolicy.JWT, 0)
    unspecified = await update(tenant, tenant.owner, auth_policy="AUTH_POLICY_UNSPECIFIED")
    assert unspecified.auth_policy is AuthPolicy.JWT


async def test_nobody_locks_itself_out(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    key = await make_key(tenant)
    both = {"auth_policy": "AUTH_POLICY_JWT_AND_SIGNED", "minimum_signature_version": 2}
    by_two, by_one = (signed(tenant.owner, tenant.organization_id, version) for version in (2, 1))
    for caller in (tenant.owner, by_one):
        with pytest.raises(FailedPrecondition) as raised:
            await update(tenant, caller, **both)
        assert raised.value.reason == "WOULD_LOCK_OUT"
    await update(tenant, by_one, auth_policy=both["auth_policy"])
    with pytest.raises(FailedPrecondition):
        await update(tenant, by_one, minimum_signature_version=2)
    assert (await update(tenant, by_two, **both)).auth_policy is AuthPolicy.JWT_AND_SIGNED
    named = {"p_organization_id": tenant.organization_id}
    with pytest.raises(FailedPrecondition) as last:
        await database.call("revoke_api_key", by_two, p_id=key, **named)
    assert last.value.reason == "WOULD_LOCK_OUT"
    await make_key(tenant, by_two)
    await database.call("revoke_api_key", by_two, p_id=key, **named)


async def test_an_organization_does_not_begin_locked(database: PostgresDatabase) -> None:
    owner = user()
    wanted = {"name": "Locked", "auth_policy": "AUTH_POLICY_JWT_AND_SIGNED"}
    with pytest.raises(FailedPrecondition) as raised:
        await database.call("create_organization", owner, p_organization=wanted)
    assert raised.value.reason == "WOULD_LOCK_OUT"
    wanted["auth_policy"] = "AUTH_POLICY_SIGNED_KEY"
    made = json.loads(await database.call("create_organization", owner, p_organization=wanted))
    assert made["auth_policy"] == "AUTH_POLICY_SIGNED_KEY"


async def test_the_only_organization_is_none_that_asks_for_more(
    database: PostgresDatabase, superuser: Any
) -> None:
    """A call that names no organization does not reach one whose policy it does not meet."""
    tenant = await new_tenant(database)
    await ask_for(superuser, tenant, "JWT_AND_SIGNED")
    assert await outcome(database, tenant.owner, "list_workflows") == "ORGANIZATION_REQUIRED"
    # It is there all the same, to be chosen.
    assert await outcome(database, tenant.owner, "get_organization", p_id=tenant.organization_id) == "OK"


@pytest.mark.parametrize(
    "rule",
    [
        "fingerprint_policy = 'FINGERPRINT_POLICY_DENY'",
        "rate_limit_requests = 5, rate_limit_period_seconds = 60",
        "max_open_streams = 2",
    ],
)
async def test_an_organization_with_rules_is_not_reached_on_a_call_that_was_held_to_others(
    database: PostgresDatabase, superuser: Any, rule: str
) -> None:
    tenant, other = await new_tenant(database, balance=5), await new_tenant(database)
    of, run = {"p_organization_id": tenant.organization_id}, {"p_id": (await tenant.begin())["execution_id"]}
    for held_to in (other.organization_id, "", tenant.organization_id, None):
        caller = replace(tenant.owner, held_to=held_to)
        assert await outcome(database, caller, "list_workflows", **of) == "OK"
    await superuser.execute(
        f"update organizations set {rule} where id = $1", uuid.UUID(tenant.organization_id)
    )
    for held_to in (other.organization_id, ""):
        caller = replace(tenant.owner, held_to=held_to)
        assert await outcome(database, caller, "list_workflows", **of) == "TENANT_REQUIRED"
        assert await outcome(database, caller, "get_execution", **run) == "EXECUTION_NOT_FOUND"
        assert await outcome(database, caller, "cancel_execution", **run) == "EXECUTION_NOT_FOUND"
        with pytest.raises(InvalidArgument):
            await tenant.begin(caller)
        assert await outcome(database, caller, "get_organization", p_id=tenant.organization_id) == "OK"
    key = await add_api_key(superuser, tenant.organization_id)
    for caller in (replace(tenant.owner, held_to=tenant.organization_id), tenant.owner, key):
        assert await outcome(database, caller, "get_execution", **run) == "OK"
        assert await outcome(database, caller, "list_workflows", **of) == "OK"
