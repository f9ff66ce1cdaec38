"""Start and stop of the whole gateway."""

from __future__ import annotations

import asyncio
import gc
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from gateway.app.callers import Callers
from gateway.app.ports import Ports
from gateway.app.services import Services
from gateway.app.start_checks import check_settings
from gateway.app.surroundings import Surroundings

if TYPE_CHECKING:
    from gateway.settings import Settings

_YOUNG = 10_000
"""So many more containers than were freed start a collection: those of some hundred calls under way."""


class Gateway:
    """The whole gateway in one process. `start` it, then `stop` it; the ports are known in between.

    With `shares_ports` other processes may serve on the same ports.
    """

    def __init__(self, settings: Settings, *, shares_ports: bool = False) -> None:
        self._settings = settings
        self._parts = AsyncExitStack()
        self._stop_by = 0.0
        self._ports = Ports(settings, shared=shares_ports)

    @property
    def http_port(self) -> int:
        """Where REST, Connect and gRPC-Web are served."""
        return self._ports.http

    @property
    def grpc_port(self) -> int:
        """Where gRPC is served."""
        return self._ports.grpc

    @property
    def metrics_port(self) -> int:
        """Where the metrics are served; 0 for nowhere."""
        return self._ports.metrics

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
        return await self._ports.died()

    def _grace_left(self) -> float:
        return max(0.0, self._stop_by - asyncio.get_running_loop().time())

    async def _start(self) -> None:
        settings, parts = self._settings, self._parts
        check_settings(settings)
        around = await Surroundings.enter(settings, parts)
        callers = Callers(settings, parts, around)
        services = Services(settings, parts, around, callers.changes, self._grace_left)
        methods = await services.methods()
        chain = callers.chain(methods)
        await self._ports.open(parts, methods, chain, services.health, self._grace_left)
        _settle_memory()


def _settle_memory() -> None:
    """Keep the collector from what is there to stay, which it would walk through again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
