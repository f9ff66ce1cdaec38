"""Who calls: each service says which proof it asks for, and the first link to know takes it."""

from __future__ import annotations

import hmac
import json
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.rpc.errors import InvalidArgument, Unauthenticated
from gateway.rpc.principal import DatabaseRole, Kind, Principal

if TYPE_CHECKING:
    from gateway.rpc.call import Call

    Authenticator = Callable[[Call], Awaitable[Principal]]
    VerifyToken = Callable[[str], Awaitable[tuple[Principal, int]]]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
KEY_SUBJECT = "key:"
"""How the subjects of API keys begin in claims; no user's may."""
SIGNED_CLAIM = "gateway_signed"
"""The claim by which the database knows that a user's call is signed; no token may have it."""

_ONCE = {"authorization": "Authorization", "x-api-key": "X-API-Key", "x-tenant-id": "X-Tenant-ID"}
"""Headers that say who acts and for whom: two of one could be believed by two servers."""

_DEV_ID = re.compile(r"[A-Za-z0-9_.@-]{1,64}")


class Authenticate:
    """Sets the call's principal by the authenticator of its service; None lets everyone in.

    A service without an entry takes `default`.
    """

    def __init__(self, default: Authenticator, by_service: Mapping[str, Authenticator | None]) -> None:
        self._default = default
        self._by_service = dict(by_service)

    async def __call__(self, call: Call) -> None:
        """Set the call's principal. Raises InvalidArgument for a header twice, and as its authenticator."""
        authenticator = self._by_service.get(call.method.service, self._default)
        if authenticator is not None:
            for name, header in _ONCE.items():
                if "," in call.metadata.get(name, ""):
                    raise _repeated(header)
            call.principal = await authenticator(call)


class BearerToken:
    """A token in the Authorization header (RFC 6750), verified once and remembered until it expires."""

    REMEMBERED = 10_000

    def __init__(self, verify: VerifyToken) -> None:
        self._verify = verify
        self._known: OrderedDict[str, tuple[Principal, int]] = OrderedDict()

    async def __call__(self, call: Call) -> Principal:
        """The token's user, in the organization that X-Tenant-ID names, if it names one.

        Raises Unauthenticated, InvalidArgument for a malformed X-Tenant-ID, Unavailable.
        """
        scheme, _, token = call.metadata.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            msg = "Send `Authorization: Bearer <token>` with a session token, or an API key in X-API-Key."
            raise Unauthenticated(msg, reason="TOKEN_MISSING")
        return _in_tenant(await self._principal(token), call)

    async def _principal(self, token: str) -> Principal:
        known = self._known.get(token)
        if known is not None and known[1] > time.time():
            self._known.move_to_end(token)
            return known[0]
        verified = await self._verify(token)
        if verified[0].subject.startswith(KEY_SUBJECT) or f'"{SIGNED_CLAIM}"' in verified[0].claims:
            raise Unauthenticated("The token claims what only the gateway can.", reason="TOKEN_INVALID")
        self._known[token] = verified
        self._known.move_to_end(token)
        if len(self._known) > self.REMEMBERED:
            self._known.popitem(last=False)
        return verified[0]


class InternalSecret:
    """The secret that n8n shares with the gateway, in X-N8N-Internal-Auth.

    The gateway's own is that of the default n8n. Of any other, `organizations_of` says whose n8n has it.
    """

    HEADER = "x-n8n-internal-auth"

    def __init__(
        self, secret: str, organizations_of: Callable[[str], Awaitable[frozenset[str]]] | None = None
    ) -> None:
        self._secret = secret.encode()
        self._organizations_of = organizations_of

    async def __call__(self, call: Call) -> Principal:
        """n8n itself, or that of some organizations. Raises Unauthenticated, Unavailable."""
        given = call.metadata.get(self.HEADER, "")
        if given and hmac.compare_digest(given.encode(), self._secret):
            return _N8N
        if given and self._organizations_of is not None:
            organizations = await self._organizations_of(given)
            if organizations:
                return replace(_N8N, organizations=organizations)
        msg = "X-N8N-Internal-Auth is missing or wrong."
        raise Unauthenticated(msg, reason="INTERNAL_AUTH")


_N8N = Principal(kind=Kind.N8N, subject="n8n", database_role=DatabaseRole.SERVICE, claims="{}")


class PlatformToken:
    """The secret of who operates the gateway, in X-Platform-Token; without it, `otherwise` decides."""

    HEADER = "x-platform-token"

    def __init__(self, token: str, otherwise: Authenticator) -> None:
        self._token = token.encode()
        self._otherwise = otherwise

    async def __call__(self, call: Call) -> Principal:
        """The platform. Raises Unauthenticated for another token, and for any where none is set."""
        given = call.metadata.get(self.HEADER)
        if given is None:
            return await self._otherwise(call)
        if self._token and hmac.compare_digest(given.encode(), self._token):
            return _in_tenant(PLATFORM, call)
        raise Unauthenticated("X-Platform-Token is wrong, or not in use here.", reason="PLATFORM_TOKEN")


PLATFORM = Principal(
    kind=Kind.PLATFORM,
    subject="platform",
    database_role=DatabaseRole.SERVICE,
    claims='{"sub":"platform","role":"service_role"}',
)
"""Who operates the gateway: over the API by its token, in the shell by being there."""


class DevelopmentHeaders:
    """X-Dev-User-ID in place of a token, for development alone; without it, `otherwise` decides."""

    def __init__(self, otherwise: Authenticator) -> None:
        self._otherwise = otherwise

    async def __call__(self, call: Call) -> Principal:
        """The named user, in the Clerk organization that X-Dev-Org-ID names. Raises InvalidArgument."""
        user = call.metadata.get("x-dev-user-id")
        if not user:
            return await self._otherwise(call)
        organization = call.metadata.get("x-dev-org-id")
        for header, value in (("X-Dev-User-ID", user), ("X-Dev-Org-ID", organization)):
            if value and not _DEV_ID.fullmatch(value):
                problem = "up to 64 letters, digits and _ . @ -"
                raise InvalidArgument(
                    f"{header}: {problem}", reason="INVALID_FIELD", fields={header: problem}
                )
        claims: dict[str, object] = {"sub": user, "role": DatabaseRole.AUTHENTICATED.value}
        if organization:
            claims["o"] = {"id": organization, "slg": organization, "rol": "admin"}
        principal = Principal(
            kind=Kind.USER,
            subject=user,
            database_role=DatabaseRole.AUTHENTICATED,
            claims=json.dumps(claims),
        )
        return _in_tenant(principal, call)


def _repeated(header: str) -> InvalidArgument:
    problem = "can be sent only once"
    return InvalidArgument(f"{header} {problem}.", reason="REPEATED_HEADER", fields={header: problem})


def _in_tenant(principal: Principal, call: Call) -> Principal:
    """The principal in the organization that X-Tenant-ID names, if it names one."""
    tenant = call.metadata.get("x-tenant-id")
    if not tenant:
        return principal
    if not _UUID.fullmatch(tenant):
        msg = "X-Tenant-ID must be an organization's id (a UUID)."
        raise InvalidArgument(msg, reason="INVALID_FIELD", fields={"X-Tenant-ID": "must be a UUID"})
    return replace(principal, tenant=tenant.lower())
