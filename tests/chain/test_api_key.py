from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from gateway.adapters.database import Json
from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.vault import SealedVault
from gateway.chain import api_key as chain_api_key
from gateway.chain.api_key import ApiKeys, TokenOrKey
from gateway.chain.authorize import Authorize
from gateway.gen.n8ngateway.v1 import api_key_service_pb, organization_service_pb, workflow_service_pb
from gateway.gen.n8ngateway.v1.api_key_pb import ApiKey
from gateway.gen.n8ngateway.v1.api_key_service_pb import (
    CreateApiKeyRequest,
    CreateApiKeyResponse,
    RevokeApiKeyRequest,
    RotateApiKeyRequest,
)
from gateway.gen.n8ngateway.v1.organization_pb import AuthPolicy
from gateway.rpc import remembered
from gateway.rpc.api_keys import new_key, new_secret, parse_key
from gateway.rpc.call import Call
from gateway.rpc.errors import InvalidArgument, PermissionDenied, Unauthenticated, Unavailable
from gateway.rpc.methods import MethodTable
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from gateway.rpc.remembered import FRESH_SECONDS
from gateway.rpc.standing import EVERY_SECONDS
from gateway.services.api_key import ApiKeyService
from tests.adapters.databases import Tenant, new_tenant
from tests.calls import call_of

KEYS = [("1", b"k" * 32)]


class Counting:
    """Counts the calls of each function on their way to the database, and can break them off."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.database = database
        self.called: list[str] = []
        self.away = False

    async def call(self, function: str, principal: Principal | None, /, **arguments: Json) -> str:
        self.called.append(function)
        if self.away:
            raise Unavailable("away")
        return await self.database.call(function, principal, **arguments)

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


class Desk:
    """A tenant's keys as its owner manages them, and the authenticator that they are shown to."""

    def __init__(self, tenant: Tenant, database: PostgresDatabase) -> None:
        self.tenant = tenant
        self.counting = Counting(database)
        self.clock = 1000.0
        self.ahead = 0.0
        self.vault = SealedVault(self.counting, KEYS)
        self.keys = ApiKeys(self.counting, self.vault, clock=lambda: self.clock, now=self.now)
        self.service = ApiKeyService(database, SealedVault(database, KEYS), self.changed)
        self.call = call_of()
        self.call.principal = tenant.owner
        self.told: list[str] = []

    def now(self) -> float:
        return chain_api_key.time.time() + self.ahead

    async def changed(self, public_id: str) -> None:
        self.told.append(public_id)

    async def create(self, **fields: Any) -> CreateApiKeyResponse:
        request = CreateApiKeyRequest(
            organization_id=self.tenant.organization_id, api_key=ApiKey(name="ci", **fields)
        )
        return await self.service.create_api_key(request, self.call)

    async def revoke(self, made: CreateApiKeyResponse) -> None:
        request = RevokeApiKeyRequest(organization_id=self.tenant.organization_id, id=_id(made))
        await self.service.revoke_api_key(request, self.call)

    async def rotate(self, made: CreateApiKeyResponse, overlap: int) -> str:
        request = RotateApiKeyRequest(
            organization_id=self.tenant.organization_id, id=_id(made), overlap_seconds=overlap
        )
        return (await self.service.rotate_api_key(request, self.call)).key

    async def show(self, key: str, **headers: str) -> Principal:
        return await self.keys(showing(key, **headers))


def _id(made: CreateApiKeyResponse) -> str:
    assert made.api_key is not None
    return made.api_key.id


def showing(key: str, **headers: str) -> Call:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return call_of(metadata={"x-api-key": key} | named)


@pytest.fixture
async def desk(database: PostgresDatabase) -> Any:
    made = Desk(await new_tenant(database, balance=5), database)
    yield made
    await made.keys.close()


async def test_a_key_acts_for_its_organization(desk: Desk) -> None:
    made = await desk.create(workflow_ids=[desk.tenant.workflow_id])
    principal = await desk.show(made.key)
    assert (principal.kind, principal.subject) == (Kind.API_KEY, _id(made))
    assert principal.database_role is DatabaseRole.AUTHENTICATED
    assert principal.scopes == {"executions:*", "workflows:read"}
    assert principal.tenant is None
    assert (await desk.tenant.begin(principal))["credits_remaining"] == 4


async def test_a_tenant_that_is_named_has_to_be_the_keys(desk: Desk) -> None:
    key = (await desk.create()).key
    own = desk.tenant.organization_id
    assert (await desk.show(key, x_tenant_id=own.upper())).tenant == own
    for other in (str(uuid.uuid4()), "acme"):
        with pytest.raises(PermissionDenied) as raised:
            await desk.show(key, x_tenant_id=other)
        assert raised.value.reason == "TENANT_MISMATCH"


async def test_what_is_no_key_is_refused_without_asking(desk: Desk) -> None:
    key = (await desk.create()).key
    for text in (
        "",
        " ",
        key[:-1],
        key + "a",
        key.upper(),
        f"{key},{key}",
        "gw_live_",
        key.replace("_", "-"),
    ):
        with pytest.raises(Unauthenticated) as raised:
            await desk.show(text)
        assert raised.value.reason == "API_KEY_INVALID"
    assert desk.counting.called == []


async def test_an_unknown_key_and_a_wrong_secret_are_told_the_same(desk: Desk) -> None:
    known = parse_key((await desk.create()).key)
    assert known is not None
    refusals = set()
    for key in (new_key().key, new_secret(known[0]).key):
        with pytest.raises(Unauthenticated) as raised:
            await desk.show(key)
        refusals.add((raised.value.message, raised.value.reason))
    assert refusals == {("The API key is not valid.", "API_KEY_INVALID")}


async def test_failed_attempts_write_nothing_and_ask_once(desk: Desk) -> None:
    wrong = new_key().key
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            await desk.show(wrong)
    assert desk.counting.called == ["find_api_key"]


async def test_a_key_is_asked_for_once_in_its_lifetime(desk: Desk) -> None:
    key = (await desk.create()).key
    await asyncio.gather(*(desk.show(key) for _ in range(20)))
    desk.clock += FRESH_SECONDS - 0.01
    await desk.show(key)
    assert desk.counting.called.count("find_api_key") == 1
    desk.clock += 0.01
    await desk.show(key)
    assert desk.counting.called.count("find_api_key") == 2


async def test_a_revocation_is_seen_when_the_lifetime_has_passed(desk: Desk) -> None:
    made = await desk.create()
    await desk.show(made.key)
    await desk.revoke(made)
    await desk.show(made.key)
    desk.clock += FRESH_SECONDS
    with pytest.raises(Unauthenticated) as raised:
        await desk.show(made.key)
    assert raised.value.reason == "API_KEY_REVOKED"


@pytest.mark.parametrize("everything", [True, False])
async def test_a_revocation_that_is_told_is_seen_at_once(desk: Desk, *, everything: bool) -> None:
    made = await desk.create()
    await desk.show(made.key)
    await desk.revoke(made)
    [public_id] = desk.told
    desk.keys.forget(None if everything else public_id)
    with pytest.raises(Unauthenticated):
        await desk.show(made.key)


async def test_a_call_that_goes_on_is_refused_within_the_lifetime(desk: Desk) -> None:
    made = await desk.create()
    call = showing(made.key)
    await desk.keys(call)
    await desk.revoke(made)
    desk.clock += FRESH_SECONDS - EVERY_SECONDS - 0.01
    await desk.keys.still(call)
    desk.clock += 0.01
    # Whoever looks again in EVERY_SECONDS would be too late.
    with pytest.raises(Unauthenticated) as raised:
        await desk.keys.still(call)
    assert raised.value.reason == "API_KEY_REVOKED"


async def test_a_call_without_a_key_rests_on_none(desk: Desk) -> None:
    await desk.keys.still(call_of())
    assert desk.counting.called == []


async def test_a_key_brings_the_policy_of_its_organization(desk: Desk) -> None:
    made, elsewhere = await desk.create(), Desk(await new_tenant(desk.tenant.database), desk.tenant.database)
    call, other = showing(made.key), showing((await elsewhere.create()).key)
    await desk.keys(call)
    await desk.keys(other)
    assert call.policy is not None
    assert (call.policy.organization_id, call.policy.auth_policy) == (
        desk.tenant.organization_id,
        AuthPolicy.JWT,
    )
    desk.counting.called.clear()
    desk.keys.forget_organization(desk.tenant.organization_id)
    for each in (call, other):
        await desk.keys(each)
    assert desk.counting.called.count("find_api_key") == 1
    desk.keys.forget_organization(None)
    await desk.keys(other)
    assert desk.counting.called.count("find_api_key") == 2


async def test_an_expired_key_is_refused_though_it_is_remembered(desk: Desk) -> None:
    made = await desk.create(expires_at=None)
    await desk.tenant.database.ping()
    expiring = await desk.service.create_api_key(
        CreateApiKeyRequest.from_json(
            f'{{"organization_id": "{desk.tenant.organization_id}",'
            ' "api_key": {"name": "soon", "expires_at": "2099-01-01T00:00:00Z"}}'
        ),
        desk.call,
    )
    await desk.show(expiring.key)
    desk.ahead = 4_070_908_800 - chain_api_key.time.time() + 1
    with pytest.raises(Unauthenticated) as raised:
        await desk.show(expiring.key)
    assert raised.value.reason == "API_KEY_EXPIRED"
    await desk.show(made.key)


async def test_a_rotated_key_serves_until_the_overlap_ends(desk: Desk) -> None:
    made = await desk.create()
    second = await desk.rotate(made, 60)
    for key in (made.key, second):
        await desk.show(key)
    desk.ahead = 61
    with pytest.raises(Unauthenticated) as raised:
        await desk.show(made.key)
    assert raised.value.reason == "API_KEY_ROTATED"
    await desk.show(second)
    third = await desk.rotate(made, 0)
    desk.keys.forget(None)
    desk.ahead = -3600
    for key, reason in ((made.key, "API_KEY_INVALID"), (second, "API_KEY_ROTATED")):
        with pytest.raises(Unauthenticated) as ended:
            await desk.show(key)
        assert ended.value.reason == reason
    await desk.show(third)


async def test_a_key_that_was_rotated_and_then_revoked_is_told_so(desk: Desk) -> None:
    made = await desk.create()
    second = await desk.rotate(made, 3600)
    await desk.revoke(made)
    for key in (made.key, second):
        with pytest.raises(Unauthenticated) as ended:
            await desk.show(key)
        assert ended.value.reason == "API_KEY_REVOKED"


async def test_use_is_noted_at_most_once_a_minute(desk: Desk) -> None:
    key = (await desk.create()).key
    for _ in range(5):
        await desk.show(key)
        await desk.keys.close()
        desk.clock += FRESH_SECONDS
    assert desk.counting.called.count("touch_api_key") == 1
    desk.ahead += 61
    await desk.show(key)
    await desk.keys.close()
    assert desk.counting.called.count("touch_api_key") == 2


async def test_without_the_database_known_keys_serve_for_their_lifetime(desk: Desk) -> None:
    key = (await desk.create()).key
    await desk.show(key)
    desk.counting.away = True
    await desk.show(key)
    desk.clock += FRESH_SECONDS
    for _ in range(2):
        with pytest.raises(Unavailable):
            await desk.show(key)
    desk.counting.away = False
    await desk.show(key)


async def test_what_is_remembered_is_bounded_and_strangers_crowd_nobody_out(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "REMEMBERED", 3)
    monkeypatch.setattr(desk.keys._keys, "_spare", 2)
    known = [(await desk.create()).key for _ in range(3)]
    for key in known:
        await desk.show(key)
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            await desk.show(new_key().key)
    assert len(desk.keys._keys) == 3 + 2
    asked = desk.counting.called.count("find_api_key")
    for key in known:
        await desk.show(key)
    assert desk.counting.called.count("find_api_key") == asked
    await desk.show((await desk.create()).key)
    assert len(desk.keys._keys) == 3 + 2


async def test_secrets_are_in_no_repr(desk: Desk) -> None:
    made = await desk.create()
    principal = await desk.show(made.key)
    secret = made.key.rpartition("_")[2]
    parsed = parse_key(made.key)
    assert parsed is not None
    assert secret not in repr(new_secret(parsed[0])) + repr(principal)
    assert parsed[1] not in repr(desk.keys._keys._known) + repr(principal)


async def test_a_token_and_a_key_together_are_refused() -> None:
    async def taken(call: Call) -> Principal:
        return Principal(Kind.USER, call.metadata.get("x-api-key", "token"), DatabaseRole.AUTHENTICATED, "{}")

    both = TokenOrKey(taken, taken)
    assert (await both(showing("key"))).subject == "key"
    assert (await both(call_of())).subject == "token"
    with pytest.raises(InvalidArgument) as raised:
        await both(showing("key", authorization="Bearer x"))
    assert raised.value.reason == "SEVERAL_IDENTITIES"


SERVICES = [
    module.desc().services[0] for module in (organization_service_pb, workflow_service_pb, api_key_service_pb)
]


@pytest.mark.parametrize(
    ("service", "name", "scopes", "missing"),
    [
        ("WorkflowService", "ListWorkflows", {"workflows:read"}, None),
        ("WorkflowService", "ListWorkflows", {"workflows:*"}, None),
        ("WorkflowService", "DeleteWorkflow", {"workflows:read"}, "workflows:write"),
        ("WorkflowService", "ListWorkflows", {"executions:*"}, "workflows:read"),
        ("WorkflowService", "ListWorkflows", set(), "workflows:read"),
        ("OrganizationService", "GetMember", {"organizations:*"}, "members:read"),
        ("OrganizationService", "StoreCredentials", {"organizations:*"}, "credentials:write"),
        ("ApiKeyService", "CreateApiKey", {"organizations:*"}, "api_keys:write"),
    ],
)
async def test_a_key_does_what_its_scopes_cover(
    service: str, name: str, scopes: set[str], missing: str | None
) -> None:
    methods = MethodTable([(descriptor, None) for descriptor in SERVICES])
    call = call_of(methods[f"/n8ngateway.v1.{service}/{name}"])
    call.principal = Principal(Kind.API_KEY, "k", DatabaseRole.AUTHENTICATED, "{}", scopes=frozenset(scopes))
    guard = Authorize(methods)
    if missing is None:
        await guard(call)
        return
    with pytest.raises(PermissionDenied) as raised:
        await guard(call)
    assert (raised.value.reason, raised.value.metadata) == ("SCOPE_MISSING", {"required_scope": missing})


async def test_the_platforms_token_makes_no_keys() -> None:
    methods = MethodTable([(descriptor, None) for descriptor in SERVICES])
    guard = Authorize(methods)
    platform = Principal(Kind.PLATFORM, "platform", DatabaseRole.SERVICE, "{}")
    for path in ("ApiKeyService/CreateApiKey", "ApiKeyService/ListApiKeys"):
        call = call_of(methods[f"/n8ngateway.v1.{path}"])
        call.principal = platform
        with pytest.raises(PermissionDenied, match="n8n-gateway keys"):
            await guard(call)
    call = call_of(methods["/n8ngateway.v1.WorkflowService/DeleteWorkflow"])
    call.principal = platform
    await guard(call)


async def test_users_need_no_scopes() -> None:
    methods = MethodTable([(descriptor, None) for descriptor in SERVICES])
    call = call_of(methods["/n8ngateway.v1.WorkflowService/DeleteWorkflow"])
    for call.principal in (None, Principal(Kind.USER, "u", DatabaseRole.AUTHENTICATED, "{}")):
        await Authorize(methods)(call)
