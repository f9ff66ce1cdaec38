"""Noticing clients that go away, at no cost for the requests that are answered at once."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

_PERIOD: Final = 0.02
"""Seconds between two looks; a request is watched after one to two of them."""


class Watched(Protocol):
    """A request that is being served."""

    def watch_client(self) -> None:
        """From now on, end the request when its client goes."""


class ClientWatch:
    """Starts to watch the clients of requests that have been running for a while.

    Watching takes a task, which costs more than most requests do. So requests
    are only noted here, and one timer goes over those that are still there.
    """

    def __init__(self) -> None:
        self._new: set[Watched] = set()
        self._old: set[Watched] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, request: Watched) -> None:
        """Watch the request's client if it is not discarded within two periods."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # The first request, or requests left over from a loop that is gone.
            self._old, self._new = set(), set()
            self._loop = loop
            loop.call_later(_PERIOD, self._look)
        self._new.add(request)

    def discard(self, request: Watched) -> None:
        """The request is done."""
        self._new.discard(request)
        self._old.discard(request)

    def _look(self) -> None:
        due, self._old, self._new = self._old, self._new, set()
        for request in due:
            request.watch_client()
        if self._old and self._loop is not None:
            self._loop.call_later(_PERIOD, self._look)
        else:
            self._loop = None
