"""What the gateway looks at before it serves."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.vault import SealedVault, SupabaseVault
from gateway.app.start_checks import (
    check_database,
    check_migrations,
    check_platform,
    check_settings,
    check_vault,
)
from gateway.rpc.errors import Unavailable
from gateway.settings import Settings, SettingsError
from tests.adapters.databases import Cluster, cluster, login, new_tenant, superuser, superuser_url

__all__ = ["cluster", "superuser", "superuser_url"]

VAULT_KEY = "A" * 43 + "="


def settings(**changed: Any) -> Settings:
    given = {
        "database_url": "postgresql://authenticator@localhost/postgres",
        "clerk_jwt_issuer": "https://issuer.example",
        "n8n_base_url": "https://n8n.example",
        "n8n_internal_auth_secret": "s" * 64,
        "vault_key": VAULT_KEY,
    }
    return Settings.load(**(given | changed))


@pytest.fixture
async def reader(superuser: Any, superuser_url: URL) -> AsyncIterator[str]:
    """The URL of a login that is no superuser, and past whom row-level security does nothing."""
    await superuser.execute("create role reader login bypassrls password 'reader-password'")
    yield str(superuser_url.with_user("reader").with_password("reader-password"))
    await superuser.execute("drop role reader")


async def looked_at(url: str, **changed: Any) -> list[Any]:
    """The lines that are logged while the database is looked at."""
    chosen = settings(**changed)
    database = PostgresDatabase(url, may_bypass_rls=chosen.environment != "production")
    try:
        with capture_logs() as logs:
            await check_database(database, chosen)
    finally:
        await database.close()
    return logs


async def test_the_login_of_the_gateway_is_taken(superuser_url: URL) -> None:
    assert await looked_at(login(superuser_url)) == []


async def test_in_production_nobody_may_get_past_row_level_security(superuser_url: URL, reader: str) -> None:
    for url in (str(superuser_url), reader):
        with pytest.raises(SettingsError, match="DATABASE_URL logs in as a superuser"):
            await looked_at(url)
        [warning] = await looked_at(url, environment="staging")
        assert warning["event"] == "row-level security does not hold for the database's login"


async def test_such_a_login_is_not_used_later_either(superuser_url: URL) -> None:
    database = PostgresDatabase(str(superuser_url), may_bypass_rls=False)
    with pytest.raises(Unavailable) as refused:
        await database.call("list_organizations", None)
    assert refused.value.reason == "DATABASE_LOGIN_UNSAFE"
    await database.close()


async def test_secrets_do_not_lie_in_the_clear_in_production(superuser_url: URL) -> None:
    with pytest.raises(SettingsError, match="VAULT_KEY is missing: the database has no Supabase Vault"):
        await looked_at(login(superuser_url), vault_key=None)
    [warning] = await looked_at(login(superuser_url), vault_key=None, environment="development")
    assert warning["event"].startswith("VAULT_KEY is not set")


async def test_a_database_that_is_away_does_not_stop_the_start() -> None:
    logs = await looked_at("postgresql://authenticator@127.0.0.1:1/postgres")
    assert logs[-1]["event"] == "the database is away: its login has not been looked at"


async def test_without_the_schema_nothing_is_served(cluster: Cluster) -> None:
    url = login(await cluster.create())
    for environment in ("production", "development"):
        with pytest.raises(SettingsError, match="the schema is missing: set DATABASE_URL to"):
            await looked_at(url, environment=environment)


async def test_nor_with_that_of_an_older_version(cluster: Cluster) -> None:
    url = await cluster.create("migrated")
    connection = await asyncpg.connect(str(url))
    await connection.execute("drop function public.match_error, public.check_credits")
    await connection.close()
    with pytest.raises(SettingsError, match="older version, without check_credits, match_error: set"):
        await looked_at(login(url))


async def test_nor_with_functions_of_an_older_version(cluster: Cluster) -> None:
    """That no function is missing does not say that a migration was applied which gave some another body."""
    url = await cluster.create("migrated")
    connection = await asyncpg.connect(str(url))
    database = PostgresDatabase(login(url))
    table = "supabase_migrations.schema_migrations"
    try:
        await check_migrations(database, settings())
        await connection.execute(
            f"insert into {table} (version, name) values ('29991231000000', 'of_others')"
        )
        await check_migrations(database, settings())
        await connection.execute(f"delete from {table} where version in ('20261122104200', '20261122116000')")
        lacking = "20261122104200_runners, 20261122116000_runs_in_few_statements"
        with pytest.raises(SettingsError, match=f"without the migrations {lacking}: set DATABASE_URL to"):
            await check_migrations(database, settings())

        await connection.execute(f"alter table {table} rename to hidden")
        with capture_logs() as logs:
            await check_migrations(database, settings())
        assert logs == []
    finally:
        await connection.close()
        await database.close()


async def test_a_list_of_migrations_that_nobody_may_read_says_nothing(cluster: Cluster) -> None:
    url = await cluster.create("migrated")
    connection = await asyncpg.connect(str(url))
    database = PostgresDatabase(login(url))
    owner = f"owner_{uuid.uuid4().hex}"
    try:
        await connection.execute(f"create role {owner}; grant create on schema public to {owner}")
        await connection.execute(f"grant usage on schema gateway to {owner}")
        await connection.execute("delete from supabase_migrations.schema_migrations")
        await connection.execute(f"grant execute on function gateway.require_service() to {owner}")
        await connection.execute(f"alter function public.applied_migrations() owner to {owner}")
        assert await database.call("applied_migrations", None) == "null"
    finally:
        await connection.execute(f"drop owned by {owner} cascade; drop role {owner}")
        await connection.close()
        await database.close()


async def test_a_vault_that_cannot_be_asked_does_not_stop_the_start() -> None:
    url = "postgresql://authenticator:hunter2-of-the-database@127.0.0.1:1/postgres"
    database = PostgresDatabase(url)
    with capture_logs() as logs:
        await check_migrations(database, settings(database_url=url))
        await check_vault(SealedVault(database, settings().vault_keys))
    await database.close()
    _, away, _, vault = [line for line in logs if line["log_level"] == "warning"]
    assert away["event"].startswith("THE DATABASE CANNOT BE REACHED")
    assert (away["setting"], away["host"]) == ("DATABASE_URL", "127.0.0.1:1")
    assert vault["event"] == "not known whether stored secrets open with VAULT_KEY"
    assert "hunter2-of-the-database" not in str(logs)


async def test_with_a_wrong_vault_key_nothing_is_served(cluster: Cluster) -> None:
    database = PostgresDatabase(login(await cluster.create("migrated")))
    vault = SealedVault(database, settings().vault_keys)
    try:
        tenant = await new_tenant(database)
        kept = {"TOKEN": vault.seal(tenant.organization_id, "credential/TOKEN", "kept-and-sealed")}
        await tenant.call("store_credentials", p_organization_id=tenant.organization_id, p_credentials=kept)
        await check_vault(vault)
        with pytest.raises(SettingsError, match="VAULT_KEY is missing: secrets are stored that its key '1'"):
            await check_vault(SupabaseVault(database))
    finally:
        await database.close()


def test_production_without_authorized_parties_is_told() -> None:
    with capture_logs() as logs:
        check_settings(settings())
        check_settings(settings(clerk_authorized_parties=("https://app.example",)))
        check_settings(settings(environment="development"))
    assert [line["event"].split(" ")[0] for line in logs] == ["CLERK_AUTHORIZED_PARTIES"]


def test_a_setting_whose_name_is_mistyped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERK_AUDIENCES", "gateway")
    with capture_logs() as logs:
        check_settings(settings(environment="development"))
    assert [(line["name"], line["meant"]) for line in logs] == [("CLERK_AUDIENCES", "CLERK_AUDIENCE")]


async def test_production_is_told_that_nobody_has_decided_who_registers_workflows(cluster: Cluster) -> None:
    database = PostgresDatabase(login(await cluster.create("migrated")))

    async def told(**changed: Any) -> list[str]:
        with capture_logs() as logs:
            await check_platform(database, settings(**changed))
        return [str(line["event"]) for line in logs]

    try:
        [event] = await told()
        assert event.startswith("nobody has decided who registers workflows on the shared n8n")
        assert await told(environment="development") == []
        await database.call(
            "set_platform_setting", None, p_name="workflow_management", p_value="organization"
        )
        assert await told() == []
    finally:
        await database.close()


async def test_a_database_that_is_away_is_asked_for_no_decision() -> None:
    database = PostgresDatabase("postgresql://authenticator@127.0.0.1:1/postgres")
    with capture_logs() as logs:
        await check_platform(database, settings())
    await database.close()
    assert logs[-1]["event"] == "not known whether it is decided who registers workflows"
