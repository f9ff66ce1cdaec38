"""What is known of callers, and the chain that each call passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gateway import logs
from gateway.adapters.clerk import ClerkTokens
from gateway.adapters.redis.baselines import RedisBaselines
from gateway.adapters.redis.changes import API_KEYS, N8N_INSTANCES, ORGANIZATIONS, Changes
from gateway.adapters.redis.leases import RedisLeases
from gateway.adapters.redis.nonces import Nonces
from gateway.adapters.redis.windows import RedisWindows
from gateway.chain.access_log import LOGGER, AccessLog
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
from gateway.limits.addresses import AddressWindows
from gateway.limits.limiter import Limiter
from gateway.limits.streams import OpenStreams
from gateway.rpc import api
from gateway.rpc.chain import Chain
from gateway.rpc.standing import Standing
from gateway.settings import plain

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from gateway.app.surroundings import Surroundings
    from gateway.chain.authenticate import Authenticator
    from gateway.rpc.methods import MethodTable
    from gateway.settings import Settings

log = structlog.get_logger("gateway")


class Callers:
    """What is remembered of callers; `changes` tells it, and other replicas, what to forget."""

    def __init__(self, settings: Settings, parts: AsyncExitStack, around: Surroundings) -> None:
        self._settings = settings
        self._parts = parts
        self._around = around
        self._n8n_secrets = OwnN8nSecrets(around.database, around.tokens.digest)
        self._api_keys = ApiKeys(around.database, around.vault)
        self._policies = Policies(around.database)
        for remembered in (self._n8n_secrets, self._api_keys, self._policies):
            parts.push_async_callback(remembered.close)
        self.changes = Changes(
            around.channels,
            {
                API_KEYS: self._api_keys.forget,
                ORGANIZATIONS: self._forget_organization,
                N8N_INSTANCES: self._forget_n8n,
            },
        )
        parts.enter_context(self.changes.listen())

    def chain(self, methods: MethodTable) -> Chain:
        """What every call passes, in this order."""
        settings, around = self._settings, self._around
        degraded = ShowDegraded(around.away)
        failures = FailedAuthentications(AddressWindows(*settings.rate_limit_failed_authentications))
        streams = self._stream_limit()
        standing = Standing([self._api_keys.still, self._policies.still])
        self._parts.push_async_callback(standing.close)
        return Chain(
            counted(establish_context),
            guards=[
                degraded,
                ClientAddress(settings.proxy_networks, settings.forwarded_header),
                *self._address_limit(),
                failures,
                self._authenticate(),
                self._policies,
                self._signatures(),
                *self._fingerprints(),
                *self._rate_limit(methods),
                Authorize(methods),
                Validate(methods),
                FirstSight(around.database),
                streams,
            ],
            observers=[
                failures.observe,
                streams.observe,
                degraded.observe,
                measure,
                AccessLog(logs.info_lines(LOGGER)),
            ],
            timeout=settings.request_timeout_seconds,
            standing=standing,
        )

    def _forget_organization(self, organization_id: str | None) -> None:
        self._api_keys.forget_organization(organization_id)
        self._policies.forget(organization_id)

    def _forget_n8n(self, organization_id: str | None) -> None:
        self._around.n8n_instances.forget(organization_id)
        self._n8n_secrets.forget(organization_id)

    def _authenticate(self) -> Authenticate:
        settings = self._settings
        tokens = ClerkTokens(
            self._around.keys,
            issuer=settings.clerk_jwt_issuer,
            audience=settings.clerk_audience,
            authorized_parties=settings.clerk_authorized_parties,
        )
        default: Authenticator = TokenOrKey(BearerToken(tokens.verify), self._api_keys)
        if settings.dev_skip_auth:
            log.warning("DEV_SKIP_AUTH is on: X-Dev-User-ID is believed")
            default = DevelopmentHeaders(otherwise=default)
        default = PlatformToken(plain(settings.platform_token), otherwise=default)
        internal = InternalSecret(plain(settings.n8n_internal_auth_secret), self._n8n_secrets)
        return Authenticate(default, {api.HEALTH.type_name: None, api.INTERNAL.type_name: internal})

    def _signatures(self) -> Signatures:
        return Signatures(
            self._api_keys.client_secrets,
            Nonces(self._around.redis).take,
            demand=self._settings.enable_hmac_validation,
            tolerance=self._settings.hmac_timestamp_tolerance,
        )

    def _fingerprints(self) -> list[Fingerprints]:
        settings, around = self._settings, self._around
        if not settings.enable_fingerprinting:
            return []
        events = SecurityLog(around.database)
        events.start()
        self._parts.push_async_callback(events.close)
        baselines = RedisBaselines(around.redis, around.replicas, timeout=settings.redis_timeout_seconds)
        fingerprints = Fingerprints(settings.fingerprint_secret, baselines, around.database, events.record)
        self._parts.push_async_callback(fingerprints.close)
        return [fingerprints]

    def _address_limit(self) -> list[AddressLimit]:
        rate = self._settings.rate_limit_per_address
        if rate is None or not self._settings.enable_rate_limiting:
            return []
        # Both are asked by machines that many depend on, and neither does much for a stranger.
        return [AddressLimit(AddressWindows(*rate), (api.HEALTH.type_name, api.INTERNAL.type_name))]

    def _rate_limit(self, methods: MethodTable) -> list[RateLimit]:
        settings, around = self._settings, self._around
        if not settings.enable_rate_limiting:
            return []
        windows = RedisWindows(around.redis, timeout=settings.redis_timeout_seconds)
        self._parts.push_async_callback(windows.close)
        rates = Rates(settings.limit, settings.rate_limit_per_workflow, settings.rate_limit_per_address)
        return [RateLimit(Limiter(windows, around.replicas), rates, methods)]

    def _stream_limit(self) -> StreamLimit:
        settings, around = self._settings, self._around
        leases = RedisLeases(around.redis, "n8n-gateway:streams:", timeout=settings.redis_timeout_seconds)
        self._parts.push_async_callback(leases.close)
        streams = OpenStreams(leases, around.replicas)
        around.replicas.after_beat.append(streams.renew)
        self._parts.push_async_callback(streams.drained)
        return StreamLimit(streams, most=settings.max_open_streams)
