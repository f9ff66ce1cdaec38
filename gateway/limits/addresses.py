"""Counting strangers by their address, in memory that does not grow with them."""

from __future__ import annotations

import secrets
import time
from array import array
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Network, ip_address

from gateway.rpc.quota import Standing

CELLS = 1 << 16
_REMEMBERED = 4096


class AddressWindows:
    """At most `requests` of one address in any window of `seconds`, each replica for itself.

    An address is a cell of two fixed tables, this window's and the last one's, found by a keyed hash: 512
    KiB, whoever calls. Addresses that meet in a cell share its quota; to fill the cells of others,
    somebody would have to spend a quota for each of them. An IPv6 address stands for its /64, which is
    what one customer of a provider has.
    """

    def __init__(self, requests: int, seconds: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.requests = requests
        self.seconds = seconds
        self._clock = clock
        self._key = secrets.randbits(64)
        self._window = 0
        self._current = self._previous = _empty()

    def standing(self, address: str) -> Standing:
        """Where the next call of an address stands. Counts nothing."""
        gone = self._turn()
        cell = self._cell(address)
        current, previous = self._current[cell], self._previous[cell]
        left = self.requests - current - previous * (1 - gone)
        if left >= 1:
            return Standing(int(left), (1 - gone) * self.seconds)
        after = self.requests - 1 - current
        wait = 1 - after / previous - gone if after >= 0 else 2 - gone - (self.requests - 1) / current
        return Standing(0, wait * self.seconds, refused=True)

    def count(self, address: str) -> int:
        """Count a call of an address; how many there are now in the running window."""
        self._turn()
        cell = self._cell(address)
        self._current[cell] += 1
        return self._current[cell]

    def _turn(self) -> float:
        """Come to the running window; the part of it that is gone."""
        window, gone = divmod(self._clock() / self.seconds, 1)
        if window != self._window:
            self._previous = self._current if window == self._window + 1 else _empty()
            self._current = _empty()
            self._window = int(window)
        return gone

    def _cell(self, address: str) -> int:
        return hash((self._key, network_of(address))) % CELLS


@lru_cache(_REMEMBERED)
def network_of(address: str) -> str:
    """The /64 of an IPv6 address; everything else as it is."""
    if ":" not in address:
        return address
    return str(IPv6Network((int(ip_address(address)), 64), strict=False))


def _empty() -> array[int]:
    return array("I", bytes(array("I").itemsize * CELLS))
