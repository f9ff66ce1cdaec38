"""Signed requests, on real parts: a database with keys and their secrets, a Valkey that replicas share."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.redis.nonces import Nonces
from gateway.adapters.vault import SealedVault
from gateway.chain.api_key import ApiKeys, TokenOrKey
from gateway.chain.policy import Policies
from gateway.chain.signature import Signatures
from gateway.gen.n8ngateway.v1.api_key_pb import ApiKey
from gateway.gen.n8ngateway.v1.api_key_service_pb import (
    CreateApiKeyRequest,
    RevokeApiKeyRequest,
    RotateApiKeyRequest,
)
from gateway.local.valkey import LocalValkey
from gateway.rpc.call import Call
from gateway.rpc.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RpcError,
    Unauthenticated,
    Unavailable,
)
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from gateway.rpc.signature import SignedRequest, Version, sign, signed_headers
from gateway.services.api_key import ApiKeyService
from tests.adapters.databases import Tenant, new_tenant
from tests.calls import call_of, method

KEYS = [("1", b"k" * 32)]
TOLERANCE = 300
NOW = 1_900_000_000
BODY = b'{"workflow_id": "w"}'


class Replica:
    """The guards of one gateway process, up to the signature."""

    def __init__(
        self, database: PostgresDatabase, redis: Redis, *, demand: bool = True, owner: Principal
    ) -> None:
        vault = SealedVault(database, KEYS)
        self.now = float(NOW)
        self.keys = ApiKeys(database, vault)
        self.policies = Policies(database)
        self.signatures = Signatures(
            self.keys.client_secrets,
            Nonces(redis).take,
            demand=demand,
            tolerance=TOLERANCE,
            now=lambda: self.now,
        )

        async def token(_call: Call) -> Principal:
            return owner

        self.authenticate = TokenOrKey(token, self.keys)

    async def admit(self, call: Call) -> Call:
        call.principal = await self.authenticate(call)
        await self.policies(call)
        await self.signatures(call)
        return call

    def forget(self) -> None:
        self.keys.forget(None)
        self.policies.forget(None)

    async def close(self) -> None:
        await self.keys.close()
        await self.policies.close()


@dataclass(frozen=True)
class Key:
    """A key and its client secret."""

    id: str
    key: str
    client_secret: str


class Desk:
    """A tenant's keys, and calls signed with them."""

    def __init__(self, tenant: Tenant, database: PostgresDatabase, redis: Redis, superuser: Any) -> None:
        self.superuser = superuser
        self.tenant = tenant
        self.database = database
        self.redis = redis
        self.replica = self.another_replica()
        self.service = ApiKeyService(database, SealedVault(database, KEYS), self.changed)
        self.call = call_of()
        self.call.principal = tenant.owner

    def another_replica(self, *, demand: bool = True, redis: Redis | None = None) -> Replica:
        return Replica(self.database, redis or self.redis, demand=demand, owner=self.tenant.owner)

    async def changed(self, public_id: str) -> None:
        self.replica.keys.forget(public_id)

    async def create(self) -> Key:
        request = CreateApiKeyRequest(
            organization_id=self.tenant.organization_id, api_key=ApiKey(name="signing")
        )
        made = await self.service.create_api_key(request, self.call)
        assert made.api_key is not None
        return Key(made.api_key.id, made.key, made.client_secret)

    async def rotate(self, key: Key, overlap: int) -> Key:
        request = RotateApiKeyRequest(
            organization_id=self.tenant.organization_id, id=key.id, overlap_seconds=overlap
        )
        made = await self.service.rotate_api_key(request, self.call)
        return Key(key.id, made.key, made.client_secret)

    async def ask_for(self, policy: str, minimum: int = 0) -> None:
        """Set the organization's policy, as an operator can."""
        await self.superuser.execute(
            "update organizations set auth_policy = $1, minimum_signature_version = $2 where id = $3",
            f"AUTH_POLICY_{policy}",
            minimum,
            uuid.UUID(self.tenant.organization_id),
        )
        self.replica.forget()


def request_of(key: Key, **changed: Any) -> SignedRequest:
    request = SignedRequest(
        timestamp=str(NOW),
        nonce=uuid.uuid4().hex,
        tenant="",
        key_id=key.key.rpartition("_")[0],
        http_method="POST",
        target="/api/v1/execute?a=b",
        content_type="application/json",
        message=BODY,
    )
    return replace(request, **changed)


def carrying(request: SignedRequest, headers: dict[str, str], called: str = "Execute") -> Call:
    """The call as a door makes it of a request."""
    call = call_of(method(called), metadata={name.lower(): value for name, value in headers.items()})
    call.body, call.http_method, call.target = request.message, request.http_method, request.target
    return call


def signed(key: Key, version: Version = 2, called: str = "Execute", **changed: Any) -> Call:
    """A call with a valid signature of the request with these changes."""
    request = request_of(key, **changed)
    return carrying(request, signed_headers(request, key.key, key.client_secret, version), called)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def valkey(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with LocalValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
async def desk(database: PostgresDatabase, superuser: Any, valkey: str) -> AsyncIterator[Desk]:
    redis: Redis = Redis.from_url(valkey)
    made = Desk(await new_tenant(database), database, redis, superuser)
    yield made
    await made.replica.close()
    await redis.aclose()


async def refusal(replica: Replica, call: Call) -> str:
    with pytest.raises(RpcError) as raised:
        await replica.admit(call)
    return raised.value.reason


@pytest.mark.parametrize("version", [1, 2])
async def test_a_signed_call_of_a_key_goes_on(desk: Desk, version: Version) -> None:
    key = await desk.create()
    call = await desk.replica.admit(signed(key, version))
    assert call.principal is not None
    assert (call.principal.kind, call.key_id) == (Kind.API_KEY, key.key.rpartition("_")[0])


@pytest.mark.parametrize(
    "changed",
    [
        {"message": BODY + b" "},
        {"message": b""},
        {"target": "/api/v1/execute?a=c"},
        {"target": "/api/v1/workflows"},
        {"http_method": "GET"},
        {"content_type": "application/proto"},
        {"nonce": "x" * 32},
        {"timestamp": str(NOW + 1)},
        {"tenant": str(uuid.uuid4())},
        {"key_id": "gw_live_aaaaaaaaaaaaaaaa"},
    ],
    ids="-".join,
)
async def test_a_signature_of_another_request_does_not_hold(desk: Desk, changed: dict[str, Any]) -> None:
    key = await desk.create()
    request = request_of(key)
    headers = signed_headers(request, key.key, key.client_secret)
    headers["X-Signature"] = sign(replace(request, **changed), key.client_secret)
    assert await refusal(desk.replica, carrying(request, headers)) == "SIGNATURE_INVALID"
    assert await desk.redis.keys(f"*{request.key_id}*") == []  # nothing is stored for who has no secret


async def test_version_1_covers_timestamp_and_message(desk: Desk) -> None:
    key = await desk.create()
    request = request_of(key)
    headers = signed_headers(request, key.key, key.client_secret, 1)
    for changed in ({"message": BODY + b" "}, {"timestamp": str(NOW + 1)}):
        other = replace(request, **changed)  # type: ignore[arg-type]
        wrong = headers | {"X-Signature": sign(other, key.client_secret, 1)}
        assert await refusal(desk.replica, carrying(request, wrong)) == "SIGNATURE_INVALID"
    elsewhere = replace(request, target="/api/v1/other", http_method="PUT", content_type="text/plain")
    await desk.replica.admit(carrying(elsewhere, headers))


async def test_a_signature_by_another_keys_secret_does_not_hold(desk: Desk) -> None:
    key, other = await desk.create(), await desk.create()
    request = request_of(key)
    headers = signed_headers(request, key.key, other.client_secret)
    assert await refusal(desk.replica, carrying(request, headers)) == "SIGNATURE_INVALID"


@pytest.mark.parametrize(("seconds", "holds"), [(300, True), (-300, True), (301, False), (-301, False)])
@pytest.mark.parametrize("version", [1, 2])
async def test_a_timestamp_holds_up_to_both_edges(
    desk: Desk, version: Version, seconds: int, *, holds: bool
) -> None:
    key = await desk.create()
    desk.replica.now = NOW + 0.999
    call = signed(key, version, timestamp=str(NOW + seconds))
    if holds:
        await desk.replica.admit(call)
        return
    with pytest.raises(Unauthenticated) as raised:
        await desk.replica.admit(call)
    assert raised.value.reason == "SIGNATURE_EXPIRED"
    assert raised.value.metadata == {"server_time": str(NOW), "tolerance_seconds": "300"}


@pytest.mark.parametrize("version", [1, 2])
async def test_a_call_is_made_once_whichever_replica_it_comes_to(desk: Desk, version: Version) -> None:
    key = await desk.create()
    other = desk.another_replica()
    request = request_of(key)
    headers = signed_headers(request, key.key, key.client_secret, version)
    await desk.replica.admit(carrying(request, headers))
    for replica in (other, desk.replica):
        assert await refusal(replica, carrying(request, headers)) == "SIGNATURE_REPLAYED"
    assert 0 < await desk.redis.ttl((await desk.redis.keys(f"*{request.key_id}*"))[0]) <= 2 * TOLERANCE
    await other.close()


async def test_of_replays_at_the_same_time_one_goes_on(desk: Desk) -> None:
    key = await desk.create()
    request = request_of(key)
    headers = signed_headers(request, key.key, key.client_secret)
    calls = [desk.replica.admit(carrying(request, headers)) for _ in range(20)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, Call) for outcome in outcomes) == 1


async def test_two_keys_may_choose_the_same_nonce(desk: Desk) -> None:
    for _ in range(2):
        await desk.replica.admit(signed(await desk.create(), nonce="n" * 32))


@pytest.mark.parametrize("version", [1, 2])
async def test_during_a_rotation_both_secrets_sign_with_either_key(desk: Desk, version: Version) -> None:
    first = await desk.create()
    second = await desk.rotate(first, 60)
    for message, key, secret in (
        (b"1", first, first),
        (b"2", second, second),
        (b"3", first, second),
        (b"4", second, first),
    ):
        await desk.replica.admit(
            signed(replace(key, client_secret=secret.client_secret), version, message=message)
        )
    desk.replica.keys._now = lambda: time.time() + 61
    mixed = signed(replace(second, client_secret=first.client_secret), version)
    assert await refusal(desk.replica, mixed) == "SIGNATURE_INVALID"
    await desk.replica.admit(signed(second, version, message=b"5"))


@pytest.mark.parametrize("version", [1, 2])
async def test_several_signatures_of_one_request_are_one_call(desk: Desk, version: Version) -> None:
    first = await desk.create()
    second = await desk.rotate(first, 60)
    request = request_of(second)
    headers = signed_headers(request, second.key, second.client_secret, version)
    both = [sign(request, key.client_secret, version) for key in (first, second)]
    wrong = sign(request, "gw_secret_unknown", version)
    await desk.replica.admit(carrying(request, headers | {"X-Signature": ", ".join([wrong, *both])}))
    for alone in both:
        again = carrying(request, headers | {"X-Signature": alone})
        assert await refusal(desk.replica, again) == "SIGNATURE_REPLAYED"


async def test_what_has_not_the_form_is_named(desk: Desk) -> None:
    key = await desk.create()
    request = request_of(key)
    good = signed_headers(request, key.key, key.client_secret)
    one = good["X-Signature"]
    malformed = [
        ("X-Signature", value)
        for value in ("x", one[:-1], one + "0", one.upper(), f"{one},", ",".join([one] * 4), f"v3={one[3:]}")
    ]
    malformed += [("X-Signature", f"{one},{one[3:]}")]  # of two versions
    malformed += [
        ("X-Timestamp", value)
        for value in ("now", "-1900000000", "1e9", "01900000000", f"{NOW}.5", f"{NOW}, {NOW}", "٣" * 10)
    ]
    malformed += [("X-Nonce", value) for value in ("", "short", "x" * 65, "x" * 20 + "\n", "ä" * 20)]
    for name, value in malformed:
        with pytest.raises(InvalidArgument) as raised:
            await desk.replica.admit(carrying(request, good | {name: value}))
        assert raised.value.reason == "SIGNATURE_MALFORMED"
        assert list(raised.value.fields) == [name]
    for name in ("X-Signature", "X-Timestamp"):
        without = {header: value for header, value in good.items() if header != name}
        with pytest.raises(Unauthenticated) as missing:
            await desk.replica.admit(carrying(request, without))
        assert missing.value.reason == "SIGNATURE_MISSING"
        assert name in missing.value.message
    await desk.replica.admit(carrying(request, good))


async def test_a_gateway_that_demands_none_takes_none(desk: Desk) -> None:
    key = await desk.create()
    replica = desk.another_replica(demand=False)
    request = request_of(key)
    await replica.admit(carrying(request, {"X-API-Key": key.key}))
    await replica.admit(carrying(request, {"X-API-Key": key.key, "X-Signature": "of something else"}))
    await desk.ask_for("SIGNED_KEY")
    replica.forget()
    assert await refusal(replica, carrying(request, {"X-API-Key": key.key})) == "SIGNATURE_MISSING"
    await replica.admit(signed(key))
    await replica.close()


@pytest.mark.parametrize("policy", ["JWT", "SIGNED_KEY"])
async def test_an_older_version_than_the_organization_wants_is_refused(desk: Desk, policy: str) -> None:
    key = await desk.create()
    await desk.ask_for(policy, minimum=2)
    with pytest.raises(Unauthenticated) as raised:
        await desk.replica.admit(signed(key, 1))
    assert (raised.value.reason, raised.value.metadata) == ("SIGNATURE_VERSION", {"minimum_version": "2"})
    await desk.replica.admit(signed(key, 2))


async def test_a_key_alone_is_refused_where_a_token_is_wanted_too(desk: Desk) -> None:
    key = await desk.create()
    await desk.ask_for("JWT_AND_SIGNED")
    assert await refusal(desk.replica, signed(key)) == "AUTH_POLICY"


async def test_a_token_runs_nothing_where_only_keys_may(desk: Desk) -> None:
    await desk.ask_for("SIGNED_KEY")
    for called in ("Execute", "ExecuteStream", "CancelExecution"):
        with pytest.raises(PermissionDenied) as raised:
            await desk.replica.admit(carrying(request_of(await desk.create()), {}, called))
        assert raised.value.reason == "AUTH_POLICY"
    await desk.replica.admit(carrying(request_of(await desk.create()), {}, "GetExecution"))


@pytest.mark.parametrize("policy", ["JWT", "JWT_AND_SIGNED"])
async def test_a_signature_beside_a_token_is_never_left_unchecked(desk: Desk, policy: str) -> None:
    request = request_of(await desk.create())
    await desk.ask_for(policy)
    headers = {"Authorization": "Bearer t", "X-Timestamp": "1", "X-Signature": "0" * 64}
    assert await refusal(desk.replica, carrying(request, headers)) == "SIGNATURE_WITHOUT_KEY"


async def test_a_token_and_a_signature_go_together(desk: Desk) -> None:
    key = await desk.create()
    await desk.ask_for("JWT_AND_SIGNED", minimum=2)
    alone = carrying(request_of(key), {"Authorization": "Bearer t"})
    assert await refusal(desk.replica, alone) == "SIGNATURE_MISSING"
    request = request_of(key)
    headers = signed_headers(request, key.key, key.client_secret) | {"Authorization": "Bearer t"}
    call = await desk.replica.admit(carrying(request, headers))
    principal = call.caller
    assert (principal.kind, principal.subject) == (Kind.USER, desk.tenant.owner.subject)
    assert principal.tenant == desk.tenant.organization_id
    assert principal.token is None
    assert json.loads(principal.claims)["gateway_signed"] == {
        "organization_id": desk.tenant.organization_id,
        "version": 2,
    }
    old = signed(key, 1, message=b"old")
    old.metadata = {**old.metadata, "authorization": "Bearer t"}
    assert await refusal(desk.replica, old) == "SIGNATURE_VERSION"
    wrong = headers | {"X-Signature": sign(request, "gw_secret_unknown")}
    assert await refusal(desk.replica, carrying(request, wrong)) == "SIGNATURE_INVALID"


async def test_a_key_of_another_organization_signs_for_that_one_alone(desk: Desk) -> None:
    """Its signature does not count where the user acts: the call is made for the key's own organization."""
    elsewhere = Desk(await new_tenant(desk.database), desk.database, desk.redis, desk.superuser)
    key = await elsewhere.create()
    await desk.ask_for("JWT_AND_SIGNED")
    request = request_of(key)
    headers = signed_headers(request, key.key, key.client_secret) | {"Authorization": "Bearer t"}
    call = await desk.replica.admit(carrying(request, headers))
    assert call.policy is None
    assert call.caller.tenant == elsewhere.tenant.organization_id
    for function, named in (
        ("list_members", {"p_organization_id": desk.tenant.organization_id}),
        ("get_workflow", {"p_id": desk.tenant.workflow_id}),
    ):
        with pytest.raises(NotFound):
            await desk.database.call(function, call.caller, **named)


async def test_without_redis_nothing_signed_goes_on(desk: Desk) -> None:
    key = await desk.create()
    gone: Redis = Redis.from_url("redis://127.0.0.1:1")
    replica = desk.another_replica(redis=gone)
    with capture_logs(), pytest.raises(Unavailable) as raised:
        await replica.admit(signed(key))
    assert raised.value.retry_after
    assert raised.value.reason == "REPLAY_PROTECTION_AWAY"
    # Who has no secret does not learn that.
    request = request_of(key)
    headers = signed_headers(request, key.key, "gw_secret_unknown")
    assert await refusal(replica, carrying(request, headers)) == "SIGNATURE_INVALID"
    await replica.close()
    await gone.aclose()


async def test_a_revoked_keys_secrets_are_forgotten(desk: Desk) -> None:
    key = await desk.create()
    await desk.replica.admit(signed(key))
    assert len(desk.replica.keys._secrets) == 1
    revoke = RevokeApiKeyRequest(organization_id=desk.tenant.organization_id, id=key.id)
    await desk.service.revoke_api_key(revoke, desk.call)
    assert len(desk.replica.keys._secrets) == 0
    assert await refusal(desk.replica, signed(key)) == "API_KEY_REVOKED"


async def test_a_secret_is_fetched_once(desk: Desk) -> None:
    key = await desk.create()
    asked: list[str] = []
    call = desk.database.call

    class Counting:
        async def call(self, function: str, *arguments: Any, **named: Any) -> str:
            asked.append(function)
            return await call(function, *arguments, **named)

    desk.replica.keys._vault = SealedVault(Counting(), KEYS)  # type: ignore[arg-type]
    await asyncio.gather(*(desk.replica.admit(signed(key)) for _ in range(10)))
    assert asked == ["reveal_secrets"]


async def test_secrets_are_in_no_error_and_no_log(desk: Desk) -> None:
    key = await desk.create()
    request = request_of(key)
    headers = signed_headers(request, key.key, key.client_secret)
    valid = headers["X-Signature"]
    with capture_logs() as logs, pytest.raises(Unauthenticated) as raised:
        await desk.replica.admit(carrying(replace(request, message=b"x"), headers))
    told = f"{logs} {raised.value!r} {raised.value.message} {raised.value.metadata}"
    expected = sign(replace(request, message=b"x"), key.client_secret)
    for secret in (key.client_secret, key.key, valid, expected):
        assert secret not in told


async def test_others_than_users_and_keys_do_not_sign(desk: Desk) -> None:
    call = call_of()
    for call.principal in (None, Principal(Kind.N8N, "n8n", DatabaseRole.SERVICE, "{}")):
        await desk.replica.signatures(call)
