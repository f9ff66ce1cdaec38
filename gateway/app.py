"""The composition root: the one place where parts are put together."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import structlog
from redis.asyncio import Redis

from gateway.adapters.clerk import ClerkTokens, SigningKeys, signing_keys
from gateway.adapters.n8n import N8n
from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.redis import API_KEYS, ORGANIZATIONS, Changes
from gateway.adapters.redis import ping as ping_redis
from gateway.adapters.supabase import SupabaseDatabase
from gateway.adapters.vault import SealedVault, SupabaseVault, Vault
from gateway.chain.access_log import log_access
from gateway.chain.address import ClientAddress
from gateway.chain.api_key import ApiKeys, TokenOrKey
from gateway.chain.authenticate import Authenticate, BearerToken, DevelopmentHeaders, InternalSecret
from gateway.chain.authorize import Authorize
from gateway.chain.context import establish_context
from gateway.chain.first_sight import FirstSight
from gateway.chain.policy import Policies
from gateway.chain.validate import Validate
from gateway.doors.connect import ConnectDoor
from gateway.doors.grpc import Connections, GrpcDoor
from gateway.doors.http import HttpServer, http_application
from gateway.doors.http_protocol import Bounds
from gateway.doors.rest import RestDoor
from gateway.executions.credentials import StoredCredentials
from gateway.executions.runner import Limits, Runner
from gateway.gen.n8ngateway.v1 import (
    api_key_service_pb,
    credit_service_pb,
    execution_service_pb,
    health_service_pb,
    internal_service_pb,
    organization_service_pb,
    webhook_service_pb,
    workflow_service_pb,
)
from gateway.rpc.chain import Chain
from gateway.rpc.methods import MethodTable
from gateway.services.api_key import ApiKeyService
from gateway.services.execution import ExecutionService
from gateway.services.health import Check, HealthService
from gateway.services.internal import InternalService
from gateway.services.organization import OrganizationService
from gateway.services.workflow import WorkflowService

if TYPE_CHECKING:
    from pydantic import SecretStr

    from gateway.adapters.database import Database
    from gateway.chain.authenticate import Authenticator
    from gateway.settings import Settings

log = structlog.get_logger("gateway")

MAX_MESSAGE_BYTES = 4 << 20

_HEALTH = health_service_pb.desc().services[0]
_INTERNAL = internal_service_pb.desc().services[0]


class Gateway:
    """The whole gateway in one process. `start` it, then `stop` it; the ports are known in between."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts = AsyncExitStack()
        self._stop_by = 0.0
        self.http_port = 0
        self.grpc_port = 0

    async def start(self) -> None:
        """Connect to the parts and open the doors. Raises OSError when a port cannot be had."""
        try:
            await self._start()
        except BaseException:
            await self._parts.aclose()
            raise

    async def stop(self) -> None:
        """Close the doors, let running calls and runs end within the grace time, then let go of the parts."""
        self._stop_by = asyncio.get_running_loop().time() + self._settings.shutdown_grace_seconds
        await self._parts.aclose()

    def _grace_left(self) -> float:
        return max(0.0, self._stop_by - asyncio.get_running_loop().time())

    async def _start(self) -> None:
        settings = self._settings
        session = await self._parts.enter_async_context(aiohttp.ClientSession())
        secret_key = settings.clerk_secret_key
        keys = signing_keys(
            session,
            issuer=settings.clerk_jwt_issuer,
            jwks_url=settings.clerk_jwks_url,
            secret_key=secret_key.get_secret_value() if secret_key else None,
            pem=settings.clerk_jwt_key,
        )
        self._parts.push_async_callback(keys.close)
        database, database_checks = self._database()
        self._parts.push_async_callback(database.close)
        n8n = N8n(
            settings.n8n_base_url,
            internal_secret=settings.n8n_internal_auth_secret.get_secret_value(),
        )
        await n8n.open()
        self._parts.push_async_callback(n8n.close)
        redis: Redis = Redis.from_url(settings.redis_url.get_secret_value())
        self._parts.push_async_callback(redis.aclose)
        vault = self._vault(database)
        api_keys, policies, changes = self._callers(database, redis)
        runner = Runner(
            database,
            n8n,
            Limits(total=settings.execution_timeout_seconds),
            StoredCredentials(database, vault),
        )
        self._parts.push_async_callback(lambda: runner.drain(self._grace_left()))

        health = HealthService(
            {
                **database_checks,
                "n8n": Check(n8n.ready, mode="default", needed=False),
                "redis": Check(lambda: ping_redis(redis), mode="single", needed=False),
            }
        )
        methods = MethodTable(
            [
                (
                    organization_service_pb.desc().services[0],
                    OrganizationService(database, vault, partial(changes.publish, ORGANIZATIONS)),
                ),
                (
                    api_key_service_pb.desc().services[0],
                    ApiKeyService(database, vault, partial(changes.publish, API_KEYS)),
                ),
                (credit_service_pb.desc().services[0], None),
                (workflow_service_pb.desc().services[0], WorkflowService(database)),
                (execution_service_pb.desc().services[0], ExecutionService(database, runner)),
                (webhook_service_pb.desc().services[0], None),
                (_INTERNAL, InternalService(database, vault)),
                (_HEALTH, health),
            ]
        )
        chain = Chain(
            establish_context,
            guards=[
                ClientAddress(settings.proxy_networks, settings.forwarded_header),
                self._authenticate(keys, api_keys),
                policies,
                Authorize(methods),
                Validate(methods),
                FirstSight(database),
            ],
            observers=[log_access],
            timeout=settings.request_timeout_seconds,
        )
        await self._open_doors(methods, chain, health)

    def _callers(self, database: Database, redis: Redis) -> tuple[ApiKeys, Policies, Changes]:
        """What is remembered of callers, and what tells of its changes."""
        api_keys, policies = ApiKeys(database), Policies(database)
        self._parts.push_async_callback(api_keys.close)
        self._parts.push_async_callback(policies.close)

        def forget_organization(organization_id: str | None) -> None:
            api_keys.forget_organization(organization_id)
            policies.forget(organization_id)

        changes = Changes(redis, {API_KEYS: api_keys.forget, ORGANIZATIONS: forget_organization})
        changes.start()
        self._parts.push_async_callback(changes.close)
        return api_keys, policies, changes

    def _vault(self, database: Database) -> Vault:
        keys = self._settings.vault_keys
        return SealedVault(database, keys) if keys else SupabaseVault(database)

    def _authenticate(self, keys: SigningKeys, api_keys: ApiKeys) -> Authenticate:
        settings = self._settings
        tokens = ClerkTokens(
            keys,
            issuer=settings.clerk_jwt_issuer,
            audience=settings.clerk_audience,
            authorized_parties=settings.clerk_authorized_parties,
        )
        default: Authenticator = TokenOrKey(BearerToken(tokens.verify), api_keys)
        if settings.dev_skip_auth:
            log.warning("DEV_SKIP_AUTH is on: X-Dev-User-ID is believed")
            default = DevelopmentHeaders(otherwise=default)
        internal = InternalSecret(settings.n8n_internal_auth_secret.get_secret_value())
        return Authenticate(default, {_HEALTH.type_name: None, _INTERNAL.type_name: internal})

    def _database(self) -> tuple[Database, dict[str, Check]]:
        settings = self._settings
        if settings.database_url is not None:
            direct = PostgresDatabase(
                settings.database_url.get_secret_value(),
                max_connections=settings.database_max_connections,
                pooled=settings.database_pooled,
            )
            return direct, {"database": Check(direct.ping, mode="direct", needed=True)}
        rest = SupabaseDatabase(
            settings.supabase_url or "",
            anon_key=_plain(settings.supabase_anon_key),
            service_role_key=_plain(settings.supabase_service_role_key),
            jwt_secret=_plain(settings.supabase_jwt_secret) or None,
        )
        return rest, {
            "database": Check(rest.ping, mode="supabase-rest", needed=True),
            "api_keys": Check(rest.check_signing, mode="supabase-rest", needed=False),
        }

    async def _open_doors(self, methods: MethodTable, chain: Chain, health: HealthService) -> None:
        settings = self._settings
        grpc_door = GrpcDoor(
            methods,
            chain,
            max_message_bytes=MAX_MESSAGE_BYTES,
            connections=Connections(
                keepalive=settings.grpc_keepalive_seconds,
                max_age=settings.grpc_max_connection_age_seconds,
                max_concurrent_streams=settings.grpc_max_concurrent_streams,
            ),
            channelz=settings.grpc_channelz,
        )
        application = http_application(
            ConnectDoor(methods, chain, max_message_bytes=MAX_MESSAGE_BYTES),
            RestDoor(methods, chain, max_message_bytes=MAX_MESSAGE_BYTES).application,
            services=[service.type_name for service in methods.services],
            cors_origins=settings.cors_origins,
            allowed_hosts=settings.served_hosts,
        )
        bounds = Bounds(
            head_seconds=settings.http_header_timeout_seconds,
            body_seconds=settings.http_body_timeout_seconds,
            idle_seconds=settings.http_keepalive_seconds,
            connections=settings.http_max_connections,
        )
        http = HttpServer(application, grace=settings.shutdown_grace_seconds, bounds=bounds)
        self._parts.push_async_callback(lambda: self._close_doors(http, grpc_door))
        self.grpc_port = await grpc_door.start(f"{settings.host}:{settings.grpc_port}")
        self.http_port = await http.start(settings.host, settings.http_port)
        self._parts.callback(health.drain)
        log.info("serving", http_port=self.http_port, grpc_port=self.grpc_port)

    async def _close_doors(self, http: HttpServer, grpc_door: GrpcDoor) -> None:
        await asyncio.gather(http.stop(), grpc_door.stop(self._grace_left()))


def _plain(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
