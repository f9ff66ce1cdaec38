"""The `Database` port on Postgres itself, through asyncpg."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import orjson

from gateway.adapters import sqlstates
from gateway.adapters.database import request_headers
from gateway.adapters.postgres_connections import Connections
from gateway.adapters.postgres_errors import translate
from gateway.rpc.errors import Internal, PermissionDenied, RpcError, Unavailable
from gateway.rpc.principal import DatabaseRole

if TYPE_CHECKING:
    from asyncpg import Connection

    from gateway.adapters.database import Json
    from gateway.rpc.principal import Principal

_SERVICE_CLAIMS = '{"role":"service_role"}'
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
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
    """

    def __init__(
        self,
        url: str,
        *,
        min_connections: int = 1,
        max_connections: int = 10,
        pooled: bool = False,
        may_bypass_rls: bool = True,
        timeouts: Timeouts = _TIMEOUTS,
    ) -> None:
        self._url = url
        self._min_connections = min(min_connections, max_connections)
        self._pooled = pooled
        self._may_bypass_rls = may_bypass_rls
        self._timeouts = timeouts
        self._connections = Connections(
            self._connect, limit=max_connections, wait_seconds=timeouts.wait, idle_seconds=_IDLE_SECONDS
        )
        self._statements: dict[tuple[str, DatabaseRole, tuple[str, ...]], str] = {}

    async def start(self) -> None:
        """Make the first connections. Raises `Unavailable`; calling functions later then still works."""
        await asyncio.gather(*(self.ping() for _ in range(self._min_connections)))

    async def call(self, function: str, principal: Principal | None, /, **arguments: Json) -> str:
        """See `Database.call`."""
        role = principal.database_role if principal else DatabaseRole.SERVICE
        parameters = tuple(arguments)
        statement = self._statements.get((function, role, parameters))
        if statement is None:
            statement = self._statements[function, role, parameters] = _statement(function, role, parameters)
        claims = principal.claims if principal else _SERVICE_CLAIMS
        values = [value if type(value) in _AS_THEY_ARE else _encoded(value) for value in arguments.values()]
        headers = orjson.dumps(request_headers(principal)).decode()
        answer = await self._run(function, statement, parameters, (claims, headers, *values))
        if answer is None:
            raise PermissionDenied("The caller may not do this.")
        if not isinstance(answer, str):
            msg = f"public.{function} does not return jsonb"
            raise Internal(msg)
        return answer

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

    def connections(self) -> dict[str, int]:
        """How many connections there are by state, and how many callers wait for one."""
        return self._connections.states()

    async def _run(
        self, function: str, statement: str, parameters: Sequence[str], values: Sequence[object]
    ) -> object:
        connections = self._connections
        try:
            connection = await connections.acquire()
        except RpcError:
            raise
        except Exception as error:  # noqa: BLE001 - translate knows them all
            raise translate(error, function) from None
        try:
            answer: object = await connection.fetchval(statement, *values)
        except asyncpg.PostgresError as error:
            connections.release(connection)
            raise translate(error, function, parameters) from None
        except TimeoutError as error:
            connections.recover(connection)
            raise translate(error, function) from None
        except asyncio.CancelledError:
            connections.recover(connection)
            raise
        except Exception as error:  # noqa: BLE001 - translate knows them all
            connections.discard(connection)
            raise translate(error, function) from None
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
            # The last resort, when the server itself has gone silent.
            command_timeout=self._timeouts.statement + _GRACE_SECONDS,
            statement_cache_size=0 if self._pooled else _CACHED_STATEMENTS,
            max_cached_statement_lifetime=0,
            server_settings=settings,
        )
        try:
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


def _refuse_bypassing(facts: str) -> None:
    if orjson.loads(facts)["bypasses_rls"]:
        msg = "The gateway's login at the database could read past row-level security."
        raise Unavailable(msg, reason="DATABASE_LOGIN_UNSAFE")


def _statement(function: str, role: DatabaseRole, parameters: Sequence[str]) -> str:
    """Return a statement of the claims ($1), the headers ($2) and the function's parameters, by name.

    They are set as PostgREST sets them, until the statement ends, and before the function runs, because the
    row that it runs on comes from setting them. Postgres checks EXECUTE at the start, against the role that
    logged in, so the condition checks it against the role that calls: without it there is no row.
    """
    for name in (function, *parameters):
        if not _IDENTIFIER.fullmatch(name):
            msg = f"not a name of SQL: {name!r}"
            raise ValueError(msg)
    arguments = ", ".join(f"{name} => ${position}" for position, name in enumerate(parameters, start=3))
    return (
        f"select public.{function}({arguments})"  # noqa: S608 - names only, checked above
        f" from (select set_config('role', '{role}', true), set_config('request.jwt.claims', $1, true),"
        " set_config('request.headers', $2, true)) as c"
        f" where has_function_privilege('{role}', 'public.{function}'::regproc, 'execute')"
    )


def _encoded(value: Json) -> Json:
    if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str)):
        return orjson.dumps(value).decode()
    return value
