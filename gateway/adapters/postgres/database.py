"""The `Database` port on Postgres itself, through asyncpg."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import orjson

from gateway.adapters import sqlstates
from gateway.adapters.database import request_headers
from gateway.adapters.postgres.batches import Batches
from gateway.adapters.postgres.connections import Connections
from gateway.adapters.postgres.errors import is_one_calls, translate
from gateway.adapters.postgres.statements import PARAMETER_TYPES, one_call, several_calls
from gateway.rpc.errors import Internal, PermissionDenied, RpcError, Unavailable
from gateway.rpc.limit import Limits
from gateway.rpc.principal import DatabaseRole

if TYPE_CHECKING:
    from asyncpg import Connection

    from gateway.adapters.database import Json
    from gateway.rpc.principal import Principal

_SERVICE_CLAIMS = '{"role":"service_role"}'
_value = asyncpg.Connection.fetchval
_rows = asyncpg.Connection.fetch

T = TypeVar("T")

_AS_THEY_ARE = {str, int, bool, float, type(None)}
_CACHED_STATEMENTS = 256
_GRACE_SECONDS = 2.0
_IDLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds: to connect, for one statement, and to wait for a free connection."""

    connect: float = 5.0
    statement: float = 10.0
    wait: float = 5.0


_TIMEOUTS = Timeouts()


_Called = tuple[str, DatabaseRole, tuple[str, ...]]
"""A function, as whom it is called, and the parameters that it is given."""


@dataclass(frozen=True, slots=True)
class _Call:
    """Claims, headers and arguments, and what orders it among those that it goes together with."""

    values: tuple[object, ...]
    organization: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Who the gateway is to the database, whether row-level security holds for it, and what is installed."""

    login: str
    bypasses_rls: bool
    has_vault: bool


_FACTS = """
select json_build_object(
    'login', session_user,
    'bypasses_rls', (select r.rolsuper or r.rolbypassrls from pg_roles r where r.rolname = session_user),
    'has_vault', exists (select from pg_extension e where e.extname = 'supabase_vault')
)::text
"""


# The oldest of what every version asks for; the catalog is open to every login.
_HAS_SCHEMA = """
select exists (
    select from pg_catalog.pg_proc p
    where p.pronamespace = to_regnamespace('public') and p.proname = 'list_organizations'
)
"""

_LACKING = """
select coalesce(json_agg(f.name order by f.name), '[]')::text
from unnest($1::text[]) as f (name)
where not exists (
    select from pg_catalog.pg_proc p
    where p.pronamespace = to_regnamespace('public') and p.proname = f.name
)
"""


class PostgresDatabase:
    """Calls SQL functions as `Database` says, in one statement and one round trip each.

    `url` logs in as authenticator, or as any role that may become authenticated and service_role and has
    EXECUTE on the functions. `pooled` is for a transaction pooler in front (Supabase's port 6543, PgBouncer),
    which keeps neither prepared statements nor settings. Connections are made when they are needed, at most
    `max_connections`; `start` makes the first `min_connections` at once. Unless `may_bypass_rls`, a login for
    which row-level security does not hold (a superuser) is not used, whenever that turns out.

    Calls of the functions `joined` go together in one statement when they come while one is under way (see
    `Batches`). They are to be short, and to lock only what is of one organization. If one of them fails, all
    are made again, each alone.
    """

    def __init__(
        self,
        url: str,
        *,
        min_connections: int = 1,
        max_connections: int = 10,
        pooled: bool = False,
        may_bypass_rls: bool = True,
        joined: Container[str] = (),
        timeouts: Timeouts = _TIMEOUTS,
    ) -> None:
        self._url = url
        self._min_connections = min(min_connections, max_connections)
        self._pooled = pooled
        self._may_bypass_rls = may_bypass_rls
        self._timeouts = timeouts
        # The last resort, when the server itself has gone silent.
        self._limits = Limits(timeouts.statement + _GRACE_SECONDS)
        self._connections = Connections(
            self._connect, limit=max_connections, wait_seconds=timeouts.wait, idle_seconds=_IDLE_SECONDS
        )
        self._joined = joined
        self._statements: dict[_Called, str] = {}
        self._joint_statements: dict[_Called, str] = {}
        self._batches: dict[_Called, Batches[_Call, str]] = {}

    async def start(self) -> None:
        """Make the first connections. Raises `Unavailable`; calling functions later then still works."""
        await asyncio.gather(*(self.ping() for _ in range(self._min_connections)))

    async def call(self, function: str, principal: Principal | None, /, **arguments: Json) -> str:
        """See `Database.call`."""
        role = principal.database_role if principal else DatabaseRole.SERVICE
        called = function, role, tuple(arguments)
        claims = principal.claims if principal else _SERVICE_CLAIMS
        values = [value if type(value) in _AS_THEY_ARE else _encoded(value) for value in arguments.values()]
        headers = orjson.dumps(request_headers(principal)).decode()
        call = _Call((claims, headers, *values), _organization(principal, arguments))
        if function not in self._joined:
            return await self._alone(called, call)
        batches = self._batches.get(called)
        if batches is None:
            batches = Batches(partial(self._alone, called), partial(self._together, called))
            self._batches[called] = batches
        return await batches.call(call)

    async def ping(self) -> None:
        """See `Database.ping`."""
        if not await self._run("ping", _HAS_SCHEMA, (), ()):
            raise sqlstates.schema_unready()

    async def facts(self) -> Facts:
        """Ask what the database knows of itself. Raises `Unavailable`."""
        answer = await self._run("facts", _FACTS, (), ())
        return Facts(**orjson.loads(str(answer)))

    async def lacking(self, functions: Collection[str]) -> list[str]:
        """Tell which of these functions the database does not have. Raises `Unavailable`."""
        answer = await self._run("lacking", _LACKING, (), (list(functions),))
        lacking: list[str] = orjson.loads(str(answer))
        return lacking

    async def close(self) -> None:
        """See `Database.close`."""
        await self._connections.close()
        for batches in self._batches.values():
            await batches.close()

    def connections(self) -> dict[str, int]:
        """How many connections there are by state, and how many callers wait for one."""
        return self._connections.states()

    async def _alone(self, called: _Called, call: _Call) -> str:
        statement = self._statements.get(called)
        if statement is None:
            statement = self._statements[called] = one_call(*called)
        function, _, parameters = called
        answer = _answer(function, await self._run(function, statement, parameters, call.values))
        if isinstance(answer, RpcError):
            raise answer
        return answer

    async def _together(self, called: _Called, calls: Sequence[_Call]) -> Sequence[str | Exception] | None:
        """Make the calls in one statement, in the order of their organizations, so that no two deadlock.

        None says that one of them failed, which took back what the others did.
        """
        function, _, parameters = called
        places = sorted(range(len(calls)), key=lambda place: calls[place].organization)
        columns = zip(*(calls[place].values for place in places), strict=True)
        try:
            statement = self._joint_statements.get(called) or await self._joint_statement(called)
            rows = await self._execute(_rows, statement, [list(column) for column in columns])
        except Exception as error:  # noqa: BLE001 - told each of them
            if isinstance(error, asyncpg.PostgresError) and is_one_calls(error):
                return None
            return [_told(error, function, parameters) for _ in calls]
        found = {places[number - 1]: answer for number, answer in rows}
        return [_answer(function, found.get(place)) for place in range(len(calls))]

    async def _joint_statement(self, called: _Called) -> str:
        types = orjson.loads(str(await self._execute(_value, PARAMETER_TYPES, (called[0],))))
        statement = self._joint_statements[called] = several_calls(*called, types)
        return statement

    async def _run(
        self, function: str, statement: str, parameters: Sequence[str], values: Sequence[object]
    ) -> object:
        try:
            return await self._execute(_value, statement, values)
        except Exception as error:  # noqa: BLE001 - translate knows them all
            raise _told(error, function, parameters) from None

    async def _execute(
        self, fetch: Callable[..., Awaitable[T]], statement: str, values: Sequence[object]
    ) -> T:
        connections = self._connections
        connection = await connections.acquire()
        try:
            with self._limits.limit():
                answer = await fetch(connection, statement, *values)
        except asyncpg.PostgresError:
            connections.release(connection)
            raise
        except (TimeoutError, asyncio.CancelledError):
            connections.recover(connection)
            raise
        except Exception:
            connections.discard(connection)
            raise
        connections.release(connection)
        return answer

    async def _connect(self) -> Connection:
        # A pooler shares a server connection among many of ours: neither settings nor statements would stay.
        settings = {"application_name": "n8n-gateway"}
        if not self._pooled:
            settings["statement_timeout"] = str(round(self._timeouts.statement * 1000))
        connection = await asyncpg.connect(
            self._url,
            timeout=self._timeouts.connect,
            statement_cache_size=0 if self._pooled else _CACHED_STATEMENTS,
            max_cached_statement_lifetime=0,
            server_settings=settings,
        )
        try:
            with self._limits.limit():
                if not self._may_bypass_rls:
                    _refuse_bypassing(await connection.fetchval(_FACTS))
                # Arguments come as JSON says them: asyncpg itself would take a datetime alone.
                await connection.set_type_codec(
                    "timestamptz", schema="pg_catalog", encoder=str, decoder=str, format="text"
                )
        except BaseException:
            connection.terminate()
            raise
        return connection


def _told(error: Exception, function: str, parameters: Sequence[str]) -> RpcError:
    return error if isinstance(error, RpcError) else translate(error, function, parameters)


def _answer(function: str, answer: object) -> str | RpcError:
    if answer is None:
        return PermissionDenied("The caller may not do this.")
    if not isinstance(answer, str):
        return Internal(f"public.{function} does not return JSON")
    return answer


def _refuse_bypassing(facts: str) -> None:
    if orjson.loads(facts)["bypasses_rls"]:
        msg = "The gateway's login at the database could read past row-level security."
        raise Unavailable(msg, reason="DATABASE_LOGIN_UNSAFE")


def _organization(principal: Principal | None, arguments: Mapping[str, Json]) -> str:
    """The organization that a call is about, as far as that is known before: locks are taken in its order."""
    named = arguments.get("p_organization_id")
    if isinstance(named, str):
        return named.lower()
    return (principal.tenant or principal.held_to or principal.claims) if principal else ""


def _encoded(value: Json) -> Json:
    if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str)):
        return orjson.dumps(value).decode()
    return value
