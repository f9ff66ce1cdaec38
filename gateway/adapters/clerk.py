"""Clerk session tokens, versions 1 and 2, as this gateway accepts them.

The claims are described in Clerk's "Session tokens" reference. Version 2 carries the
organization in `o`, version 1 in `org_id`, `org_slug`, `org_role`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import jwt
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidTokenError,
    MissingRequiredClaimError,
)

from gateway.adapters.jwks import ALGORITHM
from gateway.rpc.errors import Unauthenticated
from gateway.rpc.principal import DatabaseRole, Kind, Principal

if TYPE_CHECKING:
    from gateway.adapters.jwks import Jwks

LEEWAY_SECONDS = 5
LONGEST_TOKEN = 16 * 1024

_REQUIRED = ["exp", "iat", "iss", "sub"]
_REASONS: dict[type[InvalidTokenError], tuple[str, str]] = {
    ExpiredSignatureError: ("TOKEN_EXPIRED", "The token has expired: get a fresh one and try again."),
    ImmatureSignatureError: ("TOKEN_NOT_YET_VALID", "The token is not valid yet: check the clocks."),
    InvalidIssuerError: ("TOKEN_ISSUER", "The token was issued by someone else than this gateway trusts."),
    InvalidAudienceError: ("TOKEN_AUDIENCE", "The token is meant for another audience."),
}


class ClerkTokens:
    """Verifies Clerk session tokens: RS256 only, by the issuer's own keys."""

    def __init__(
        self,
        jwks: Jwks,
        *,
        issuer: str,
        audience: str | None,
        authorized_parties: Collection[str],
    ) -> None:
        self._jwks = jwks
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
        key = await self._jwks.key(_key_id(token))
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


def _principal(claims: dict[str, Any], token: str) -> Principal:
    return Principal(
        kind=Kind.USER,
        subject=claims["sub"],
        database_role=DatabaseRole.AUTHENTICATED,
        claims=json.dumps(claims, separators=(",", ":")),
        session=claims.get("sid"),
        token=token,
    )


def _invalid(message: str = "The token is not valid.") -> Unauthenticated:
    return Unauthenticated(message, reason="TOKEN_INVALID")
