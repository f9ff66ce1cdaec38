from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway.chain.authenticate import Authenticate, BearerToken, DevelopmentHeaders, InternalSecret
from gateway.rpc.call import Call
from gateway.rpc.errors import InvalidArgument, Unauthenticated
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from tests.calls import EXECUTIONS, call_of

TENANT = "0190c8a6-0000-7000-8000-00000000000a"


class Verifier:
    """Takes every token that begins with `good`, and counts what it is asked."""

    def __init__(self, expires: float = 60) -> None:
        self.expires = expires
        self.asked: list[str] = []

    async def __call__(self, token: str) -> tuple[Principal, int]:
        self.asked.append(token)
        if not token.startswith("good"):
            raise Unauthenticated("no", reason="TOKEN_INVALID")
        principal = Principal(Kind.USER, token, DatabaseRole.AUTHENTICATED, "{}", token=token)
        return principal, int(time.time() + self.expires)


def bearing(token: str, **headers: str) -> Call:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return call_of(metadata={"authorization": f"Bearer {token}"} | named)


@pytest.mark.parametrize("header", ["Bearer good", "bearer good", "BEARER  good ", "Bearer good\t"])
async def test_a_bearer_token_is_verified(header: str) -> None:
    verifier = Verifier()
    principal = await BearerToken(verifier)(call_of(metadata={"authorization": header}))
    assert (principal.subject, verifier.asked) == ("good", ["good"])


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer   ", "good", "Basic good", "Token good"]
)
async def test_anything_else_is_no_token(header: str | None) -> None:
    verifier = Verifier()
    metadata = {} if header is None else {"authorization": header}
    with pytest.raises(Unauthenticated) as caught:
        await BearerToken(verifier)(call_of(metadata=metadata))
    assert (caught.value.reason, verifier.asked) == ("TOKEN_MISSING", [])


async def test_a_token_is_verified_once_as_long_as_it_holds() -> None:
    verifier = Verifier()
    authenticate = BearerToken(verifier)
    first = await authenticate(bearing("good-1"))
    assert await authenticate(bearing("good-1")) is first
    assert (await authenticate(bearing("good-2"))).subject == "good-2"
    assert verifier.asked == ["good-1", "good-2"]


async def test_a_token_that_has_expired_is_verified_again() -> None:
    verifier = Verifier(expires=-1)
    authenticate = BearerToken(verifier)
    for _ in range(3):
        await authenticate(bearing("good"))
    assert verifier.asked == ["good"] * 3


async def test_a_refused_token_is_not_remembered() -> None:
    verifier = Verifier()
    authenticate = BearerToken(verifier)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await authenticate(bearing("bad"))
    assert verifier.asked == ["bad", "bad"]
    assert not authenticate._known


async def test_what_is_remembered_is_bounded_and_the_used_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BearerToken, "REMEMBERED", 3)
    verifier = Verifier()
    authenticate = BearerToken(verifier)
    for n in range(3):
        await authenticate(bearing(f"good-{n}"))
    await authenticate(bearing("good-0"))
    await authenticate(bearing("good-3"))
    assert len(authenticate._known) == 3
    verifier.asked.clear()
    for n in (0, 2, 3, 1):
        await authenticate(bearing(f"good-{n}"))
    assert verifier.asked == ["good-1"]


def signed_in() -> Any:
    return BearerToken(Verifier()), {"authorization": "Bearer good"}


def by_development_headers() -> Any:
    return DevelopmentHeaders(otherwise=BearerToken(Verifier())), {"x-dev-user-id": "user_1"}


@pytest.mark.parametrize("way", [signed_in, by_development_headers])
async def test_a_tenant_is_named_by_its_id(way: Any) -> None:
    authenticate, metadata = way()
    assert (await authenticate(call_of(metadata=metadata))).tenant is None
    assert (await authenticate(call_of(metadata=metadata | {"x-tenant-id": ""}))).tenant is None
    for written in (TENANT, TENANT.upper()):
        assert (await authenticate(call_of(metadata=metadata | {"x-tenant-id": written}))).tenant == TENANT
    assert (await authenticate(call_of(metadata=metadata))).tenant is None


@pytest.mark.parametrize("way", [signed_in, by_development_headers])
@pytest.mark.parametrize(
    "tenant", ["acme", TENANT[:-1], TENANT + "0", TENANT + "\n", f"{{{TENANT}}}", f"{TENANT}, x"]
)
async def test_a_tenant_that_is_no_id_is_refused(way: Any, tenant: str) -> None:
    authenticate, metadata = way()
    with pytest.raises(InvalidArgument) as caught:
        await authenticate(call_of(metadata=metadata | {"x-tenant-id": tenant}))
    assert caught.value.fields == {"X-Tenant-ID": "must be a UUID"}


async def test_a_tenant_is_not_looked_at_before_the_token() -> None:
    with pytest.raises(Unauthenticated):
        await BearerToken(Verifier())(bearing("bad", x_tenant_id="acme"))


@pytest.mark.parametrize("organization", [None, "org_1"])
async def test_development_headers_stand_for_a_token(organization: str | None) -> None:
    verifier = Verifier()
    metadata = {"x-dev-user-id": "me@home.example"} | ({"x-dev-org-id": organization} if organization else {})
    principal = await DevelopmentHeaders(otherwise=BearerToken(verifier))(call_of(metadata=metadata))
    assert (principal.kind, principal.database_role) == (Kind.USER, DatabaseRole.AUTHENTICATED)
    claims = json.loads(principal.claims)
    assert (claims["sub"], claims["role"]) == ("me@home.example", "authenticated")
    assert claims.get("o", {}).get("id") == organization
    assert not verifier.asked


async def test_without_a_development_user_the_token_decides() -> None:
    verifier = Verifier()
    principal = await DevelopmentHeaders(otherwise=BearerToken(verifier))(
        bearing("good", x_dev_org_id="org_1", x_dev_user_id="")
    )
    assert (principal.subject, verifier.asked) == ("good", ["good"])


@pytest.mark.parametrize("value", ["a b", 'a"b', "x" * 65, "ünï", "a\nb", "a,b"])
@pytest.mark.parametrize("header", ["X-Dev-User-ID", "X-Dev-Org-ID"])
async def test_development_headers_are_plain_names(header: str, value: str) -> None:
    metadata = {"x-dev-user-id": "user_1"} | {header.lower(): value}
    with pytest.raises(InvalidArgument) as caught:
        await DevelopmentHeaders(otherwise=BearerToken(Verifier()))(call_of(metadata=metadata))
    assert set(caught.value.fields) == {header}


async def test_the_internal_secret_is_n8n() -> None:
    principal = await InternalSecret("s" * 64)(call_of(metadata={"x-n8n-internal-auth": "s" * 64}))
    assert (principal.kind, principal.subject) == (Kind.N8N, "n8n")
    assert principal.token is None


@pytest.mark.parametrize("given", [None, "", "s" * 63, "s" * 65, "S" * 64, "ß" * 64, " " + "s" * 64])
async def test_another_secret_is_nobody(given: str | None) -> None:
    metadata = {} if given is None else {"x-n8n-internal-auth": given}
    with pytest.raises(Unauthenticated) as caught:
        await InternalSecret("s" * 64)(call_of(metadata=metadata))
    assert caught.value.reason == "INTERNAL_AUTH"


async def test_an_empty_secret_lets_nobody_in() -> None:
    for metadata in ({}, {"x-n8n-internal-auth": ""}):
        with pytest.raises(Unauthenticated):
            await InternalSecret("")(call_of(metadata=metadata))


async def test_each_service_has_its_own_proof() -> None:
    token = BearerToken(Verifier())
    secret = InternalSecret("s" * 64)
    call = bearing("good")

    await Authenticate(token, {})(call)
    assert call.caller.subject == "good"
    with pytest.raises(Unauthenticated):
        await Authenticate(token, {EXECUTIONS.type_name: secret})(bearing("good"))

    open_call = bearing("bad")
    await Authenticate(token, {EXECUTIONS.type_name: None})(open_call)
    assert open_call.principal is None
    with pytest.raises(LookupError):
        _ = open_call.caller


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "x-tenant-id"])
async def test_a_header_that_says_who_acts_comes_once(header: str) -> None:
    async def anyone(_call: Call) -> Principal:
        raise AssertionError

    headers = {"authorization": "Bearer a"} | {header: "Bearer a, Bearer b"}
    with pytest.raises(InvalidArgument) as refused:
        await Authenticate(anyone, {})(call_of(metadata=headers))
    assert refused.value.reason == "REPEATED_HEADER"
    assert [name.lower() for name in refused.value.fields] == [header]
