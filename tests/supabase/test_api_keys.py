from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

import pytest

from gateway.adapters.postgres import PostgresDatabase
from gateway.gen.n8ngateway.v1.api_key_pb import ApiKey, ApiKeyEnvironment, ApiKeyState
from gateway.rpc.api_keys import NewKey, new_key, new_secret
from gateway.rpc.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from tests.adapters.databases import Tenant, add_api_key, new_tenant

ENVELOPE = {"sealed": "AA==", "key_id": "1"}


async def create(tenant: Tenant, made: NewKey | None = None, **fields: Any) -> tuple[ApiKey, NewKey]:
    made = made or new_key()
    text = await tenant.database.call(
        "create_api_key",
        tenant.owner,
        p_organization_id=tenant.organization_id,
        p_api_key={"name": "ci", "scopes": ["workflows:read"], **fields},
        p_public_id=made.public_id,
        p_secret_hash=made.secret_hash,
        p_client_secret=ENVELOPE,
    )
    return ApiKey.from_json(text), made


async def on_key(function: str, tenant: Tenant, key: ApiKey, **arguments: Any) -> ApiKey:
    text = await tenant.database.call(
        function, tenant.owner, p_organization_id=tenant.organization_id, p_id=key.id, **arguments
    )
    return ApiKey.from_json(text)


async def rotate(tenant: Tenant, key: ApiKey, overlap: int) -> tuple[ApiKey, NewKey]:
    made = new_secret(key.public_id)
    rotated = await on_key(
        "rotate_api_key",
        tenant,
        key,
        p_secret_hash=made.secret_hash,
        p_client_secret=ENVELOPE,
        p_overlap_seconds=overlap,
    )
    return rotated, made


async def find(database: PostgresDatabase, public_id: str) -> Any:
    return json.loads(await database.call("find_api_key", None, p_public_id=public_id))


async def secrets_of(superuser: Any, tenant: Tenant) -> set[str]:
    rows = await superuser.fetch(
        "select name from tenant_secrets where organization_id = $1", uuid.UUID(tenant.organization_id)
    )
    return {row["name"] for row in rows}


async def test_a_key_is_stored_without_its_secret(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    key, made = await create(tenant, new_key("test"), expires_at="2099-01-01T00:00:00Z")
    assert (key.name, key.public_id, key.environment) == ("ci", made.public_id, ApiKeyEnvironment.TEST)
    assert (key.state, key.created_by) == (ApiKeyState.ACTIVE, tenant.owner.subject)
    assert (key.scopes, key.workflow_ids, key.last_used_at) == (["workflows:read"], [], None)
    assert await on_key("get_api_key", tenant, key) == key
    row = dict(await superuser.fetchrow("select * from api_keys where id = $1", uuid.UUID(key.id)))
    assert row["secret_hash"] == made.secret_hash
    secret = made.key.rpartition("_")[2]
    assert secret not in str(row)
    assert made.client_secret not in str(row)
    assert await secrets_of(superuser, tenant) == {made.client_secret_name}


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "api_key.expires_at"),
        ({"workflow_ids": [str(uuid.uuid4())]}, "api_key.workflow_ids"),
        ({"scopes": None}, "scopes"),
    ],
)
async def test_a_key_that_breaks_a_rule_is_not_made(
    database: PostgresDatabase, superuser: Any, fields: dict[str, Any], wrong: str
) -> None:
    tenant = await new_tenant(database)
    with pytest.raises(InvalidArgument) as raised:
        await create(tenant, **fields)
    assert list(raised.value.fields) == [wrong]
    assert await secrets_of(superuser, tenant) == set()


async def test_a_key_is_for_workflows_of_its_organization_only(database: PostgresDatabase) -> None:
    tenant, other = await new_tenant(database), await new_tenant(database)
    assert (await create(tenant, workflow_ids=[tenant.workflow_id]))[0].workflow_ids == [tenant.workflow_id]
    with pytest.raises(InvalidArgument):
        await create(tenant, workflow_ids=[tenant.workflow_id, other.workflow_id])


async def test_rotation_keeps_one_old_secret_for_the_overlap(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database)
    key, first = await create(tenant)
    rotated, second = await rotate(tenant, key, 60)
    assert rotated.public_id == key.public_id
    assert rotated.previous_expires_at is not None
    found = await find(database, key.public_id)
    assert (found["secret_hash"], found["previous_hash"]) == (second.secret_hash, first.secret_hash)
    assert await secrets_of(superuser, tenant) == {first.client_secret_name, second.client_secret_name}
    _, third = await rotate(tenant, key, 60)
    assert await secrets_of(superuser, tenant) == {second.client_secret_name, third.client_secret_name}
    rotated, fourth = await rotate(tenant, key, 0)
    assert rotated.previous_expires_at is None
    found = await find(database, key.public_id)
    assert (found["secret_hash"], found["previous_hash"]) == (fourth.secret_hash, third.secret_hash)
    assert found["previous_expires_at"] == 0
    assert await secrets_of(superuser, tenant) == {fourth.client_secret_name}


async def test_a_revoked_key_cannot_come_back(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    key, first = await create(tenant)
    await rotate(tenant, key, 60)
    revoked = await on_key("revoke_api_key", tenant, key)
    assert (revoked.state, revoked.previous_expires_at) == (ApiKeyState.REVOKED, None)
    assert await on_key("revoke_api_key", tenant, key) == revoked
    assert await secrets_of(superuser, tenant) == set()
    with pytest.raises(FailedPrecondition) as raised:
        await rotate(tenant, key, 60)
    assert raised.value.reason == "API_KEY_ENDED"
    found = await find(database, key.public_id)
    assert (found["is_revoked"], found["previous_hash"]) == (True, first.secret_hash)
    assert found["previous_expires_at"] <= time.time()


async def test_an_expired_key_is_shown_as_such(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    key, _ = await create(tenant)
    await superuser.execute(
        "update api_keys set expires_at = now() - interval '1 s' where id = $1", uuid.UUID(key.id)
    )
    assert (await on_key("get_api_key", tenant, key)).state is ApiKeyState.EXPIRED
    with pytest.raises(FailedPrecondition):
        await rotate(tenant, key, 60)


async def test_keys_come_in_pages_newest_first_and_by_state(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    made = [(await create(tenant))[0] for _ in range(4)]
    await on_key("revoke_api_key", tenant, made[1])

    async def ids(**arguments: Any) -> tuple[list[str], str | None]:
        page = await tenant.call("list_api_keys", p_organization_id=tenant.organization_id, **arguments)
        return [key["id"] for key in page["api_keys"]], page["next"]

    newest = [key.id for key in reversed(made)]
    first, after = await ids(p_limit=3)
    assert first == newest[:3]
    assert await ids(p_limit=3, p_after=after) == (newest[3:], None)
    assert await ids(p_state="API_KEY_STATE_REVOKED") == ([made[1].id], None)
    assert (await ids(p_state="API_KEY_STATE_ACTIVE"))[0] == [key for key in newest if key != made[1].id]


async def test_another_tenants_key_is_like_none(database: PostgresDatabase) -> None:
    tenant, other = await new_tenant(database), await new_tenant(database)
    key, _ = await create(other)
    for function in ("get_api_key", "revoke_api_key"):
        with pytest.raises(NotFound) as raised:
            await on_key(function, tenant, key)
        assert raised.value.reason == "API_KEY_NOT_FOUND"


async def test_an_unknown_public_id_finds_nothing(database: PostgresDatabase) -> None:
    assert await find(database, new_key().public_id) == {}


async def test_use_is_noted_at_most_once_a_minute(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    key, _ = await create(tenant)

    async def touched() -> Any:
        await asyncio.gather(*(database.call("touch_api_key", None, p_id=key.id) for _ in range(5)))
        return await superuser.fetchval("select last_used_at from api_keys where id = $1", uuid.UUID(key.id))

    first = await touched()
    assert first is not None
    assert await touched() == first
    await superuser.execute(
        "update api_keys set last_used_at = now() - interval '61 s' where id = $1", uuid.UUID(key.id)
    )
    assert await touched() > first


async def test_a_key_for_some_workflows_sees_and_runs_no_other(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database, balance=9)
    hidden = await tenant.call("register_workflow", p_workflow={"name": "other", "webhook_path": "other"})
    begun = json.loads(
        await database.call(
            "begin_execution",
            tenant.owner,
            p_execution_id=str(uuid.uuid4()),
            p_workflow_id=hidden["id"],
            p_idempotency_key="same",
        )
    )
    confined = await add_api_key(superuser, tenant.organization_id, workflow_ids=[tenant.workflow_id])
    listed = json.loads(await database.call("list_workflows", confined))
    assert [workflow["id"] for workflow in listed["workflows"]] == [tenant.workflow_id]
    own = await tenant.begin(confined)
    await database.call("get_execution", confined, p_id=own["execution_id"])
    calls: list[tuple[str, dict[str, Any]]] = [
        ("get_workflow", {"p_id": hidden["id"]}),
        ("get_execution", {"p_id": begun["execution_id"]}),
        ("begin_execution", {"p_execution_id": str(uuid.uuid4()), "p_workflow_id": hidden["id"]}),
        (
            "begin_execution",
            {
                "p_execution_id": str(uuid.uuid4()),
                "p_workflow_id": hidden["id"],
                "p_idempotency_key": "same",
            },
        ),
    ]
    for function, arguments in calls:
        with pytest.raises(NotFound):
            await database.call(function, confined, **arguments)
    whole = await add_api_key(superuser, tenant.organization_id)
    assert len(json.loads(await database.call("list_workflows", whole))["workflows"]) == 2


async def test_a_key_is_not_given_another_workflows_stored_result(
    database: PostgresDatabase, superuser: Any
) -> None:
    """Not even when it repeats the very request, by its idempotency key and under a workflow of its own."""
    tenant = await new_tenant(database, balance=9)
    hidden = await tenant.call("register_workflow", p_workflow={"name": "other", "webhook_path": "other"})
    begun = await tenant.begin(p_workflow_id=hidden["id"], p_idempotency_key="same", p_request_hash="h")
    await tenant.settle(begun["execution_id"], p_result='"secret result"')
    confined = await add_api_key(superuser, tenant.organization_id, workflow_ids=[tenant.workflow_id])
    with pytest.raises(Aborted) as raised:
        await tenant.begin(confined, p_idempotency_key="same", p_request_hash="h")
    assert begun["execution_id"] not in str(raised.value.metadata)
    whole = await add_api_key(superuser, tenant.organization_id)
    replayed = await tenant.begin(whole, p_idempotency_key="same", p_request_hash="h")
    assert (replayed["replayed"], replayed["execution"]["result"]) == (True, "secret result")


async def test_a_key_json_has_the_fields_of_the_message(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    await create(tenant)
    page = await tenant.call("list_api_keys", p_organization_id=tenant.organization_id)
    assert set(page["api_keys"][0]) == {field.name for field in ApiKey.desc().fields}


async def test_a_key_of_an_inactive_organization_is_dead_and_can_be_revoked(
    database: PostgresDatabase, superuser: Any
) -> None:
    tenant = await new_tenant(database)
    key, made = await create(tenant)
    await superuser.execute(
        "update organizations set is_active = false where id = $1", uuid.UUID(tenant.organization_id)
    )
    assert (await find(database, made.public_id))["is_revoked"]
    assert (await on_key("revoke_api_key", tenant, key)).state is ApiKeyState.REVOKED
