"""HealthService: whether the gateway lives, and whether it can serve."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from gateway.gen.n8ngateway.v1.health_service_pb import (
    Dependency,
    GetHealthRequest,
    GetHealthResponse,
    GetLivenessRequest,
    GetLivenessResponse,
    GetReadinessRequest,
    GetReadinessResponse,
)
from gateway.rpc.errors import RpcError, Unavailable

if TYPE_CHECKING:
    from gateway.rpc.call import Call

CHECK_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Check:
    """How one part is looked at: `probe` raises when it is away.

    Without a `needed` part nothing can be served; without another one, less.
    """

    probe: Callable[[], Awaitable[object]]
    mode: str
    needed: bool


class HealthService:
    """Open to everyone; says nothing that a stranger should not know."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(sorted(checks.items()))
        self._draining = False

    def drain(self) -> None:
        """From now on, not ready: the gateway is being stopped."""
        self._draining = True

    async def get_health(self, _request: GetHealthRequest, _call: Call) -> GetHealthResponse:
        """That the process answers."""
        return GetHealthResponse(status="healthy", version=version("n8n-gateway"))

    async def get_liveness(self, _request: GetLivenessRequest, _call: Call) -> GetLivenessResponse:
        """That the process need not be restarted."""
        return GetLivenessResponse(status="alive")

    async def get_readiness(self, _request: GetReadinessRequest, _call: Call) -> GetReadinessResponse:
        """What can be served. Raises Unavailable when calls cannot."""
        if self._draining:
            msg = "The gateway is shutting down."
            raise Unavailable(msg, reason="SHUTTING_DOWN", retry_after=1)
        dependencies = await asyncio.gather(*(_look(name, check) for name, check in self._checks.items()))
        away = [dependency.name for dependency in dependencies if dependency.status != "ok"]
        missing = [name for name in away if self._checks[name].needed]
        if missing:
            msg = f"Calls cannot be served without: {', '.join(missing)}."
            answer = GetReadinessResponse(status="unavailable", dependencies=dependencies)
            raise Unavailable(msg, reason="NOT_READY", retry_after=1, details=[answer])
        return GetReadinessResponse(status="degraded" if away else "ready", dependencies=dependencies)


async def _look(name: str, check: Check) -> Dependency:
    started = time.monotonic()
    status, message = "ok", ""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            await check.probe()
    except RpcError as error:
        status, message = "unavailable", error.message
    except (TimeoutError, OSError):
        status, message = "unavailable", "does not answer"
    latency_ms = round((time.monotonic() - started) * 1000)
    return Dependency(name=name, status=status, latency_ms=latency_ms, mode=check.mode, message=message)
