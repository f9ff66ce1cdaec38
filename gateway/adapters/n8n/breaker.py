"""A circuit breaker for one n8n: calls that would only wait for what is away fail at once.

::

    CLOSED --- FAILURES calls in a row failed ---> OPEN --- its time is over ---> HALF_OPEN
       ^                                            ^                                |
       |                                            +--- n8n does not answer --------+
       +--------------------------------------------- n8n answers -------------------+

What fails is the instance, never a workflow: no connection, an answer of 502, 503 or 504 that is not a
workflow's, or no answer in time where n8n itself does not answer either. In HALF_OPEN a single question is
asked, and no run is risked for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

import structlog

log = structlog.get_logger("gateway.n8n")

FAILURES = 5
FIRST_OPEN_SECONDS = 1.0
LONGEST_OPEN_SECONDS = 30.0


class Circuit(Enum):
    """Whether calls get through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Counts failures; `answers` asks n8n whether it is there, and `report` is told what was found."""

    def __init__(
        self,
        answers: Callable[[], Awaitable[bool]],
        report: Callable[[bool], None] = lambda _is_there: None,
    ) -> None:
        self._answers = answers
        self._report = report
        self._failures = 0
        self._open_seconds = 0.0
        self._open_until = 0.0
        self.circuit = Circuit.CLOSED

    async def admit(self) -> float:
        """Give 0 when a call may go ahead, else the seconds after which to try again."""
        if self.circuit is Circuit.CLOSED:
            return 0.0
        left = self._open_until - asyncio.get_running_loop().time()
        if self.circuit is Circuit.HALF_OPEN or left > 0:
            return max(left, FIRST_OPEN_SECONDS)
        self.circuit = Circuit.HALF_OPEN
        try:
            is_there = await self._answers()
        except BaseException:
            self.circuit = Circuit.OPEN
            raise
        if is_there:
            self.succeeded()
            return 0.0
        self.open()
        return self._open_seconds

    def succeeded(self) -> None:
        """Note that n8n has answered."""
        self._failures = 0
        self._report(True)
        if self.circuit is not Circuit.CLOSED:
            self.circuit = Circuit.CLOSED
            self._open_seconds = 0.0
            log.info("n8n answers again")

    def failed(self) -> None:
        """Note that a call failed for n8n's sake."""
        self._failures += 1
        if self._failures >= FAILURES and self.circuit is Circuit.CLOSED:
            self.open()

    def open(self) -> None:
        """Let no call through for a while, twice as long as the time before."""
        self._open_seconds = min(max(self._open_seconds * 2, FIRST_OPEN_SECONDS), LONGEST_OPEN_SECONDS)
        self._open_until = asyncio.get_running_loop().time() + self._open_seconds
        self.circuit = Circuit.OPEN
        self._report(False)
        log.warning("n8n is away", failures=self._failures, seconds=self._open_seconds)
