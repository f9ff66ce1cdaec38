"""Noticing clients that go away, at no cost for the requests that are answered at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

_PERIOD: Final = 0.02
"""Seconds between two looks; a request is watched after one to two of them."""


class ClientWatch:
    """Starts to watch the clients of requests that have been running for a while.

    Watching takes a task, which costs more than most requests do. So requests
    are only noted here, and one timer goes over those that are still there.
    """

    def __init__(self) -> None:
        self._new: set[Callable[[], None]] = set()
        self._old: set[Callable[[], None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, start: Callable[[], None]) -> None:
        """Call `start` if it is not discarded within two periods."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # The first request, or requests left over from a loop that is gone.
            self._old, self._new = set(), set()
            self._loop = loop
            loop.call_later(_PERIOD, self._look)
        self._new.add(start)

    def discard(self, start: Callable[[], None]) -> None:
        """The request is done."""
        self._new.discard(start)
        self._old.discard(start)

    def _look(self) -> None:
        due, self._old, self._new = self._old, self._new, set()
        for start in due:
            start()
        if self._old and self._loop is not None:
            self._loop.call_later(_PERIOD, self._look)
        else:
            self._loop = None
