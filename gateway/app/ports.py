"""The doors, and where they listen."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import structlog

from gateway.doors.connect import ConnectDoor
from gateway.doors.grpc import Connections, GrpcDoor
from gateway.doors.http import Bounds, HttpServer, http_application
from gateway.doors.metrics import metrics_application
from gateway.doors.rest import RestDoor
from gateway.doors.tls import Tls, TlsFiles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack

    from starlette.types import ASGIApp

    from gateway.rpc.chain import Chain
    from gateway.rpc.methods import MethodTable
    from gateway.services.health import HealthService
    from gateway.settings import Settings

log = structlog.get_logger("gateway")

MAX_MESSAGE_BYTES = 4 << 20


class Ports:
    """The ports that the gateway serves once they are open; 0 before, and for one that is not wanted."""

    def __init__(self, settings: Settings, *, shared: bool) -> None:
        self._settings = settings
        self._shared = shared
        self._server: HttpServer | None = None
        self.http = self.grpc = self.metrics = 0

    async def died(self) -> BaseException | None:
        """Return when the HTTP port is served no longer, unasked, and why if that is known."""
        return None if self._server is None else await self._server.died()

    async def open(
        self,
        parts: AsyncExitStack,
        methods: MethodTable,
        chain: Chain,
        health: HealthService,
        grace_left: Callable[[], float],
    ) -> None:
        """Serve the methods behind the chain; `parts` closes the doors, after `health` has said so."""
        settings = self._settings
        tls = self._tls(parts)
        grpc_door = self._grpc_door(methods, chain, health)
        http = self._server = HttpServer(
            self._http_application(methods, chain),
            grace=settings.shutdown_grace_seconds,
            bounds=self._bounds(),
            tls=tls.http if tls else None,
            shares_port=self._shared,
        )
        parts.push_async_callback(lambda: _close(http, grpc_door, grace_left))
        credentials = tls.grpc() if tls else None
        opening = grpc_door.start(settings.host, settings.grpc_port, credentials)
        self.grpc = await _opened("GRPC_PORT", opening)
        self.http = await _opened("HTTP_PORT", http.start(settings.host, settings.http_port))
        if settings.metrics_port is not None:
            watchers = HttpServer(metrics_application(), grace=1)
            parts.push_async_callback(watchers.stop)
            self.metrics = await _opened(
                "METRICS_PORT", watchers.start(settings.metrics_host, settings.metrics_port)
            )
        parts.callback(health.drain)
        log.info("serving", http_port=self.http, grpc_port=self.grpc, pid=os.getpid())

    def _grpc_door(self, methods: MethodTable, chain: Chain, health: HealthService) -> GrpcDoor:
        settings = self._settings
        return GrpcDoor(
            methods,
            chain,
            max_message_bytes=MAX_MESSAGE_BYTES,
            connections=Connections(
                keepalive=settings.grpc_keepalive_seconds,
                max_age=settings.grpc_max_connection_age_seconds,
                max_concurrent_streams=settings.grpc_max_concurrent_streams,
                max_connections=settings.grpc_max_connections,
            ),
            is_ready=health.is_ready,
            channelz=settings.grpc_channelz,
            shares_port=self._shared,
        )

    def _http_application(self, methods: MethodTable, chain: Chain) -> ASGIApp:
        return http_application(
            ConnectDoor(methods, chain, max_message_bytes=MAX_MESSAGE_BYTES),
            RestDoor(methods, chain, max_message_bytes=MAX_MESSAGE_BYTES).application,
            services=[service.type_name for service in methods.services],
            cors_origins=self._settings.cors_origins,
            allowed_hosts=self._settings.served_hosts,
        )

    def _bounds(self) -> Bounds:
        settings = self._settings
        return Bounds(
            head_seconds=settings.http_header_timeout_seconds,
            body_seconds=settings.http_body_timeout_seconds,
            idle_seconds=settings.http_keepalive_seconds,
            connections=settings.http_max_connections,
        )

    def _tls(self, parts: AsyncExitStack) -> Tls | None:
        settings = self._settings
        if settings.tls_cert_file is None or settings.tls_key_file is None:
            return None
        tls = Tls(TlsFiles(settings.tls_cert_file, settings.tls_key_file, settings.grpc_client_ca_file))
        tls.start()
        parts.push_async_callback(tls.close)
        return tls


async def _opened(setting: str, opening: Awaitable[int]) -> int:
    """The port of a door that is being opened. Raises OSError that names the setting."""
    try:
        return await opening
    except OSError as error:
        raise OSError(f"{error}: choose another port with {setting}") from None


async def _close(http: HttpServer, grpc_door: GrpcDoor, grace_left: Callable[[], float]) -> None:
    await asyncio.gather(http.stop(), grpc_door.stop(grace_left()))
