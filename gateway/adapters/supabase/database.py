"""The `Database` port on Supabase's REST API, through supabase-py's client of PostgREST."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import httpx
import orjson
from postgrest import APIResponse, AsyncRPCFilterRequestBuilder
from postgrest.base_request_builder import RequestConfig
from yarl import URL

from gateway.adapters import sqlstates
from gateway.adapters.database import request_headers
from gateway.adapters.supabase.arguments import fitted
from gateway.adapters.supabase.errors import NO_PRIVILEGE, translate
from gateway.adapters.supabase.http import BROKEN_OFF, HttpSession, Timeouts
from gateway.adapters.supabase.tokens import Signer
from gateway.rpc.errors import Internal, PermissionDenied, RpcError, Unauthenticated
from gateway.rpc.principal import DatabaseRole, Kind

if TYPE_CHECKING:
    from gateway.adapters.database import Json
    from gateway.rpc.principal import Principal

_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_TIMEOUTS = Timeouts()
_NO_QUERY = httpx.QueryParams()
_UNDEFINED_FUNCTION = "42883"
# Keys of this kind are no JWTs: Supabase's gateway takes them in the header apikey alone.
_OPAQUE_KEY = "sb_"


@dataclass(frozen=True, slots=True)
class _Function:
    """Types of the parameters by name, who may call it, and whether it only reads."""

    parameters: Mapping[str, str]
    roles: frozenset[str]
    reads: bool


_DESCRIBE = _Function({}, frozenset(), reads=True)


class SupabaseDatabase:
    """Calls SQL functions as `Database` says, each as an `rpc` of PostgREST in one request.

    `url` is the project's (https://<ref>.supabase.co). A user's own session token goes through, so that
    Supabase verifies it again; it must carry the claim `role: authenticated`. The gateway itself calls with
    `service_role_key`. Everyone else gets a token of one minute, signed with `jwt_secret`; without it such
    calls raise FailedPrecondition, reason SUPABASE_JWT_SECRET_MISSING. Both kinds of keys are taken: JWTs
    (anon, service_role) and sb_publishable_… / sb_secret_….

    Who calls stands in the headers of the one request; calls share connections alone. A read whose connection
    breaks before its answer is made once more; a write is not, for nobody knows whether it was done.
    """

    def __init__(
        self,
        url: str,
        *,
        anon_key: str,
        service_role_key: str,
        jwt_secret: str | None = None,
        max_connections: int = 100,
        timeouts: Timeouts = _TIMEOUTS,
        rest_path: str = "/rest/v1",
    ) -> None:
        self._url = URL(url.rstrip("/") + rest_path) / "rpc"
        self._urls: dict[str, URL] = {}
        self._anon_key = anon_key
        self._service_headers = {"apikey": service_role_key}
        if not service_role_key.startswith(_OPAQUE_KEY):
            self._service_headers["Authorization"] = f"Bearer {service_role_key}"
        self._signer = Signer(jwt_secret)
        self._http = HttpSession(connections=max_connections, timeouts=timeouts)
        self._functions: Mapping[str, _Function] = {}
        self._learning: asyncio.Task[None] | None = None

    async def call(self, function: str, principal: Principal | None, /, **arguments: Json) -> str:
        """See `Database.call`."""
        known = self._functions.get(function)
        if known is None or not known.parameters.keys() >= arguments.keys():
            known = await self._learned(function, arguments)
        try:
            return await self._rpc(function, known, principal, fitted(arguments, known.parameters))
        except PermissionDenied as error:
            if error.reason == NO_PRIVILEGE:
                role = principal.database_role if principal else DatabaseRole.SERVICE
                raise _denied(function, known, role) from None
            raise

    async def ping(self) -> None:
        """See `Database.ping`."""
        try:
            await self._learn()
        except Internal as error:
            if error.reason == sqlstates.SCHEMA_MISSING:
                raise sqlstates.schema_unready() from None
            raise

    async def check_signing(self) -> None:
        """Raise FailedPrecondition when callers without a session token cannot be served."""
        self._signer.check()

    async def close(self) -> None:
        """See `Database.close`."""
        await self._http.aclose()

    async def _learned(self, function: str, arguments: Mapping[str, Json]) -> _Function:
        """Ask what functions there are; once for all who wait for it, whoever of them gives up."""
        for name in (function, *arguments):
            if not _IDENTIFIER.fullmatch(name):
                msg = f"not a name of SQL: {name!r}"
                raise ValueError(msg)
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._learn())
            # A failure that nobody waits for any more is none.
            self._learning.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._learning)
        known = self._functions.get(function)
        if known is None or not known.parameters.keys() >= arguments.keys():
            raise sqlstates.schema_missing(function, {"sqlstate": _UNDEFINED_FUNCTION})
        return known

    async def _learn(self) -> None:
        described = orjson.loads(await self._rpc("describe_functions", _DESCRIBE, None, {}))
        self._functions = {
            # An older schema does not tell what only reads.
            name: _Function(
                function["parameters"], frozenset(function["roles"]), function.get("reads", False)
            )
            for name, function in described.items()
        }

    async def _rpc(
        self, function: str, known: _Function, principal: Principal | None, arguments: dict[str, Json]
    ) -> str:
        token = _own_token(principal)
        # What a client of supabase-py makes: one for each call would cost as much as the rest of it.
        request = RequestConfig(
            self._http,
            self._urls.get(function) or self._urls.setdefault(function, self._url / function),
            "POST",
            httpx.Headers(self._headers(principal, token)),
            _NO_QUERY,
            None,
            cast("dict[str, str]", arguments),
            retry_enabled=False,
        )
        try:
            answer = await _executed(AsyncRPCFilterRequestBuilder(request), again=known.reads)
        except (ValueError, RecursionError):
            # Text that is not Unicode, a number that is none, nesting without end: nothing has been sent.
            raise sqlstates.unfit({}) from None
        except Exception as error:  # noqa: BLE001 - translate knows them all
            raise translate(error, function, own_token=token is not None) from None
        return cast("str", answer.data)

    def _headers(self, principal: Principal | None, token: str | None) -> dict[str, str]:
        if principal is None or principal.kind is Kind.PLATFORM:
            return self._service_headers | request_headers(principal)
        return request_headers(principal) | {
            "apikey": self._anon_key,
            "Authorization": f"Bearer {token or self._signer.token(principal)}",
        }


async def _executed(request: AsyncRPCFilterRequestBuilder, *, again: bool) -> APIResponse:
    """Make a request, if need be and it may be `again`."""
    try:
        return await request.execute()
    except BROKEN_OFF:
        if not again:
            raise
    return await request.execute()


def _own_token(principal: Principal | None) -> str | None:
    """Return the session token of a user; an API key that came as a bearer token is none.

    Raises Unauthenticated for one whose role is not the principal's: PostgREST would take it from the token.
    """
    if principal is None or principal.kind is not Kind.USER or principal.token is None:
        return None
    role = principal.database_role
    if orjson.loads(principal.claims).get("role") != role:
        msg = f'The session token must have the claim "role": "{role}".'
        raise Unauthenticated(msg, reason="TOKEN_WITHOUT_ROLE")
    return principal.token


def _denied(function: str, known: _Function, role: DatabaseRole) -> RpcError:
    """Tell a caller who may not from a function that itself lacks a privilege."""
    if role not in known.roles:
        return PermissionDenied("The caller may not do this.")
    return sqlstates.internal(function, {"sqlstate": NO_PRIVILEGE})
