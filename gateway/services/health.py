"""HealthService: whether the gateway lives, and whether it can serve."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from gateway.gen.n8ngateway.v1.health_service_pb import (
    Dependency,
    GetHealthRequest,
    GetHealthResponse,
    GetLivenessRequest,
    GetLivenessResponse,
    GetReadinessRequest,
    GetReadinessResponse,
)
from gateway.rpc.degraded import WITHOUT, Part
from gateway.rpc.errors import RpcError, Unavailable

if TYPE_CHECKING:
    from gateway.rpc.call import Call
    from gateway.rpc.degraded import Parts

log = structlog.get_logger("gateway")

CHECK_TIMEOUT_SECONDS = 2.0
FRESH_SECONDS = 1.0
"""How long an answer about readiness holds: strangers may ask as often as they like."""


@dataclass(frozen=True, slots=True)
class Check:
    """How one part is looked at: `probe` raises when it is away, and `mode` is how it is used otherwise."""

    probe: Callable[[], Awaitable[object]]
    mode: str


class HealthService:
    """Open to everyone; says nothing that a stranger should not know.

    The names of `checks` that are a Part's tell `parts` what they have found.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        parts: Parts,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = dict(sorted(checks.items()))
        self._parts = parts
        self._clock = clock
        self._draining = False
        self._looking: asyncio.Task[list[Dependency]] | None = None
        self._looked_at = float("-inf")
        self._changes = 0

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
        dependencies = await self._dependencies()
        if missing := _missing(dependencies):
            msg = f"Calls cannot be served without: {', '.join(missing)}."
            answer = GetReadinessResponse(status="unavailable", dependencies=dependencies)
            raise Unavailable(msg, reason="NOT_READY", retry_after=1, details=[answer])
        status = "degraded" if any(map(_is_away, dependencies)) else "ready"
        return GetReadinessResponse(status=status, dependencies=dependencies)

    async def is_ready(self) -> bool:
        """Whether calls can be served."""
        if self._draining:
            return False
        return not _missing(await self._dependencies())

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _dependencies(self) -> list[Dependency]:
        """What a look at every part has found; all who ask meanwhile share it.

        At most FRESH_SECONDS ago, and no part has gone or come back since.
        """
        is_old = self._clock() - self._looked_at >= FRESH_SECONDS or self._parts.changes != self._changes
        if self._looking is None or (self._looking.done() and is_old):
            self._looking = asyncio.create_task(self._look_at_all())
        return await asyncio.shield(self._looking)

    async def _look_at_all(self) -> list[Dependency]:
        found = await asyncio.gather(*(self._look(name, check) for name, check in self._checks.items()))
        self._looked_at, self._changes = self._clock(), self._parts.changes
        return found

    async def _look(self, name: str, check: Check) -> Dependency:
        started = time.monotonic()
        message = ""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await check.probe()
        except RpcError as error:
            message = error.message
        except (TimeoutError, OSError):
            message = "It does not answer."
        except Exception:
            log.exception("a part cannot be looked at", part=name)
            message = "It cannot be looked at."
        part = _part(name)
        if part is not None:
            self._parts.report(part, is_there=not message)
        return Dependency(
            name=name,
            status="unavailable" if message else "ok",
            latency_ms=round((time.monotonic() - started) * 1000),
            mode=WITHOUT[part].mode if part and message else check.mode,
            message=f"{message} {WITHOUT[part].effect}" if part and message else message,
        )


def _is_away(dependency: Dependency) -> bool:
    return dependency.status != "ok"


def _missing(dependencies: Iterable[Dependency]) -> list[str]:
    """The parts that are away without which calls cannot be served."""
    away = [dependency.name for dependency in dependencies if _is_away(dependency)]
    return [name for name in away if (part := _part(name)) and WITHOUT[part].stops_calls]


def _part(name: str) -> Part | None:
    return next((part for part in Part if part.value == name), None)
