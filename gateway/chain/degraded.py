"""Tells callers which parts were away while their calls were served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.rpc.degraded import HEADER

if TYPE_CHECKING:
    from gateway.rpc.call import Call
    from gateway.rpc.degraded import Parts
    from gateway.rpc.errors import RpcError


class ShowDegraded:
    """Adds `Gateway-Degraded: part=mode, …` to answers, as their calls find things and as they leave them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __call__(self, call: Call) -> None:
        """Tell what is known when the call begins."""
        if self._parts.header:
            call.response_metadata.append((HEADER, self._parts.header))

    def observe(self, call: Call, _outcome: RpcError | None) -> None:
        """Tell what the call itself has found out; the headers of a stream have gone by then."""
        if self._parts.header and not any(name == HEADER for name, _ in call.response_metadata):
            call.response_metadata.append((HEADER, self._parts.header))
