"""Clerk session tokens, versions 1 and 2, as this gateway accepts them.

The claims are described in Clerk's "Session tokens" reference. Version 2 carries the
organization in `o`, version 1 in `org_id`, `org_slug`, `org_role`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Protocol

import jwt
from jwt import PyJWK
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidTokenError,
    MissingRequiredClaimError,
)

from gateway.adapters.jwks import ALGORITHM, FixedKey, Jwks
from gateway.rpc.errors import Unauthenticated
from gateway.rpc.principal import DatabaseRole, Kind, Principal

if TYPE_CHECKING:
    import aiohttp

BACKEND_JWKS_URL = "https://api.clerk.com/v1/jwks"
"""Clerk's Backend API: the keys of the instance that the secret key belongs to."""

LEEWAY_SECONDS = 5
LONGEST_TOKEN = 16 * 1024

_REQUIRED = ["exp", "iat", "iss", "sub"]
_REASONS: dict[type[InvalidTokenError], tuple[str, str]] = {
    ExpiredSignatureError: ("TOKEN_EXPIRED", "The token has expired: get a fresh one and try again."),
    ImmatureSignatureError: ("TOKEN_NOT_YET_VALID", "The token is not valid yet: check the clocks."),
    InvalidIssuerError: ("TOKEN_ISSUER", "The token was issued by someone else than this gateway trusts."),
    InvalidAudienceError: ("TOKEN_AUDIENCE", "The token is meant for another audience."),
}


class SigningKeys(Protocol):
    """Where the issuer's public keys come from."""

    async def key(self, key_id: str) -> PyJWK | None:
        """The key of that id, or None. Raises Unavailable when keys cannot be had."""
        ...

    async def check(self) -> None:
        """Return if keys can be had from where they come from, else raise Unavailable."""
        ...

    async def close(self) -> None:
        """Let go of what is open."""
        ...


def signing_keys(
    session: aiohttp.ClientSession,
    *,
    issuer: str,
    jwks_url: str | None,
    secret_key: str | None,
    pem: str | None,
    report: Callable[[bool], None] = lambda _is_there: None,
) -> SigningKeys:
    """The keys by the nearest way there is: as given, from a URL given, from Clerk's API, or from the issuer.

    `report` is told whether they could be had. Raises ValueError for a `pem` that is no RSA public key.
    """
    if pem is not None:
        return FixedKey(pem)
    if jwks_url is not None:
        return Jwks(jwks_url, session, report=report)
    if secret_key is not None:
        return Jwks(BACKEND_JWKS_URL, session, bearer=secret_key, report=report)
    return Jwks(f"{issuer.rstrip('/')}/.well-known/jwks.json", session, report=report)


class ClerkTokens:
    """Verifies Clerk session tokens: RS256 only, by the issuer's own keys."""

    def __init__(
        self,
        keys: SigningKeys,
        *,
        issuer: str,
        audience: str | None,
        authorized_parties: Collection[str],
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._authorized_parties = frozenset(authorized_parties)

    async def verify(self, token: str) -> tuple[Principal, int]:
        """The user that a token stands for, and the time (seconds since 1970) when it expires.

        Raises Unauthenticated with the reason, never the token; Unavailable when the
        issuer's keys cannot be had.
        """
        if len(token) > LONGEST_TOKEN:
            raise _invalid()
        key = await self._keys.key(_key_id(token))
        if key is None:
            raise _invalid("The token is signed by a key that its issuer does not publish.")
        claims = self._claims(token, key)
        if not claims["sub"]:
            raise _invalid()
        self._check_party(claims)
        if claims.get("sts") == "pending":
            msg = "The session is pending: finish the sign-in first."
            raise Unauthenticated(msg, reason="SESSION_PENDING")
        return _principal(claims, token), int(claims["exp"])

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": _REQUIRED, "verify_aud": self._audience is not None},
            )
        except InvalidTokenError as error:
            if isinstance(error, MissingRequiredClaimError) and error.claim == "aud":
                error = InvalidAudienceError()
            reason, message = _REASONS.get(type(error), ("TOKEN_INVALID", "The token is not valid."))
            raise Unauthenticated(message, reason=reason) from None
        except (OverflowError, RecursionError):  # a time beyond all bounds, claims nested without end
            raise _invalid() from None

    def _check_party(self, claims: dict[str, Any]) -> None:
        party = claims.get("azp")
        if self._authorized_parties and not (isinstance(party, str) and party in self._authorized_parties):
            msg = "The token was issued to an application that this gateway does not serve."
            raise Unauthenticated(msg, reason="TOKEN_PARTY")


def _key_id(token: str) -> str:
    try:
        header = jwt.get_unverified_header(token)
    except InvalidTokenError:
        raise _invalid() from None
    key_id = header.get("kid")
    if header.get("alg") != ALGORITHM or not isinstance(key_id, str):
        raise _invalid()
    return key_id


def permissions_of(claims: dict[str, Any]) -> frozenset[str]:
    """The organization permissions of a token, as `org:feature:permission`.

    Version 1 lists them. Version 2 packs them: `fea` names features with their scopes,
    `o.per` permissions; the i-th number of `o.fpm` belongs to the i-th feature of the
    organization, and its bit j, lowest first, grants the j-th permission.
    """
    organization = claims.get("o")
    if not isinstance(organization, dict):
        listed = claims.get("org_permissions")
        return frozenset(p for p in listed if isinstance(p, str)) if isinstance(listed, list) else frozenset()
    scoped = [feature.partition(":") for feature in _names(claims.get("fea"))]
    features = [name for scopes, _, name in scoped if "o" in scopes]
    granted = [int(bits) for bits in _names(organization.get("fpm")) if bits.isdecimal()]
    names = _names(organization.get("per"))
    return frozenset(
        f"org:{feature}:{name}"
        for feature, bits in zip(features, granted, strict=False)
        for position, name in enumerate(names)
        if bits >> position & 1
    )


def _names(packed: object) -> list[str]:
    return [name.strip() for name in packed.split(",")] if isinstance(packed, str) else []


def _principal(claims: dict[str, Any], token: str) -> Principal:
    actor = claims.get("act")
    return Principal(
        kind=Kind.USER,
        subject=claims["sub"],
        database_role=DatabaseRole.AUTHENTICATED,
        claims=json.dumps(claims, separators=(",", ":")),
        session=claims.get("sid"),
        permissions=permissions_of(claims),
        impersonator=str(actor.get("sub")) if isinstance(actor, dict) else None,
        token=token,
    )


def _invalid(message: str = "The token is not valid.") -> Unauthenticated:
    return Unauthenticated(message, reason="TOKEN_INVALID")
