from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import structlog

from gateway.adapters.clerk import (
    BACKEND_JWKS_URL,
    LEEWAY_SECONDS,
    ClerkTokens,
    permissions_of,
    signing_keys,
)
from gateway.adapters.jwks import FixedKey, Jwks
from gateway.rpc.errors import Unauthenticated, Unavailable
from gateway.rpc.principal import DatabaseRole, Kind
from tests.adapters.identity_provider import (
    ISSUER,
    Provider,
    document,
    forged,
    jwk,
    private_key,
    provider,
    public_pem,
    session,
    token,
)

RS256 = {"alg": "RS256", "typ": "JWT", "kid": "key-1"}


@pytest.fixture
async def served() -> AsyncIterator[Provider]:
    async with provider() as running:
        yield running


@pytest.fixture
async def jwks(served: Provider) -> AsyncIterator[Jwks]:
    async with session() as opened:
        keys = Jwks(served.url, opened)
        with structlog.testing.capture_logs():
            yield keys
        await keys.close()


@pytest.fixture
def tokens(jwks: Jwks) -> ClerkTokens:
    return ClerkTokens(jwks, issuer=ISSUER, audience=None, authorized_parties=())


def now() -> int:
    return int(time.time())


async def refusal(tokens: ClerkTokens, given: str) -> str:
    """The reason for which a token is refused."""
    return (await refused(tokens, given)).reason


async def message(tokens: ClerkTokens, given: str) -> str:
    """What the caller is told of a token that is refused."""
    return (await refused(tokens, given)).message


async def refused(tokens: ClerkTokens, given: str) -> Unauthenticated:
    """The refusal of a token, which is told without a word of the token."""
    with pytest.raises(Unauthenticated) as caught:
        await tokens.verify(given)
    parts = [part for part in given.split(".") if len(part) > 8]
    assert not any(part in repr(caught.value) for part in parts)
    assert caught.value.__cause__ is None
    return caught.value


async def test_a_version_2_token_is_its_user(tokens: ClerkTokens) -> None:
    organization = {"id": "org_1", "slg": "acme", "rol": "admin", "per": "read", "fpm": "1"}
    given = token(o=organization, fea="o:workflows")
    principal, expires = await tokens.verify(given)
    assert (principal.kind, principal.subject, principal.session) == (Kind.USER, "user_1", "sess_1")
    assert (principal.database_role, principal.tenant) == (DatabaseRole.AUTHENTICATED, None)
    claims = json.loads(principal.claims)
    assert claims["o"] == organization
    assert expires == claims["exp"]
    assert principal.token == given
    assert given not in repr(principal)


async def test_a_version_1_token_is_its_user_too(tokens: ClerkTokens) -> None:
    organization = {"org_id": "org_1", "org_slug": "acme", "org_role": "org:admin"}
    principal, _ = await tokens.verify(token(v=None, **organization))
    assert principal.subject == "user_1"
    assert json.loads(principal.claims).items() >= organization.items()


async def test_a_session_may_be_nameless(tokens: ClerkTokens) -> None:
    principal, _ = await tokens.verify(token(sid=None))
    assert principal.session is None


def hs256_with_the_public_key() -> str:
    """The public key taken for a shared secret."""
    signed = forged({**RS256, "alg": "HS256"}, {"sub": "user_1", "iss": ISSUER, "exp": now() + 60})
    head, _, _ = signed.rpartition(".")
    signature = hmac.new(public_pem(), head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def with_changed_claims() -> str:
    head, _, signature = token().split(".")
    claims = {"sub": "user_2", "iss": ISSUER, "iat": now(), "exp": now() + 60}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{head}.{payload}.{signature}"


def of_another_key_of_that_name() -> str:
    return token("somebody-elses", kid="key-1")


FORGED = {
    "alg none": lambda: forged({**RS256, "alg": "none"}, {"sub": "user_1", "exp": now() + 60}, b""),
    "alg None": lambda: forged({**RS256, "alg": "None"}, {"sub": "user_1", "exp": now() + 60}, b""),
    "no alg": lambda: forged({"kid": "key-1"}, {"sub": "user_1"}),
    "alg a list": lambda: forged({**RS256, "alg": ["RS256"]}, {"sub": "user_1"}),
    "HS256 with the public key": hs256_with_the_public_key,
    "PS256": lambda: jwt.encode({"sub": "user_1"}, private_key(), "PS256", {"kid": "key-1"}),
    "RS512": lambda: jwt.encode({"sub": "user_1"}, private_key(), "RS512", {"kid": "key-1"}),
    "no kid": lambda: token(kid=None),
    "kid with a path": lambda: token(kid="../../../dev/null"),
    "kid with a URL": lambda: token(kid="https://evil.example/jwks.json"),
    "kid a number": lambda: forged({**RS256, "kid": 1}, {"sub": "user_1"}),
    "kid a list": lambda: forged({**RS256, "kid": ["key-1"]}, {"sub": "user_1"}),
    "unknown kid": lambda: token("key-2", kid="key-2"),
    "another key of that name": of_another_key_of_that_name,
    "changed claims": with_changed_claims,
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "two parts": lambda: token().rpartition(".")[0],
    "four parts": lambda: token() + ".more",
    "five parts": lambda: "a.b.c.d.e",
    "nothing": lambda: "",
    "dots": lambda: "..",
    "no base64": lambda: "%%%.%%%.%%%",
    "not ascii": lambda: "é.☃.ü",
    "header no object": lambda: forged([RS256], {"sub": "user_1"}),
    "header no json": lambda: forged(b"{", {"sub": "user_1"}),
    "header nested without end": lambda: forged(b'{"kid":' + b"[" * 9000, {"sub": "user_1"}),
    "crit": lambda: forged({**RS256, "crit": ["b64"], "b64": False}, {"sub": "user_1"}),
    "64 KB": lambda: token(padding="x" * 48_000),
    "64 KB of nothing": lambda: "x" * 65_536,
}


@pytest.mark.parametrize("make", FORGED.values(), ids=FORGED)
async def test_what_is_no_token_of_the_issuer_is_invalid(tokens: ClerkTokens, make: Any) -> None:
    assert await refusal(tokens, make()) == "TOKEN_INVALID"


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        ("HS256 with the public key", "must be signed with RS256"),
        ("no kid", "must name the key"),
        ("kid a number", "header has a part that is not understood"),
        ("unknown kid", "a key (kid) that its issuer does not publish"),
        ("another key of that name", "signature does not hold"),
        ("changed claims", "signature does not hold"),
        ("two parts", "no JWT, or cut off"),
        ("64 KB", "longer than 16384 characters"),
    ],
)
async def test_why_a_token_is_invalid_is_told(tokens: ClerkTokens, make: str, cause: str) -> None:
    assert cause in await message(tokens, FORGED[make]())


@pytest.mark.parametrize(
    ("claims", "cause"),
    [
        ({"exp": 1_700_000_000}, "expired at 2023-11-14T22:13:20Z"),
        ({"nbf": 4_000_000_000}, "not valid before 2096-10-02T07:06:40Z, and here it is 20"),
        ({"nbf": 10**18}, f"not valid before {10**18}, "),
        ({"iat": 4_000_000_000, "nbf": "later"}, "not valid before 2096-10-02T07:06:40Z, and here it is 20"),
        ({"iss": f"{ISSUER}/"}, f'iss, "{ISSUER}/", is not what CLERK_JWT_ISSUER says'),
        ({"azp": "https://evil.example"}, 'CLERK_AUTHORIZED_PARTIES does not list its azp, "https://evil.'),
        ({"azp": None}, "CLERK_AUTHORIZED_PARTIES does not list its azp, null"),
        ({"aud": ["a"]}, 'its aud, ["a"], is not what CLERK_AUDIENCE says'),
        ({"aud": None}, "its aud, null, is not"),
        ({"sub": None}, "lacks the claim sub"),
        ({"sub": ""}, "claim sub is empty"),
        ({"nbf": "later"}, "claims are malformed: exp, iat and nbf must be times"),
    ],
)
async def test_what_is_wrong_with_a_claim_is_told_to_who_holds_the_token(
    jwks: Jwks, claims: dict[str, Any], cause: str
) -> None:
    listed = ["https://app.example"]
    tokens = ClerkTokens(jwks, issuer=ISSUER, audience="gateway", authorized_parties=listed)
    given = token(**{"aud": "gateway", "azp": listed[0]} | claims)
    assert cause in await message(tokens, given)


async def test_a_critical_header_that_nobody_understands_is_invalid(tokens: ClerkTokens) -> None:
    claims = {"sub": "user_1", "iss": ISSUER, "iat": now(), "exp": now() + 60}
    headers = {"kid": "key-1", "crit": ["x-new"], "x-new": True}
    assert await refusal(tokens, jwt.encode(claims, private_key(), "RS256", headers)) == "TOKEN_INVALID"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": -LEEWAY_SECONDS - 5}, "TOKEN_EXPIRED"),
        ({"exp": -86_400}, "TOKEN_EXPIRED"),
        ({"nbf": LEEWAY_SECONDS + 5}, "TOKEN_NOT_YET_VALID"),
        ({"iat": LEEWAY_SECONDS + 5}, "TOKEN_NOT_YET_VALID"),
    ],
)
async def test_times_beyond_the_leeway_are_told(
    tokens: ClerkTokens, claims: dict[str, int], reason: str
) -> None:
    assert await refusal(tokens, token(**{name: now() + value for name, value in claims.items()})) == reason


@pytest.mark.parametrize("claims", [{"exp": -LEEWAY_SECONDS + 3}, {"nbf": LEEWAY_SECONDS - 1}])
async def test_times_within_the_leeway_hold(tokens: ClerkTokens, claims: dict[str, int]) -> None:
    given = token(**{name: now() + value for name, value in claims.items()})
    principal, _ = await tokens.verify(given)
    assert principal.subject == "user_1"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://other.example"}, "TOKEN_ISSUER"),
        ({"iss": f"{ISSUER}/"}, "TOKEN_ISSUER"),
        ({"iss": None}, "TOKEN_INVALID"),
        ({"sub": None}, "TOKEN_INVALID"),
        ({"sub": ""}, "TOKEN_INVALID"),
        ({"sub": 7}, "TOKEN_INVALID"),
        ({"sub": ["user_1"]}, "TOKEN_INVALID"),
        ({"exp": None}, "TOKEN_INVALID"),
        ({"exp": "soon"}, "TOKEN_INVALID"),
        ({"exp": float("inf")}, "TOKEN_INVALID"),
        ({"exp": float("nan")}, "TOKEN_INVALID"),
        ({"iat": None}, "TOKEN_INVALID"),
        ({"nbf": "later"}, "TOKEN_INVALID"),
        ({"sts": "pending"}, "SESSION_PENDING"),
    ],
)
async def test_what_a_signed_token_lacks_is_told(
    tokens: ClerkTokens, claims: dict[str, Any], reason: str
) -> None:
    if isinstance(claims.get("sub"), int | list) or isinstance(claims.get("exp"), str | float):
        given = signed_as_it_is(claims)
    else:
        given = token(**claims)
    assert await refusal(tokens, given) == reason


def signed_as_it_is(claims: dict[str, Any]) -> str:
    """A token that PyJWT would not make."""
    held = {"iss": ISSUER, "sub": "user_1", "iat": now(), "exp": now() + 60} | claims
    return jwt.api_jws.encode(json.dumps(held).encode(), private_key(), "RS256", {"kid": "key-1"})


@pytest.mark.parametrize("payload", [b"[1]", b'"text"', b"{", b'{"sub":' + b"[" * 9000, b"\xff"])
async def test_signed_claims_that_are_no_object_are_invalid(tokens: ClerkTokens, payload: bytes) -> None:
    given = jwt.api_jws.encode(payload, private_key(), "RS256", {"kid": "key-1"})
    assert await refusal(tokens, given) == "TOKEN_INVALID"


@pytest.mark.parametrize("sts", ["active", None])
async def test_a_session_that_is_not_pending_holds(tokens: ClerkTokens, sts: str | None) -> None:
    assert await tokens.verify(token(sts=sts))


async def test_only_the_listed_parties_are_served(jwks: Jwks) -> None:
    listed = ("https://app.example", "https://admin.example")
    tokens = ClerkTokens(jwks, issuer=ISSUER, audience=None, authorized_parties=listed)
    assert await tokens.verify(token(azp="https://admin.example"))
    for azp in ("https://evil.example", "https://app.example.evil", "", None, ["https://app.example"], 5):
        assert await refusal(tokens, token(azp=azp)) == "TOKEN_PARTY"


async def test_without_a_list_any_party_is_served(tokens: ClerkTokens) -> None:
    assert await tokens.verify(token(azp="https://anywhere.example"))


async def test_an_audience_is_asked_for_when_one_is_set(jwks: Jwks) -> None:
    tokens = ClerkTokens(jwks, issuer=ISSUER, audience="gateway", authorized_parties=())
    assert await tokens.verify(token(aud="gateway"))
    assert await tokens.verify(token(aud=["other", "gateway"]))
    assert await refusal(tokens, token(aud="other")) == "TOKEN_AUDIENCE"
    assert await refusal(tokens, token(aud=[])) == "TOKEN_AUDIENCE"
    assert await refusal(tokens, token()) == "TOKEN_AUDIENCE"


async def test_without_one_the_audience_is_not_looked_at(tokens: ClerkTokens) -> None:
    assert await tokens.verify(token(aud="somebody"))


async def test_a_provider_that_is_away_is_no_fault_of_the_token(
    tokens: ClerkTokens, served: Provider
) -> None:
    served.publish(b"", status=502)
    with pytest.raises(Unavailable):
        await tokens.verify(token())


async def test_a_rotated_key_is_found(jwks: Jwks, served: Provider) -> None:
    served.publish(document(jwk("key-1"), jwk("key-2")))
    tokens = ClerkTokens(jwks, issuer=ISSUER, audience=None, authorized_parties=())
    for name in ("key-1", "key-2"):
        assert await tokens.verify(token(name, kid=name))
    assert served.fetches == 1


async def test_no_shape_of_a_token_makes_the_gateway_fetch_from_elsewhere(
    tokens: ClerkTokens, served: Provider
) -> None:
    headers = {
        "kid": "key-1",
        "jku": "https://evil.example",
        "x5u": "https://evil.example",
        "jwk": jwk("evil"),
    }
    claims = {"sub": "user_1", "iss": ISSUER, "iat": now(), "exp": now() + 60}
    assert await refusal(tokens, jwt.encode(claims, private_key("evil"), "RS256", headers)) == "TOKEN_INVALID"
    assert served.fetches == 1


@pytest.mark.parametrize(
    ("claims", "permissions"),
    [
        ({}, set()),
        ({"org_permissions": ["org:workflows:read", 7]}, {"org:workflows:read"}),
        ({"org_permissions": "org:workflows:read"}, set()),
        (
            {"o": {"per": "read,manage", "fpm": "3,2"}, "fea": "o:workflows,u:profile,o:credits"},
            {"org:workflows:read", "org:workflows:manage", "org:credits:manage"},
        ),
        ({"o": {"per": "read", "fpm": "1"}, "fea": "uo:both"}, {"org:both:read"}),
        ({"o": {"per": "read", "fpm": "x,1"}, "fea": "o:a,o:b"}, {"org:a:read"}),
        ({"o": {"per": 1, "fpm": None}, "fea": ["o:a"]}, set()),
        ({"o": {}}, set()),
    ],
)
def test_permissions_are_unpacked(claims: dict[str, Any], permissions: set[str]) -> None:
    assert permissions_of(claims) == permissions


async def test_who_acts_for_another_is_known(tokens: ClerkTokens) -> None:
    principal, _ = await tokens.verify(token(act={"sub": "user_support"}))
    assert principal.impersonator == "user_support"


async def test_a_key_known_beforehand_needs_no_provider() -> None:
    fixed = FixedKey(public_pem().decode())
    tokens = ClerkTokens(fixed, issuer=ISSUER, audience=None, authorized_parties=())
    principal, _ = await tokens.verify(token())
    assert principal.kind is Kind.USER


async def test_clerks_api_wants_to_see_the_secret_key(served: Provider) -> None:
    async with session() as opened:
        keys = Jwks(served.url, opened, bearer="sk_test_of_the_instance")
        assert await keys.key("key-1") is not None
        await keys.close()
    assert served.authorization == ["Bearer sk_test_of_the_instance"]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"jwks_url": "https://keys.example/jwks"}, "https://keys.example/jwks"),
        ({"jwks_url": "https://keys.example/jwks", "secret_key": "sk"}, "https://keys.example/jwks"),
        ({"secret_key": "sk"}, BACKEND_JWKS_URL),
        ({}, f"{ISSUER}/.well-known/jwks.json"),
    ],
)
async def test_keys_come_by_the_nearest_way(given: dict[str, str], url: str) -> None:
    ways = {"jwks_url": None, "secret_key": None, "pem": None} | given
    async with session() as opened:
        keys = signing_keys(opened, issuer=ISSUER, **ways)
    assert isinstance(keys, Jwks)
    assert keys._url == url
