"""Limits on strangers: how often one address may call, and how often it may fail to prove who it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING

import structlog

from gateway import metrics
from gateway.limits.addresses import network_of
from gateway.rpc.errors import Code, ResourceExhausted

if TYPE_CHECKING:
    from gateway.limits.addresses import AddressWindows
    from gateway.rpc.call import Call
    from gateway.rpc.errors import RpcError

log = structlog.get_logger("gateway.limits")

_CREDENTIALS = ("authorization", "x-api-key", "x-n8n-internal-auth", "x-platform-token")
_REMEMBERED = 10_000


class AddressLimit:
    """Refuses an address that calls too often, before anything is done for it.

    Services in `exempt` are for everyone at any time. A call without an address (through a Unix
    socket) comes from the operator's own machine.
    """

    def __init__(self, windows: AddressWindows, exempt: Collection[str]) -> None:
        self._windows = windows
        self._exempt = frozenset(exempt)

    async def __call__(self, call: Call) -> None:
        """Raises ResourceExhausted."""
        if not call.address or call.method.service in self._exempt:
            return
        standing = self._windows.standing(call.address)
        if standing.refused:
            metrics.TURNED_AWAY.labels("address").inc()
            raise ResourceExhausted(
                "Too many calls come from this address.",
                reason="ADDRESS_LIMIT_EXCEEDED",
                retry_after=standing.reset,
            )
        self._windows.count(call.address)


class FailedAuthentications:
    """Turns away an address whose credentials were refused too often, before more of them are looked at.

    Calls without credentials are none of its business. Credentials that have proved good are let through
    whatever their neighbours behind one address do. Nothing is written for an attempt: all are counted
    in a metric, and an address that comes to its limit is logged once a window.
    """

    def __init__(self, windows: AddressWindows) -> None:
        self._windows = windows
        self._good: OrderedDict[int, None] = OrderedDict()

    async def __call__(self, call: Call) -> None:
        """Raises ResourceExhausted."""
        credentials = _credentials(call)
        if not call.address or credentials is None or credentials in self._good:
            return
        standing = self._windows.standing(call.address)
        if standing.refused:
            metrics.TURNED_AWAY.labels("failed_authentications").inc()
            raise ResourceExhausted(
                "Too many credentials from this address were refused.",
                reason="TOO_MANY_FAILED_AUTHENTICATIONS",
                retry_after=standing.reset,
            )

    def observe(self, call: Call, outcome: RpcError | None) -> None:
        """Learn what became of a call's credentials."""
        credentials = _credentials(call)
        if not call.address or credentials is None:
            return
        if outcome is not None and outcome.code is Code.UNAUTHENTICATED:
            self._good.pop(credentials, None)
            if self._windows.count(call.address) == self._windows.requests:
                log.warning(
                    "credentials refused again and again",
                    address=network_of(call.address),
                    times=self._windows.requests,
                    seconds=self._windows.seconds,
                )
        elif call.principal is not None:
            self._good[credentials] = None
            self._good.move_to_end(credentials)
            if len(self._good) > _REMEMBERED:
                self._good.popitem(last=False)


def _credentials(call: Call) -> int | None:
    """What stands for the credentials of a call in memory; None without any."""
    given = tuple([call.metadata.get(name) for name in _CREDENTIALS])
    return hash(given) if any(given) else None
