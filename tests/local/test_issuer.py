from __future__ import annotations

import asyncio
import stat
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import jwt
import pytest

from gateway.local.errors import DataDirectoryError
from gateway.local.issuer import AUTHORIZED_PARTY, PERMISSIONS, Issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[Issuer]:
    async with Issuer(tmp_path) as started:
        yield started


async def verify(issuer: Issuer, token: str) -> dict[str, Any]:
    """Verify as any relying party would: from the served keys and nothing else."""
    keys = jwt.PyJWKClient(issuer.jwks_url)
    key = await asyncio.to_thread(keys.get_signing_key_from_jwt, token)
    claims: dict[str, Any] = jwt.decode(token, key, algorithms=["RS256"], issuer=issuer.url)
    return claims


def unpacked(claims: dict[str, Any]) -> set[str]:
    """Decode the permissions of a version 2 token as Clerk documents it."""
    features = [feature.removeprefix("o:") for feature in claims["fea"].split(",")]
    names = claims["o"]["per"].split(",")
    return {
        f"org:{feature}:{name}"
        for feature, mask in zip(features, claims["o"]["fpm"].split(","), strict=True)
        for bit, name in enumerate(names)
        if int(mask) >> bit & 1
    }


async def test_version_2(issuer: Issuer) -> None:
    token = issuer.mint("user_1", organization_id="org_1", organization_slug="acme", session_id="sess_1")
    claims = await verify(issuer, token)
    now = int(time.time())
    assert claims["iat"] <= now <= claims["iat"] + 30
    assert claims.pop("exp") - claims.pop("iat") == 60
    assert claims.pop("nbf") <= now
    assert claims.pop("jti")
    assert unpacked(claims) == set(PERMISSIONS["admin"])
    assert claims == {
        "azp": AUTHORIZED_PARTY,
        "fea": "o:workflows,o:credits",
        "fva": [0, -1],
        "iss": issuer.url,
        "o": {"id": "org_1", "rol": "admin", "slg": "acme", "per": "read,manage", "fpm": "3,3"},
        "role": "authenticated",
        "sid": "sess_1",
        "sts": "active",
        "sub": "user_1",
        "v": 2,
    }


async def test_version_1(issuer: Issuer) -> None:
    claims = await verify(issuer, issuer.mint("user_1", organization_id="org_1", role="member", version=1))
    assert claims["org_id"] == "org_1"
    assert claims["org_slug"] == "1"
    assert claims["org_role"] == "org:member"
    assert claims["org_permissions"] == list(PERMISSIONS["member"])
    assert not {"v", "o", "jti", "sts", "fea"} & set(claims)


@pytest.mark.parametrize("version", [1, 2])
async def test_without_an_organization_there_are_no_such_claims(
    issuer: Issuer, version: Literal[1, 2]
) -> None:
    claims = await verify(issuer, issuer.mint("user_1", version=version))
    assert not {"o", "fea", "org_id", "org_slug", "org_role", "org_permissions"} & set(claims)


@pytest.mark.parametrize(
    ("permissions", "masks"),
    [
        ([], None),
        (["org:a:read"], "1"),
        (["org:a:read", "org:b:write", "org:b:read", "org:c:write"], "1,3,2"),
    ],
)
async def test_chosen_permissions(issuer: Issuer, permissions: list[str], masks: str | None) -> None:
    claims = await verify(issuer, issuer.mint("user_1", organization_id="org_1", permissions=permissions))
    assert claims["o"].get("fpm") == masks
    if masks is not None:
        assert unpacked(claims) == set(permissions)


async def test_claims_can_be_replaced_and_taken_away(issuer: Issuer) -> None:
    token = issuer.mint("user_1", azp=None, sts="pending", aud="other", lifetime=timedelta(hours=1))
    claims = jwt.decode(token, options={"verify_signature": False})
    assert "azp" not in claims
    assert (claims["sts"], claims["aud"]) == ("pending", "other")
    assert claims["exp"] - claims["iat"] == 3600


async def test_an_expired_token_is_refused(issuer: Issuer) -> None:
    with pytest.raises(jwt.ExpiredSignatureError):
        await verify(issuer, issuer.mint("user_1", lifetime=timedelta(seconds=-1)))


async def test_a_token_of_another_issuer_is_refused(issuer: Issuer, tmp_path: Path) -> None:
    async with Issuer(tmp_path / "other") as other:
        with pytest.raises(jwt.PyJWKClientError):
            await verify(issuer, other.mint("user_1"))


async def test_address_and_key_stay_the_same(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    async with issuer:
        url, token = issuer.url, issuer.mint("user_1")
    async with Issuer(tmp_path) as again:
        assert again.url == url
        assert (await verify(again, token))["sub"] == "user_1"
    assert stat.S_IMODE((tmp_path / "issuer-key.pem").stat().st_mode) == 0o600


async def test_only_the_public_key_is_served(issuer: Issuer) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(issuer.jwks_url) as response:
            (key,) = (await response.json())["keys"]
        async with session.get(f"{issuer.url}/.well-known/openid-configuration") as response:
            configuration = await response.json()
        async with session.get(issuer.url) as response:
            assert response.status == 404
    assert set(key) == {"kty", "n", "e", "use", "alg", "kid"}
    assert configuration["issuer"] == issuer.url
    assert configuration["jwks_uri"] == issuer.jwks_url


async def test_a_damaged_key_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "issuer-key.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(DataDirectoryError, match=r"issuer-key.pem is damaged"):
        await Issuer(tmp_path).start()


def test_it_mints_only_when_started(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        Issuer(tmp_path).mint("user_1")
