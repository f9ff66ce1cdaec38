"""The composition root: the one place where parts are put together."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import structlog
from redis.asyncio import Redis

from gateway import metrics
from gateway.adapters.addresses import Networks
from gateway.adapters.channels import Channels
from gateway.adapters.clerk import ClerkTokens, SigningKeys, signing_keys
from gateway.adapters.event_streams import EventStreams
from gateway.adapters.n8n import Circuit, N8n, N8nInstances
from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.redis import API_KEYS, N8N_INSTANCES, ORGANIZATIONS, Changes, Nonces
from gateway.adapters.redis import ping as ping_redis
from gateway.adapters.redis_baselines import RedisBaselines
from gateway.adapters.redis_leases import RedisLeases
from gateway.adapters.redis_replicas import Replicas
from gateway.adapters.redis_windows import RedisWindows
from gateway.adapters.run_queue import CHANNEL as QUEUE_CHANNEL
from gateway.adapters.run_queue import RunQueue
from gateway.adapters.supabase import SupabaseDatabase
from gateway.adapters.vault import SealedVault, SupabaseVault, Vault
from gateway.adapters.watched_database import WatchedDatabase
from gateway.adapters.webhook_sender import WebhookSender
from gateway.chain.access_log import log_access
from gateway.chain.address import ClientAddress
from gateway.chain.address_limit import AddressLimit, FailedAuthentications
from gateway.chain.api_key import ApiKeys, TokenOrKey
from gateway.chain.authenticate import (
    Authenticate,
    BearerToken,
    DevelopmentHeaders,
    InternalSecret,
    PlatformToken,
)
from gateway.chain.authorize import Authorize
from gateway.chain.context import establish_context
from gateway.chain.degraded import ShowDegraded
from gateway.chain.fingerprint import Fingerprints
from gateway.chain.first_sight import FirstSight
from gateway.chain.measure import counted, measure
from gateway.chain.own_n8n import OwnN8nSecrets
from gateway.chain.policy import Policies
from gateway.chain.rate_limit import RateLimit, Rates
from gateway.chain.security_log import SecurityLog
from gateway.chain.signature import Signatures
from gateway.chain.stream_limit import StreamLimit
from gateway.chain.validate import Validate
from gateway.doors.connect import ConnectDoor
from gateway.doors.grpc import Connections, GrpcDoor
from gateway.doors.http import HttpServer, http_application
from gateway.doors.http_protocol import Bounds
from gateway.doors.metrics import metrics_application
from gateway.doors.rest import RestDoor
from gateway.doors.tls import Tls, TlsFiles
from gateway.executions.attempt import Caller, Limits
from gateway.executions.cancel import Cancellations
from gateway.executions.credentials import StoredCredentials
from gateway.executions.dispatcher import Dispatcher
from gateway.executions.ending import Endings
from gateway.executions.leases import Leases
from gateway.executions.peers import Peers
from gateway.executions.publisher import Publisher
from gateway.executions.reports import Reports
from gateway.executions.runner import Runner
from gateway.executions.sweeper import Sweeper
from gateway.executions.token import ExecutionTokens
from gateway.executions.watch import Watcher
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
from gateway.limits.addresses import AddressWindows
from gateway.limits.limiter import Limiter
from gateway.limits.streams import OpenStreams
from gateway.rpc.chain import Chain
from gateway.rpc.degraded import Part, Parts
from gateway.rpc.methods import MethodTable
from gateway.rpc.standing import Standing
from gateway.services.api_key import ApiKeyService
from gateway.services.credit import CreditService
from gateway.services.execution import ExecutionService
from gateway.services.health import Check, HealthService
from gateway.services.internal import InternalService
from gateway.services.organization import OrganizationService
from gateway.services.webhook import WebhookService
from gateway.services.workflow import WorkflowService
from gateway.settings import Environment, Settings
from gateway.start_checks import check_database, check_settings
from gateway.webhooks.deliverer import Deliverer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import SecretStr

    from gateway.adapters.database import Database
    from gateway.chain.authenticate import Authenticator
    from gateway.executions.attempt import N8nFor

log = structlog.get_logger("gateway")

MAX_MESSAGE_BYTES = 4 << 20
PUBLISH_SECONDS = 2.0
"""How long the last events may take to reach Redis when the gateway stops."""

_HEALTH = health_service_pb.desc().services[0]
_INTERNAL = internal_service_pb.desc().services[0]


class Gateway:
    """The whole gateway in one process. `start` it, then `stop` it; the ports are known in between."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts = AsyncExitStack()
        self._away = Parts()
        self._stop_by = 0.0
        self._http: HttpServer | None = None
        self.http_port = 0
        self.grpc_port = 0
        self.metrics_port = 0

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

    async def died(self) -> BaseException | None:
        """Return when the HTTP port is served no longer, without `stop`, and why if that is known."""
        return None if self._http is None else await self._http.died()

    def _grace_left(self) -> float:
        return max(0.0, self._stop_by - asyncio.get_running_loop().time())

    async def _start(self) -> None:
        settings = self._settings
        check_settings(settings)
        session = await self._parts.enter_async_context(aiohttp.ClientSession())
        secret_key = settings.clerk_secret_key
        keys = signing_keys(
            session,
            issuer=settings.clerk_jwt_issuer,
            jwks_url=settings.clerk_jwks_url,
            secret_key=secret_key.get_secret_value() if secret_key else None,
            pem=settings.clerk_jwt_key,
            report=self._report(Part.IDENTITY),
        )
        self._parts.push_async_callback(keys.close)
        unwatched, checks = await self._database()
        database = WatchedDatabase(unwatched, self._report(Part.DATABASE))
        self._parts.push_async_callback(database.close)
        redis: Redis = Redis.from_url(settings.redis_url.get_secret_value())
        self._parts.push_async_callback(redis.aclose)
        replicas = Replicas(
            redis,
            expected=settings.rate_limit_replicas,
            timeout=max(1.0, settings.redis_timeout_seconds),
            changed=self._report(Part.REDIS),
        )
        await replicas.start()
        self._parts.push_async_callback(replicas.close)
        vault = self._vault(database)
        tokens = ExecutionTokens(settings.n8n_internal_auth_secret.get_secret_value())
        n8n_networks = Networks(settings.n8n_allowed_networks)
        n8n, n8n_instances = await self._n8n(database, vault, n8n_networks)
        n8n_secrets = OwnN8nSecrets(database, tokens.digest)
        self._parts.push_async_callback(n8n_secrets.close)
        api_keys, policies, changes = self._callers(database, redis, n8n_instances, n8n_secrets)
        executions, reports = self._executions(database, redis, vault, n8n_instances.of, tokens)

        health = HealthService(
            checks
            | {
                Part.DATABASE: Check(database.ping, checks[Part.DATABASE].mode),
                Part.IDENTITY: Check(keys.check, "fetched" if settings.clerk_jwt_key is None else "fixed"),
                Part.N8N: Check(n8n.ready, "default"),
                Part.REDIS: Check(lambda: ping_redis(redis), "single"),
            },
            self._away,
        )
        self._parts.push_async_callback(health.close)
        methods = MethodTable(
            [
                (
                    organization_service_pb.desc().services[0],
                    OrganizationService(
                        database,
                        vault,
                        partial(changes.publish, ORGANIZATIONS),
                        tokens=tokens,
                        n8n_networks=n8n_networks,
                        n8n_changed=partial(changes.publish, N8N_INSTANCES),
                    ),
                ),
                (
                    api_key_service_pb.desc().services[0],
                    ApiKeyService(database, vault, partial(changes.publish, API_KEYS)),
                ),
                (credit_service_pb.desc().services[0], CreditService(database)),
                (workflow_service_pb.desc().services[0], WorkflowService(database)),
                (execution_service_pb.desc().services[0], executions),
                (webhook_service_pb.desc().services[0], await self._webhooks(database, vault)),
                (_INTERNAL, self._internal(database, vault, tokens, reports)),
                (_HEALTH, health),
            ]
        )
        degraded = ShowDegraded(self._away)
        failures = FailedAuthentications(AddressWindows(*settings.rate_limit_failed_authentications))
        streams = self._stream_limit(redis, replicas)
        standing = Standing([api_keys.still, policies.still])
        self._parts.push_async_callback(standing.close)
        chain = Chain(
            counted(establish_context),
            guards=[
                degraded,
                ClientAddress(settings.proxy_networks, settings.forwarded_header),
                *self._address_limit(),
                failures,
                self._authenticate(keys, api_keys, n8n_secrets),
                policies,
                self._signatures(api_keys, redis),
                *self._fingerprints(database, redis, replicas),
                *self._rate_limit(redis, replicas, methods),
                Authorize(methods),
                Validate(methods),
                FirstSight(database),
                streams,
            ],
            observers=[failures.observe, streams.observe, degraded.observe, measure, log_access],
            timeout=settings.request_timeout_seconds,
            standing=standing,
        )
        await self._open_doors(methods, chain, health)

    def _executions(
        self, database: Database, redis: Redis, vault: Vault, n8n_for: N8nFor, tokens: ExecutionTokens
    ) -> tuple[ExecutionService, Reports]:
        """What runs workflows and queues runs, keeps them this replica's own, and reads them out."""
        settings, parts = self._settings, self._parts
        replica, lease = secrets.token_hex(8), settings.execution_lease_seconds
        streams, channels = EventStreams(redis), Channels(redis)
        publisher = Publisher(streams, replica)
        limits = Limits(total=settings.execution_timeout_seconds)
        caller = Caller(n8n_for, limits, StoredCredentials(database, vault), tokens)
        runner = Runner(database, caller, publisher, replica=replica, lease_seconds=lease)
        watcher = Watcher(runner.runs, streams, channels)
        endings = Endings(database, streams, replica)
        queue = RunQueue(redis)
        capacity = settings.execution_queue_concurrency
        dispatcher = Dispatcher(database, queue, runner, vault, endings, capacity=capacity)
        peers = Peers(channels, replica, runner.tasks)
        cancellations = Cancellations(database, runner, watcher, peers, dispatcher, endings)
        reports = Reports(database, runner, streams, peers)
        leases = Leases(database, runner, streams)
        sweeper = Sweeper(database, dispatcher, endings, lease)
        for part in (channels, publisher, leases, sweeper, dispatcher):
            part.start()
        parts.push_async_callback(channels.close)
        parts.push_async_callback(lambda: publisher.close(PUBLISH_SECONDS))
        parts.push_async_callback(leases.close)
        parts.enter_context(peers.listen())
        parts.enter_context(channels.listen(QUEUE_CHANNEL, dispatcher.hear))
        parts.push_async_callback(lambda: runner.drain(self._grace_left()))
        parts.push_async_callback(dispatcher.close)
        parts.push_async_callback(sweeper.close)
        service = ExecutionService(database, runner, dispatcher, watcher, cancellations)
        return service, reports

    def _callers(
        self, database: Database, redis: Redis, n8n_instances: N8nInstances, n8n_secrets: OwnN8nSecrets
    ) -> tuple[ApiKeys, Policies, Changes]:
        """What is remembered of callers, and what tells of its changes."""
        api_keys, policies = ApiKeys(database, self._vault(database)), Policies(database)
        self._parts.push_async_callback(api_keys.close)
        self._parts.push_async_callback(policies.close)

        def forget_organization(organization_id: str | None) -> None:
            api_keys.forget_organization(organization_id)
            policies.forget(organization_id)

        def forget_n8n(organization_id: str | None) -> None:
            n8n_instances.forget(organization_id)
            n8n_secrets.forget(organization_id)

        changes = Changes(
            redis,
            {
                API_KEYS: api_keys.forget,
                ORGANIZATIONS: forget_organization,
                N8N_INSTANCES: forget_n8n,
            },
        )
        changes.start()
        self._parts.push_async_callback(changes.close)
        return api_keys, policies, changes

    def _report(self, part: Part) -> Callable[[bool], None]:
        return lambda is_there: self._away.report(part, is_there=is_there)

    def _address_limit(self) -> list[AddressLimit]:
        rate = self._settings.rate_limit_per_address
        if rate is None or not self._settings.enable_rate_limiting:
            return []
        # Both are asked by machines that many depend on, and neither does much for a stranger.
        exempt = (_HEALTH.type_name, _INTERNAL.type_name)
        return [AddressLimit(AddressWindows(*rate), exempt)]

    def _rate_limit(self, redis: Redis, replicas: Replicas, methods: MethodTable) -> list[RateLimit]:
        settings = self._settings
        if not settings.enable_rate_limiting:
            return []
        limiter = Limiter(RedisWindows(redis, timeout=settings.redis_timeout_seconds), replicas)
        rates = Rates(settings.limit, settings.rate_limit_per_workflow, settings.rate_limit_per_address)
        return [RateLimit(limiter, rates, methods)]

    def _stream_limit(self, redis: Redis, replicas: Replicas) -> StreamLimit:
        streams = OpenStreams(RedisLeases(redis, "n8n-gateway:streams:"), replicas)
        replicas.after_beat.append(streams.renew)
        self._parts.push_async_callback(streams.drained)
        return StreamLimit(streams, most=self._settings.max_open_streams)

    def _signatures(self, api_keys: ApiKeys, redis: Redis) -> Signatures:
        return Signatures(
            api_keys.client_secrets,
            Nonces(redis).take,
            demand=self._settings.enable_hmac_validation,
            tolerance=self._settings.hmac_timestamp_tolerance,
        )

    def _fingerprints(self, database: Database, redis: Redis, replicas: Replicas) -> list[Fingerprints]:
        if not self._settings.enable_fingerprinting:
            return []
        log_of_events = SecurityLog(database)
        log_of_events.start()
        self._parts.push_async_callback(log_of_events.close)
        baselines = RedisBaselines(redis, replicas)
        key = self._settings.fingerprint_secret
        fingerprints = Fingerprints(key, baselines, database, log_of_events.record)
        self._parts.push_async_callback(fingerprints.close)
        return [fingerprints]

    async def _webhooks(self, database: Database, vault: Vault) -> WebhookService:
        """The endpoints that are told of events, and what tells them."""
        networks = Networks(self._settings.webhook_allowed_networks)
        sender = await self._parts.enter_async_context(WebhookSender(networks))
        deliverer = Deliverer(database, vault, sender)
        deliverer.start()
        self._parts.push_async_callback(lambda: deliverer.close(self._grace_left()))
        return WebhookService(database, vault, networks)

    def _internal(
        self, database: Database, vault: Vault, tokens: ExecutionTokens, reports: Reports
    ) -> InternalService:
        settings = self._settings
        own = (settings.n8n_internal_auth_secret, settings.n8n_api_key)
        return InternalService(database, vault, tokens, reports, [_plain(secret) for secret in own])

    def _vault(self, database: Database) -> Vault:
        keys = self._settings.vault_keys
        return SealedVault(database, keys) if keys else SupabaseVault(database)

    async def _n8n(self, database: Database, vault: Vault, networks: Networks) -> tuple[N8n, N8nInstances]:
        """The default n8n, and those of organizations' own."""
        settings = self._settings
        default = N8n(
            settings.n8n_base_url,
            internal_secret=settings.n8n_internal_auth_secret.get_secret_value(),
            api_key=_plain(settings.n8n_api_key) or None,
            report=self._report(Part.N8N),
        )
        await default.open()
        self._parts.push_async_callback(default.close)
        instances = N8nInstances(default, database, vault, networks)
        self._parts.push_async_callback(instances.close)
        metrics.N8N_CIRCUITS_OPEN.set_function(
            lambda: sum(circuit is not Circuit.CLOSED for circuit in instances.circuits().values())
        )
        return default, instances

    def _authenticate(self, keys: SigningKeys, api_keys: ApiKeys, n8n_secrets: OwnN8nSecrets) -> Authenticate:
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
        default = PlatformToken(_plain(settings.platform_token), otherwise=default)
        internal = InternalSecret(settings.n8n_internal_auth_secret.get_secret_value(), n8n_secrets)
        return Authenticate(default, {_HEALTH.type_name: None, _INTERNAL.type_name: internal})

    async def _database(self) -> tuple[Database, dict[str, Check]]:
        settings = self._settings
        if settings.database_url is not None:
            direct = PostgresDatabase(
                settings.database_url.get_secret_value(),
                max_connections=settings.database_max_connections,
                pooled=settings.database_pooled,
                may_bypass_rls=settings.environment is not Environment.PRODUCTION,
            )
            metrics.watch(metrics.DATABASE_CONNECTIONS, direct.connections)
            await check_database(direct, settings)
            return direct, {Part.DATABASE: Check(direct.ping, "direct")}
        rest = SupabaseDatabase(
            settings.supabase_url or "",
            anon_key=_plain(settings.supabase_anon_key),
            service_role_key=_plain(settings.supabase_service_role_key),
            jwt_secret=_plain(settings.supabase_jwt_secret) or None,
        )
        return rest, {
            Part.DATABASE: Check(rest.ping, "supabase-rest"),
            "api_keys": Check(rest.check_signing, "supabase-rest"),
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
                max_connections=settings.grpc_max_connections,
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
        tls = self._tls()
        grace = settings.shutdown_grace_seconds
        http = self._http = HttpServer(application, grace=grace, bounds=bounds, tls=tls.http if tls else None)
        self._parts.push_async_callback(lambda: self._close_doors(http, grpc_door))
        self.grpc_port = await grpc_door.start(settings.host, settings.grpc_port, tls.grpc() if tls else None)
        self.http_port = await http.start(settings.host, settings.http_port)
        if settings.metrics_port is not None:
            watchers = HttpServer(metrics_application(), grace=1)
            self._parts.push_async_callback(watchers.stop)
            self.metrics_port = await watchers.start(settings.metrics_host, settings.metrics_port)
        self._parts.callback(health.drain)
        log.info("serving", http_port=self.http_port, grpc_port=self.grpc_port)

    def _tls(self) -> Tls | None:
        settings = self._settings
        if settings.tls_cert_file is None or settings.tls_key_file is None:
            return None
        tls = Tls(TlsFiles(settings.tls_cert_file, settings.tls_key_file, settings.grpc_client_ca_file))
        tls.start()
        self._parts.push_async_callback(tls.close)
        return tls

    async def _close_doors(self, http: HttpServer, grpc_door: GrpcDoor) -> None:
        await asyncio.gather(http.stop(), grpc_door.stop(self._grace_left()))


def _plain(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
