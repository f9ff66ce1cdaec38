"""A time after which something is done about a connection, put off as often as it lives on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class Alarm:
    """Rings when a time is over. To put that time off, as every request does, costs no timer."""

    __slots__ = ("_loop", "_on_ring", "_timer", "_timer_at", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_ring: Callable[[], None]) -> None:
        self._loop = loop
        self._on_ring = on_ring
        self._when = self._timer_at = inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Ring in `seconds` from now, and not when it was set to before."""
        self._when = self._loop.time() + seconds
        if self._when < self._timer_at:
            self._start()

    def clear(self) -> None:
        """Do not ring."""
        self._when = inf

    def close(self) -> None:
        """Never ring again."""
        self._when = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._when
        self._timer = self._loop.call_at(self._when, self._look)

    def _look(self) -> None:
        self._timer, self._timer_at = None, inf
        if self._when <= self._loop.time():
            self._when = inf
            self._on_ring()
        elif self._when < inf:
            self._start()
