"""Quotas: how many calls may be made in a time, and where a caller stands against them."""

from __future__ import annotations

from typing import NamedTuple


class Quota(NamedTuple):
    """At most `requests` in any window of `seconds`, counted under `key`.

    `policy` is the name that callers are shown: organization, caller, key, workflow or address.
    """

    policy: str
    key: str
    requests: int
    seconds: int


class Standing(NamedTuple):
    """Where a caller stands against one quota: calls that it still admits, and seconds until it admits more.

    `refused` says that this quota is why a call is not admitted.
    """

    remaining: int
    reset: float
    refused: bool = False


class Decision(NamedTuple):
    """What became of a call: the quotas and, in their order, the standings against them.

    A refused call has been counted by none of its quotas. `is_shared` says that all replicas count
    together; otherwise this process has decided by what it has seen itself.
    """

    quotas: tuple[Quota, ...]
    standings: tuple[Standing, ...]
    is_shared: bool

    @property
    def is_admitted(self) -> bool:
        """Whether no quota refuses."""
        return not any(standing.refused for standing in self.standings)
