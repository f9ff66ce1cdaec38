"""What was noticed about callers, on its way to the database: in bounds, and in nobody's way."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import structlog

from gateway.rpc.errors import RpcError, Unavailable
from gateway.rpc.periodic import Periodic

if TYPE_CHECKING:
    from gateway.adapters.database import Database, Json

BASELINE, SUSPICIOUS = "SECURITY_EVENT_STATUS_BASELINE", "SECURITY_EVENT_STATUS_SUSPICIOUS"

AGAIN_SECONDS = 60.0
"""What is the same is written at most that often."""
MOST = 10_000
"""Events of different kinds that are remembered; more are not told."""

_BATCH = 500
_PAUSE_SECONDS = 0.25
_CLOSE_SECONDS = 2.0

log = structlog.get_logger("gateway.security")


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """One call that was noticed, as n8ngateway.v1.SecurityEvent has it."""

    organization_id: str
    status: str
    subject_id: str
    session_id: str
    fingerprint: str
    action: str
    signals: tuple[str, ...]
    request_id: str

    @property
    def kind(self) -> tuple[str, ...]:
        """What calls have in common that are counted together."""
        return (
            self.organization_id,
            self.status,
            self.subject_id,
            self.session_id,
            self.fingerprint,
            self.action,
        )


@dataclass(slots=True)
class _Counted:
    """The first event of a kind, how many are not written yet, when the last was, and when they may be."""

    event: SecurityEvent
    count: int
    seen_at: float
    not_before: float

    def is_due(self, now: float) -> bool:
        """Whether there is something to write, and its time has come."""
        return self.count > 0 and (self.not_before <= now or self.event.status == BASELINE)


class SecurityLog(Periodic):
    """Writes events in the background: the first of a kind at once, the same ones once a minute, counted.

    A baseline is written at once each time: the last one of a subject is what others compare with.
    While the database is away they wait. When as many kinds wait as MOST, new ones are dropped, which is
    logged.
    """

    def __init__(
        self,
        database: Database,
        *,
        pause: float = _PAUSE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(log, "security events not written", retry=pause)
        self._database = database
        self._pause = pause
        self._clock = clock
        self._kinds: OrderedDict[tuple[str, ...], _Counted] = OrderedDict()
        self._dropped = 0

    async def close(self) -> None:
        """Write what is left, if the database takes it at once."""
        await super().close()
        for counted in self._kinds.values():
            counted.not_before = 0
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                while await self._write():
                    pass
        except TimeoutError:
            log.warning("security events lost", count=sum(c.count for c in self._kinds.values()))

    def record(self, event: SecurityEvent) -> None:
        """Take note of an event. Returns at once and never raises."""
        if not self._kinds:
            self.wake()
        counted, now = self._kinds.get(event.kind), self._clock()
        if counted is not None:
            counted.count += 1
            counted.seen_at = now
        elif len(self._kinds) < MOST:
            self._kinds[event.kind] = _Counted(event, 1, now, 0)
        else:
            self._dropped += 1

    async def turn(self) -> float | None:
        """Write what is due, and go on for as long as anything is remembered."""
        await self._write()
        return self._pause if self._kinds else None

    async def _write(self) -> bool:
        """Write a batch of those whose time has come. False when there is none, or the database is away."""
        self._forget()
        now = self._clock()
        due = [(c, c.count) for c in self._kinds.values() if c.is_due(now)][:_BATCH]
        if not due:
            return False
        try:
            rows = [_row(counted.event, count, now - counted.seen_at) for counted, count in due]
            await self._database.call("note_security_events", None, p_events=rows)
        except Unavailable:
            return False
        except RpcError as error:
            log.warning("security events not written", count=len(due), reason=error.reason)
        for counted, count in due:
            counted.count -= count
            counted.not_before = now + AGAIN_SECONDS
        return True

    def _forget(self) -> None:
        """Kinds of which nothing is to be written, and nothing was for a while."""
        now = self._clock()
        over = [kind for kind, c in self._kinds.items() if not c.count and c.not_before <= now]
        for kind in over:
            del self._kinds[kind]
        if self._dropped:
            log.warning("security events dropped", count=self._dropped)
            self._dropped = 0


def _row(event: SecurityEvent, count: int, age: float) -> dict[str, Json]:
    row = {name: value for name, value in asdict(event).items() if name != "signals"}
    texts = {name: text.replace("\0", "") for name, text in row.items()}  # which Postgres has no place for
    return {**texts, "signals": event.signals, "count": count, "age_seconds": age}
