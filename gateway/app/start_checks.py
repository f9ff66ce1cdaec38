"""What is looked at once when the gateway starts, because later it would be a silent fault."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson
import structlog

from gateway.adapters.postgres import migrations
from gateway.rpc.errors import FailedPrecondition, RpcError, Unavailable
from gateway.settings import Environment, SettingsError, plain

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.adapters.postgres import PostgresDatabase
    from gateway.adapters.vault import Vault
    from gateway.settings import Settings

log = structlog.get_logger("gateway")


def check_settings(settings: Settings) -> None:
    """Warn of what can be meant, and mostly is not."""
    for name, setting in settings.mistyped().items():
        log.warning("no setting has this name, it has no effect", name=name, meant=setting)
    if settings.environment is Environment.PRODUCTION and not settings.clerk_authorized_parties:
        log.warning(
            "CLERK_AUTHORIZED_PARTIES is empty: tokens that the issuer gave to any application are taken"
        )


async def check_platform(database: Database, settings: Settings) -> None:
    """Warn in production of what the platform should decide and has not.

    Without a decision the admins of each organization register any webhook path of the n8n that all share, at
    a price of their own.
    """
    if settings.environment is not Environment.PRODUCTION:
        return
    try:
        stored = orjson.loads(await database.call("list_platform_settings", None))
    except RpcError as error:
        log.warning("not known whether it is decided who registers workflows", reason=error.reason)
        return
    if "workflow_management" in stored["undecided"]:
        log.warning(
            "nobody has decided who registers workflows on the shared n8n: until then the admins of every"
            " organization do, with any webhook path and price",
            decide="set DATABASE_URL, then run `n8n-gateway platform set workflow_management platform`"
            " (or `organization`, if it is meant)",
        )


async def check_database(database: PostgresDatabase, settings: Settings) -> None:
    """Look at who the gateway is to the database, and where secrets would be kept.

    Raises SettingsError when the schema lacks functions, and in production for a login for which row-level
    security does not hold, and where secrets would be stored in the clear. A database that is away is
    looked at when it is back, by itself.
    """
    in_production = settings.environment is Environment.PRODUCTION
    try:
        facts = await database.facts()
    except Unavailable as error:
        if error.reason == "DATABASE_LOGIN_UNSAFE":
            msg = (
                "DATABASE_URL logs in as a superuser, or a role with BYPASSRLS, for whom row-level security"
                " does not hold: use `authenticator`, or a role that has no more than it"
            )
            raise SettingsError(msg) from None
        log.warning("the database is away: its login has not been looked at", reason=error.reason)
        return
    if facts.bypasses_rls:
        log.warning("row-level security does not hold for the database's login", login=facts.login)
    await _check_functions(database)
    if settings.vault_key is None and not facts.has_vault:
        if in_production:
            msg = "VAULT_KEY is missing: the database has no Supabase Vault to keep secrets in"
            raise SettingsError(msg)
        log.warning("VAULT_KEY is not set, and the database has no Supabase Vault: secrets are not encrypted")


async def _check_functions(database: PostgresDatabase) -> None:
    """Look for the functions by name, which every login can."""
    functions = migrations.functions()
    try:
        lacking = await database.lacking(functions)
    except Unavailable as error:
        log.warning("the database is away: its schema has not been looked at", reason=error.reason)
        return
    if lacking:
        is_missing = len(lacking) == len(functions)
        raise _behind("is missing" if is_missing else f"is of an older version, without {', '.join(lacking)}")


async def check_migrations(database: Database, settings: Settings) -> None:
    """Compare the migrations that the database has with those of this version; tell where there is none.

    Raises SettingsError for one that lacks some, though it may have every function: their bodies are older. A
    schema that was brought up by other means, without a list of migrations, is taken as it is.
    """
    try:
        applied = orjson.loads(await database.call("applied_migrations", None))
    except Unavailable as error:
        setting = "SUPABASE_URL" if settings.database_url is None else "DATABASE_URL"
        url = plain(settings.database_url) or settings.supabase_url or ""
        log.warning(
            "THE DATABASE CANNOT BE REACHED: calls are UNAVAILABLE, and readiness is 503, until it can be;"
            " then all goes on by itself",
            setting=setting,
            host=_place(url),
            reason=error.reason,
        )
        return
    except RpcError as error:
        log.warning("not known which migrations the database has", reason=error.reason)
        return
    if applied is None:
        return
    lacking = [f"{m.version}_{m.name}" for m in migrations.migrations() if m.version not in applied]
    if lacking:
        raise _behind(f"is of an older version, without the migrations {', '.join(lacking)}")


def _place(url: str) -> str:
    """Host and port, and nothing else that a URL may hold."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    return f"{parts.hostname or ''}:{port}" if port else parts.hostname or ""


def _behind(what: str) -> SettingsError:
    return SettingsError(
        f"the schema {what}: set DATABASE_URL to that of the schema's owner, then run `n8n-gateway migrate`"
    )


async def check_vault(vault: Vault) -> None:
    """Try to open stored secrets. Raises SettingsError where it is certain that they do not open."""
    try:
        await vault.check()
    except FailedPrecondition as error:
        raise SettingsError(error.message) from None
    except RpcError as error:
        log.warning("not known whether stored secrets open with VAULT_KEY", reason=error.reason)
