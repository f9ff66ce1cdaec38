"""What stands around the gateway: identity provider, database, Redis, vault, and the instances of n8n."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from gateway import metrics
from gateway.adapters.addresses import Networks
from gateway.adapters.clerk import SigningKeys, signing_keys
from gateway.adapters.n8n import Circuit, N8n, N8nInstances
from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.redis.availability import ping as ping_redis
from gateway.adapters.redis.channels import Channels
from gateway.adapters.redis.pool import redis_pool
from gateway.adapters.redis.replicas import Replicas
from gateway.adapters.supabase import SupabaseDatabase
from gateway.adapters.vault import SealedVault, SupabaseVault, Vault
from gateway.adapters.watched_database import WatchedDatabase
from gateway.app.start_checks import check_database, check_migrations, check_platform, check_vault
from gateway.executions.token import ExecutionTokens
from gateway.rpc.degraded import Part, Parts
from gateway.rpc.periodic import stop
from gateway.services.health import Check
from gateway.settings import Environment, Settings, plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from redis.asyncio import Redis

    from gateway.adapters.database import Database


JOINED = ("begin_execution", "settle_execution", "get_execution", "get_workflow", "list_workflows")
"""What is called most, and takes about as long whoever calls.

PL/pgSQL is never inlined, so that policies are evaluated for each call, with the claims of its caller.
"""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All that is connected to, with `away` telling what of it is not there, and `checks` to look."""

    away: Parts
    keys: SigningKeys
    database: Database
    redis: Redis
    channels: Channels
    replicas: Replicas
    vault: Vault
    tokens: ExecutionTokens
    n8n_networks: Networks
    n8n_instances: N8nInstances
    checks: dict[str, Check]

    @classmethod
    async def enter(cls, settings: Settings, parts: AsyncExitStack) -> Surroundings:
        """Connect to all of it; `parts` lets go of it again, the last first."""
        away = Parts()
        keys = await _identity(settings, parts, _report(away, Part.IDENTITY))
        unwatched, checks = await _database(settings)
        database = WatchedDatabase(unwatched, _report(away, Part.DATABASE))
        parts.push_async_callback(database.close)
        await check_migrations(database, settings)
        vault: Vault = (
            SealedVault(database, settings.vault_keys) if settings.vault_keys else SupabaseVault(database)
        )
        await check_vault(vault)
        looking = asyncio.create_task(check_platform(database, settings))
        parts.push_async_callback(lambda: stop(looking))
        redis = redis_pool(plain(settings.redis_url))
        parts.push_async_callback(redis.aclose)
        channels = Channels(redis)
        channels.start()
        parts.push_async_callback(channels.close)
        replicas = await _replicas(settings, parts, redis, _report(away, Part.REDIS))
        networks = Networks(settings.n8n_allowed_networks)
        n8n = await _default_n8n(settings, parts, _report(away, Part.N8N))
        return cls(
            away=away,
            keys=keys,
            database=database,
            redis=redis,
            channels=channels,
            replicas=replicas,
            vault=vault,
            tokens=ExecutionTokens(plain(settings.n8n_internal_auth_secret)),
            n8n_networks=networks,
            n8n_instances=_n8n_instances(parts, N8nInstances(n8n, database, vault, networks)),
            checks=checks
            | {
                Part.DATABASE: Check(database.ping, checks[Part.DATABASE].mode),
                Part.IDENTITY: Check(keys.check, "fetched" if settings.clerk_jwt_key is None else "fixed"),
                Part.N8N: Check(n8n.ready, "default"),
                Part.REDIS: Check(lambda: ping_redis(redis), "single"),
                "vault": Check(vault.check, vault.mode),
            },
        )


def _report(away: Parts, part: Part) -> Callable[[bool], None]:
    return lambda is_there: away.report(part, is_there=is_there)


async def _identity(settings: Settings, parts: AsyncExitStack, report: Callable[[bool], None]) -> SigningKeys:
    session = await parts.enter_async_context(aiohttp.ClientSession())
    keys = signing_keys(
        session,
        issuer=settings.clerk_jwt_issuer,
        jwks_url=settings.clerk_jwks_url,
        secret_key=plain(settings.clerk_secret_key) or None,
        pem=settings.clerk_jwt_key,
        report=report,
    )
    parts.push_async_callback(keys.close)
    return keys


async def _database(settings: Settings) -> tuple[Database, dict[str, Check]]:
    if settings.database_url is not None:
        direct = PostgresDatabase(
            plain(settings.database_url),
            max_connections=settings.database_max_connections,
            pooled=settings.database_pooled,
            may_bypass_rls=settings.environment is not Environment.PRODUCTION,
            joined=JOINED,
        )
        metrics.watch(metrics.DATABASE_CONNECTIONS, direct.connections)
        await check_database(direct, settings)
        return direct, {Part.DATABASE: Check(direct.ping, "direct")}
    rest = SupabaseDatabase(
        settings.supabase_url or "",
        anon_key=plain(settings.supabase_anon_key),
        service_role_key=plain(settings.supabase_service_role_key),
        jwt_secret=plain(settings.supabase_jwt_secret) or None,
    )
    return rest, {
        Part.DATABASE: Check(rest.ping, "supabase-rest"),
        "api_keys": Check(rest.check_signing, "supabase-rest"),
    }


async def _replicas(
    settings: Settings, parts: AsyncExitStack, redis: Redis, report: Callable[[bool], None]
) -> Replicas:
    replicas = Replicas(
        redis,
        expected=settings.rate_limit_replicas,
        timeout=max(1.0, settings.redis_timeout_seconds),
        changed=report,
    )
    await replicas.start()
    parts.push_async_callback(replicas.close)
    return replicas


async def _default_n8n(settings: Settings, parts: AsyncExitStack, report: Callable[[bool], None]) -> N8n:
    n8n = N8n(
        settings.n8n_base_url,
        internal_secret=plain(settings.n8n_internal_auth_secret),
        api_key=plain(settings.n8n_api_key) or None,
        report=report,
    )
    await n8n.open()
    parts.push_async_callback(n8n.close)
    return n8n


def _n8n_instances(parts: AsyncExitStack, instances: N8nInstances) -> N8nInstances:
    parts.push_async_callback(instances.close)
    metrics.N8N_CIRCUITS_OPEN.set_function(
        lambda: sum(circuit is not Circuit.CLOSED for circuit in instances.circuits().values())
    )
    return instances
