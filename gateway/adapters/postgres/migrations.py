"""Brings a database to the schema of this version: the files of supabase/migrations, in Supabase CLI's table.

The CLI (`supabase db push`) and this module can be used in turn on one database; migrations of others in that
table are left alone. Works on hosted Supabase and, after the files of supabase/local, on plain Postgres.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.resources
import os
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from importlib.resources.abc import Traversable

    from asyncpg import Connection

_FILE = re.compile(r"(\d{14})_(\w+)\.sql")
_FUNCTION = re.compile(r"^(create|drop)(?: or replace)? function (?:if exists )?public\.(\w+)", re.MULTILINE)
_CONNECT_SECONDS = 10.0
_LOCK = 7_138_664_051  # any number, as long as every version of the gateway uses the same
_SCRAM_ITERATIONS = 4096

_NOT_SUPABASE = (
    "the schema auth is missing, so this is not a database of Supabase: for plain Postgres add"
    " --plain-postgres, as a superuser, and set VAULT_KEY for the gateway (see docs/setup.md)"
)
_FORM = "it must look like postgresql://user:password@host:5432/postgres"
_IS_SUPABASE = (
    "this is a database of Supabase, which has its own roles and functions: leave --plain-postgres out"
)

_NOT_OWNER = (
    "this login may not see which migrations the database has: log in as the owner of the schema (postgres on"
    " Supabase), not with the gateway's own login"
)

# As Supabase CLI makes it.
_TABLE = """
    create schema if not exists supabase_migrations;
    create table if not exists supabase_migrations.schema_migrations (version text not null primary key);
    alter table supabase_migrations.schema_migrations add column if not exists statements text[];
    alter table supabase_migrations.schema_migrations add column if not exists name text;
"""


class MigrationError(Exception):
    """A database could not be reached or changed; the message is for whoever runs the migration."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: `version` is its 14 digits, `name` the rest of its name, `sql` its text."""

    version: str
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class Status:
    """Whether a migration has been applied to a database."""

    migration: Migration
    applied: bool


def migrations() -> list[Migration]:
    """Return the migrations of this version, oldest first."""
    files = {file.name: file for file in (_sql_root() / "migrations").iterdir()}
    matches = [match for name in sorted(files) if (match := _FILE.fullmatch(name))]
    return [Migration(match[1], match[2], files[match[0]].read_text(encoding="utf-8")) for match in matches]


def functions() -> set[str]:
    """Return the names of the functions that the gateway calls, as the migrations leave them."""
    names: set[str] = set()
    for migration in migrations():
        for statement, name in _FUNCTION.findall(migration.sql):
            (names.add if statement == "create" else names.discard)(name)
    return names


async def status(url: str) -> list[Status]:
    """Return each migration of this version and whether it has been applied; changes nothing.

    Raises MigrationError.
    """
    async with _connected(url) as connection:
        applied = await _applied(connection)
    return [Status(migration, migration.version in applied) for migration in migrations()]


async def plan(url: str, *, local: bool = False) -> list[Migration]:
    """Return what `apply` would apply, in order; changes nothing. Raises MigrationError, as it would."""
    async with _connected(url) as connection:
        await _check_kind(connection, local=local)
        applied = await _applied(connection)
    return [migration for migration in migrations() if migration.version not in applied]


async def apply(
    url: str, *, local: bool = False, authenticator_password: str | None = None
) -> list[Migration]:
    """Apply what is missing, each file in a transaction of its own, and return it.

    `url` logs in as the owner of the schema ("postgres" on Supabase). Several at once wait for each other.
    With `local` the roles and functions that plain Postgres lacks come first, every time, which needs a
    superuser; `authenticator_password` then becomes the password of authenticator.

    Raises MigrationError; the files before the one that failed stay applied.
    """
    async with _connected(url) as connection:
        await _check_kind(connection, local=local)
        if local:
            await _prepare(connection, authenticator_password)
        return [migration for migration in migrations() if await _apply(connection, migration)]


async def _check_kind(connection: Connection, *, local: bool) -> None:
    """Raise MigrationError where a database of Supabase is taken for plain Postgres, or the reverse."""
    if local:
        if await connection.fetchval("select to_regrole('supabase_admin')") is not None:
            raise MigrationError(_IS_SUPABASE)
    elif await connection.fetchval("select to_regnamespace('auth')") is None:
        raise MigrationError(_NOT_SUPABASE)


async def _apply(connection: Connection, migration: Migration) -> bool:
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
            if migration.version in await _applied(connection):
                return False
            await connection.execute(_TABLE)
            await connection.execute(migration.sql)
            await connection.execute(
                "insert into supabase_migrations.schema_migrations (version, name, statements)"
                " values ($1, $2, $3)",
                migration.version,
                migration.name,
                [migration.sql],
            )
            # PostgREST, if it listens, reads the schema anew.
            await connection.execute("notify pgrst, 'reload schema'")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        msg = f"{migration.version}_{migration.name} was not applied: {error}"
        raise MigrationError(msg) from error
    return True


async def _prepare(connection: Connection, authenticator_password: str | None) -> None:
    files = sorted((_sql_root() / "local").iterdir(), key=lambda file: file.name)
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
            for file in files:
                if file.name.endswith(".sql"):
                    await connection.execute(file.read_text(encoding="utf-8"))
            if authenticator_password is not None:
                # A verifier has no quote in it, and the password itself gets into no log of statements.
                verifier = _scram_verifier(authenticator_password)
                await connection.execute(f"alter role authenticator password '{verifier}'")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        msg = f"the roles that Supabase would have could not be made: {error}"
        raise MigrationError(msg) from error


async def _applied(connection: Connection) -> set[str]:
    if await connection.fetchval("select to_regclass('supabase_migrations.schema_migrations')") is None:
        return set()
    rows = await connection.fetch("select version from supabase_migrations.schema_migrations")
    return {row["version"] for row in rows}


async def reach(url: str) -> None:
    """Connect once and leave again. Raises MigrationError with what is wrong with the URL or the way."""
    async with _connected(url):
        pass


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    try:
        connection = await asyncpg.connect(url, timeout=_CONNECT_SECONDS, statement_cache_size=0)
    except ValueError as error:
        is_of_postgres = url.startswith(("postgresql://", "postgres://"))
        wrong = "is a character of its password not percent-encoded?" if is_of_postgres else _FORM
        msg = f"the database's URL cannot be read: {wrong}"
        raise MigrationError(msg) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        msg = f"the database cannot be reached: {_reason(error)}; is DATABASE_URL right?"
        raise MigrationError(msg) from error
    try:
        yield connection
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(_NOT_OWNER) from error
    finally:
        await connection.close()


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing answers within {_CONNECT_SECONDS:g} s"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _scram_verifier(password: str) -> str:
    """Return what Postgres stores of a password: RFC 5803, SCRAM-SHA-256."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    texts = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{texts[0]}${texts[1]}:{texts[2]}"


def _sql_root() -> Traversable:
    """Find the SQL in the package, where a wheel has it, or beside it, as in a checkout."""
    packaged = importlib.resources.files("gateway") / "_supabase"
    if packaged.is_dir():
        return packaged
    checkout = Path(__file__).resolve().parents[3] / "supabase"
    if not checkout.is_dir():
        raise MigrationError("the SQL of the migrations is missing from this installation")
    return checkout
