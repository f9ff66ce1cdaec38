"""Sliding windows in the memory of this process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from gateway.rpc.quota import Standing

if TYPE_CHECKING:
    from gateway.rpc.quota import Quota

_SLOTS = 10
_KEPT = _SLOTS + 1
"""Slots that a window can touch."""
REMEMBERED = 10_000


class LocalWindows:
    """Counts calls in tenths of a window, all of a tenth that the window still touches.

    So no window ever holds more than its quota, and a call may have to wait for a tenth longer than an
    exact count would ask. One quota takes less than a kilobyte; those of the last `remembered` are known.
    """

    def __init__(self, *, remembered: int = REMEMBERED, clock: Callable[[], float] = time.monotonic) -> None:
        self._remembered = remembered
        self._clock = clock
        self._windows: OrderedDict[tuple[str, int], _Window] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def standings(self, quotas: Iterable[Quota], *, share: int = 1) -> tuple[Standing, ...]:
        """Where a call stands against the `share`-th part of each quota. Counts nothing."""
        now = self._clock()
        found = []
        for quota in quotas:
            limit = max(1, quota.requests // share)
            window = self._windows.get((quota.key, quota.seconds))
            if window is None:
                found.append(Standing(limit, quota.seconds))
                continue
            window.turn_to(_slot(now, quota.seconds))
            left = limit - window.total
            reset = window.until_less_by(max(1, 1 - left)) * quota.seconds / _SLOTS - now
            found.append(Standing(max(0, left), reset, left <= 0))
        return tuple(found)

    def forget(self, quota: Quota) -> int:
        """Begin a quota anew; how many calls were counted until now."""
        window = self._windows.pop((quota.key, quota.seconds), None)
        if window is None:
            return 0
        window.turn_to(_slot(self._clock(), quota.seconds))
        return window.total

    def count(self, quotas: Iterable[Quota], calls: int = 1) -> None:
        """Count a call, or several, by each of its quotas."""
        now = self._clock()
        for quota in quotas:
            key = quota.key, quota.seconds
            window = self._windows.get(key)
            if window is None:
                window = self._windows[key] = _Window()
                if len(self._windows) > self._remembered:
                    self._windows.popitem(last=False)
            else:
                self._windows.move_to_end(key)
            window.turn_to(_slot(now, quota.seconds))
            window.add(calls)


class _Window:
    """A ring of slots, and their sum."""

    __slots__ = ("_counts", "_slot", "total")

    def __init__(self) -> None:
        self._counts = [0] * _KEPT
        self._slot = 0
        self.total = 0

    def turn_to(self, slot: int) -> None:
        """Forget the slots that have left the window by now."""
        if slot <= self._slot:
            return
        for passed in range(max(self._slot + 1, slot - _SLOTS), slot + 1):
            self.total -= self._counts[passed % _KEPT]
            self._counts[passed % _KEPT] = 0
        self._slot = slot

    def add(self, calls: int) -> None:
        """Count so many more."""
        self._counts[self._slot % _KEPT] += calls
        self.total += calls

    def until_less_by(self, calls: int) -> int:
        """The slot from which on at least so many calls fewer are counted."""
        for slot in range(self._slot - _SLOTS, self._slot + 1):
            calls -= self._counts[slot % _KEPT]
            if calls <= 0:
                return slot + _KEPT
        return self._slot + _KEPT


def _slot(now: float, seconds: int) -> int:
    return int(now * _SLOTS / seconds)
