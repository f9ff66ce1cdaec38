"""Short-lived tokens for callers that have none: Supabase verifies them by the project's JWT secret."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import jwt

from gateway.rpc.errors import FailedPrecondition

if TYPE_CHECKING:
    from gateway.rpc.principal import DatabaseRole, Principal

LIFETIME_SECONDS = 60
_LEFT_SECONDS = 20
_REMEMBERED = 10_000
_TIMES = ("nbf", "iat", "exp")


class Signer:
    """Signs a principal's claims and role (HS256), and gives the same token again while it lasts."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret
        self._tokens: OrderedDict[tuple[DatabaseRole, str], tuple[str, float]] = OrderedDict()

    def check(self) -> None:
        """Raise FailedPrecondition when there is no secret to sign with."""
        if self._secret is None:
            msg = "SUPABASE_JWT_SECRET is not set, so only calls with a session token can be served."
            raise FailedPrecondition(msg, reason="SUPABASE_JWT_SECRET_MISSING")

    def token(self, principal: Principal) -> str:
        """Return a token that lasts for 20 to 60 s. Raises FailedPrecondition as `check` does."""
        self.check()
        now = time.time()
        key = principal.database_role, principal.claims
        known = self._tokens.get(key)
        if known is not None and known[1] - now > _LEFT_SECONDS:
            return known[0]
        expires = int(now) + LIFETIME_SECONDS
        claims = {name: value for name, value in json.loads(principal.claims).items() if name not in _TIMES}
        claims |= {"role": principal.database_role.value, "iat": int(now), "exp": expires}
        token = jwt.encode(claims, self._secret or "", algorithm="HS256")
        self._tokens[key] = token, expires
        self._tokens.move_to_end(key)
        if len(self._tokens) > _REMEMBERED:
            self._tokens.popitem(last=False)
        return token
