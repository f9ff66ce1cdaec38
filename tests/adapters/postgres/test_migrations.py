from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase, migrations
from gateway.adapters.postgres.migrations import Migration, MigrationError
from tests.adapters.databases import AUTHENTICATOR_PASSWORD, Cluster, login

ALL = migrations.migrations()


@pytest.fixture
async def url(cluster: Cluster) -> str:
    """An empty database."""
    return str(await cluster.create())


@pytest.fixture
async def connection(url: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(url)
    yield opened
    await opened.close()


async def apply(url: str) -> list[Migration]:
    return await migrations.apply(url, local=True, authenticator_password=AUTHENTICATOR_PASSWORD)


def test_files_are_named_as_supabase_cli_names_them() -> None:
    assert len(ALL) >= 4
    assert all(re.fullmatch(r"20\d{12}", migration.version) for migration in ALL)
    assert [migration.version for migration in ALL] == sorted({migration.version for migration in ALL})
    files = (Path(__file__).parents[3] / "supabase" / "migrations").iterdir()
    assert len(list(files)) == len(ALL)


async def test_an_empty_database_is_brought_to_this_version(url: str, connection: Any) -> None:
    assert [entry.applied for entry in await migrations.status(url)] == [False] * len(ALL)
    assert await migrations.plan(url, local=True) == ALL
    assert await connection.fetchval("select to_regnamespace('supabase_migrations')") is None
    assert await apply(url) == ALL
    assert [entry.applied for entry in await migrations.status(url)] == [True] * len(ALL)
    assert await migrations.plan(url) == []
    rows = await connection.fetch(
        "select version, name, statements from supabase_migrations.schema_migrations order by version"
    )
    assert [(row["version"], row["name"], row["statements"]) for row in rows] == [
        (migration.version, migration.name, [migration.sql]) for migration in ALL
    ]


async def test_the_functions_are_those_that_the_database_has_then(url: str, connection: Any) -> None:
    await apply(url)
    rows = await connection.fetch("select proname from pg_proc where pronamespace = 'public'::regnamespace")
    assert migrations.functions() == {row["proname"] for row in rows}


async def test_applying_again_changes_nothing(url: str) -> None:
    await apply(url)
    assert await apply(url) == []


async def test_several_at_one_time_apply_each_file_once(url: str) -> None:
    results = await asyncio.gather(*(apply(url) for _ in range(4)))
    applied = [migration.version for result in results for migration in result]
    assert sorted(applied) == [migration.version for migration in ALL]


async def test_what_others_wrote_in_the_table_is_left_alone(url: str, connection: Any) -> None:
    await connection.execute(
        "create schema supabase_migrations;"
        "create table supabase_migrations.schema_migrations (version text primary key);"
        "insert into supabase_migrations.schema_migrations values ('20200101000000'), ('29990101000000')"
    )
    assert await apply(url) == ALL
    assert (
        await connection.fetchval("select count(*) from supabase_migrations.schema_migrations")
        == len(ALL) + 2
    )


async def test_a_file_that_fails_is_not_half_applied(
    url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migration("29990101000000", "broken", "create table public.half (id int); select 1 / 0;")
    monkeypatch.setattr(migrations, "migrations", lambda: [*ALL, broken])
    with pytest.raises(MigrationError, match="29990101000000_broken was not applied: division by zero"):
        await apply(url)
    assert await connection.fetchval("select to_regclass('public.half')") is None
    assert [entry.applied for entry in await migrations.status(url)] == [True] * len(ALL) + [False]


async def test_authenticator_logs_in_with_the_password_and_with_no_other(url: str) -> None:
    await apply(url)
    database = PostgresDatabase(login(URL(url)))
    await database.ping()
    await database.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(str(URL(login(URL(url))).with_password("another")))


async def test_the_password_is_kept_as_a_verifier(connection: Any) -> None:
    stored = await connection.fetchval("select rolpassword from pg_authid where rolname = 'authenticator'")
    assert stored.startswith("SCRAM-SHA-256$")
    assert AUTHENTICATOR_PASSWORD not in stored


async def test_without_the_roles_of_supabase_the_message_says_what_is_missing(url: str) -> None:
    with pytest.raises(MigrationError, match="for plain Postgres add --plain-postgres"):
        await migrations.apply(url)
    assert [entry.applied for entry in await migrations.status(url)] == [False] * len(ALL)


async def test_what_is_supabases_is_not_made_over(url: str, connection: Any) -> None:
    await connection.execute("create role supabase_admin")
    try:
        with pytest.raises(MigrationError, match="this is a database of Supabase"):
            await apply(url)
    finally:
        await connection.execute("drop role supabase_admin")


async def test_a_database_that_is_not_there_is_said(url: str) -> None:
    for call in (migrations.status, migrations.plan, migrations.apply):
        with pytest.raises(MigrationError, match="cannot be reached") as raised:
            await call(str(URL(url).with_path("nothing")))
        assert str(URL(url).password) not in str(raised.value)
