"""What the database was asked a moment ago, remembered for as long as it may be believed."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

FRESH_SECONDS = 5.0
"""How long an answer is believed without asking: the longest that a change can go unseen."""
REMEMBERED = 10_000


class Remembered(Generic[Key, Value]):
    """Asks once for what many want at a time, and believes the answer for `fresh` seconds.

    `ask` finds a value and may raise, which is not remembered. Values of which `keep` says no are remembered
    apart, the last `spare` of them, so that strangers cannot crowd out what others need. `forget` drops a
    value where somebody tells of a change.
    """

    def __init__(
        self,
        ask: Callable[[Key], Awaitable[Value]],
        *,
        keep: Callable[[Value], bool] = lambda _: True,
        spare: int = 0,
        fresh: float = FRESH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._fresh = fresh
        self._keep = keep
        self._clock = clock
        self._spare = spare
        self._known: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        self._others: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        self._asking: dict[Key, asyncio.Task[Value]] = {}

    def __len__(self) -> int:
        return len(self._known) + len(self._others)

    async def get(self, key: Key, *, ahead: float = 0.0) -> Value:
        """The value of a key, believed for `ahead` more seconds at least. Raises what `ask` raises."""
        for recent in (self._known, self._others):
            found = recent.get(key)
            if found is not None and self._clock() + ahead < found[0]:
                recent.move_to_end(key)
                return found[1]
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._find(key))
            asking.add_done_callback(_look_at)
        return await asyncio.shield(asking)

    def forget(self, key: Key | None = None) -> None:
        """Ask anew for a key at its next use; for every key when None."""
        if key is None:
            self._known.clear()
            self._others.clear()
            self._asking.clear()
        else:
            self._known.pop(key, None)
            self._others.pop(key, None)
            self._asking.pop(key, None)

    def forget_where(self, is_changed: Callable[[Key, Value], bool]) -> None:
        """Ask anew for all that `is_changed`, and for all that are being asked for."""
        for recent in (self._known, self._others):
            for key in [key for key, (_, value) in recent.items() if is_changed(key, value)]:
                del recent[key]
        self._asking.clear()

    async def close(self) -> None:
        """Wait for what is still being asked."""
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _find(self, key: Key) -> Value:
        task = asyncio.current_task()
        asked_at = self._clock()
        try:
            value = await self._ask(key)
            # Unless it was to be forgotten meanwhile: then the answer may be older than the change.
            if self._asking.get(key) is task:
                kept = self._keep(value)
                recent, size = (self._known, REMEMBERED) if kept else (self._others, self._spare)
                recent[key] = (asked_at + self._fresh, value)
                recent.move_to_end(key)
                if len(recent) > size:
                    recent.popitem(last=False)
            return value
        finally:
            if self._asking.get(key) is task:
                del self._asking[key]


def _look_at(task: asyncio.Task[Any]) -> None:
    """Whoever waited for the answer may be gone by now, and its error with it."""
    if not task.cancelled():
        task.exception()
