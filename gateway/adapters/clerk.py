"""Clerk session tokens, versions 1 and 2, as this gateway accepts them.

The claims are described in Clerk's "Session tokens" reference. Version 2 carries the
organization in `o`, version 1 in `org_id`, `org_slug`, `org_role`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import jwt
from jwt import PyJWK
from jwt.exceptions import (
    DecodeError,
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
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
_LONGEST_ECHO = 200


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
            raise _invalid(f"The token is longer than {LONGEST_TOKEN} characters.")
        key = await self._keys.key(_key_id(token))
        if key is None:
            raise _invalid(
                "The token names a key (kid) that its issuer does not publish: it comes from another issuer"
                " than this gateway trusts, or the key is no longer in use."
            )
        claims = self._claims(token, key)
        if not claims["sub"]:
            raise _invalid("The token's claim sub is empty.")
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
            raise _refusal(error, token) from None
        except (OverflowError, RecursionError):  # a time beyond all bounds, claims nested without end
            raise _invalid(_MALFORMED_CLAIMS) from None

    def _check_party(self, claims: dict[str, Any]) -> None:
        party = claims.get("azp")
        if self._authorized_parties and not (isinstance(party, str) and party in self._authorized_parties):
            msg = (
                "The token was issued to an application that this gateway does not serve:"
                f" CLERK_AUTHORIZED_PARTIES does not list its azp, {_echo(party)}."
            )
            raise Unauthenticated(msg, reason="TOKEN_PARTY")


def _key_id(token: str) -> str:
    try:
        header = jwt.get_unverified_header(token)
    except DecodeError:
        msg = "The token is no JWT, or cut off: it must be three parts of base64url, joined by dots."
        raise _invalid(msg) from None
    except InvalidTokenError:
        raise _invalid("The token's header has a part that is not understood here.") from None
    key_id = header.get("kid")
    if header.get("alg") != ALGORITHM:
        raise _invalid(f"The token must be signed with {ALGORITHM}.")
    if not isinstance(key_id, str):
        raise _invalid("The token's header must name the key that signs it (kid).")
    return key_id


_MALFORMED_CLAIMS = "The token's claims are malformed: exp, iat and nbf must be times, sub a text."


def _refusal(error: InvalidTokenError, token: str) -> Unauthenticated:
    """What is wrong with a token, by its claims where its signature holds: PyJWT looks at that first."""
    reason = "TOKEN_INVALID"
    match error:
        case InvalidSignatureError():
            msg = (
                "The token's signature does not hold: the token was changed or cut off,"
                " or is signed by another key than its issuer's."
            )
        case MissingRequiredClaimError(claim=claim) if claim != "aud":
            msg = f"The token lacks the claim {claim}."
        case ExpiredSignatureError():
            reason, expired = "TOKEN_EXPIRED", _time(_signed(token)["exp"])
            msg = f"The token expired at {expired}: get a fresh one and try again."
        case ImmatureSignatureError():
            reason, begins = "TOKEN_NOT_YET_VALID", _time(_begins(_signed(token)))
            here = _time(time.time())
            msg = f"The token is not valid before {begins}, and here it is {here}: check the clocks."
        case InvalidIssuerError():
            reason, issuer = "TOKEN_ISSUER", _echo(_signed(token)["iss"])
            msg = f"The token's iss, {issuer}, is not what CLERK_JWT_ISSUER says, letter by letter."
        case InvalidAudienceError() | MissingRequiredClaimError():
            reason, audience = "TOKEN_AUDIENCE", _echo(_signed(token).get("aud"))
            msg = f"The token is for another audience: its aud, {audience}, is not what CLERK_AUDIENCE says."
        case _:
            msg = _MALFORMED_CLAIMS
    return Unauthenticated(msg, reason=reason)


def _begins(claims: dict[str, Any]) -> int:
    """The latest time before which a token is not valid; only one of its claims need be a number."""
    times = []
    for name in ("iat", "nbf"):
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            times.append(int(claims[name]))
    return max(times, default=0)


def _signed(token: str) -> dict[str, Any]:
    """The claims of a token whose signature was found to hold."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def _echo(claim: object) -> str:
    """A claim as it is told to who sent it."""
    return json.dumps(claim)[:_LONGEST_ECHO]


def _time(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 has them; as they are where no calendar does."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


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


def _invalid(message: str) -> Unauthenticated:
    return Unauthenticated(message, reason="TOKEN_INVALID")
