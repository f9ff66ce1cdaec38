"""How many streams a tenant may have open at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.chain.rate_limit import tenant_of
from gateway.rpc.errors import ResourceExhausted
from gateway.transcoding.gen.google.rpc.error_details_pb import QuotaFailure

if TYPE_CHECKING:
    from gateway.limits.streams import OpenStreams
    from gateway.rpc.call import Call
    from gateway.rpc.errors import RpcError

_RETRY_SECONDS = 1.0


class StreamLimit:
    """Opens a place for each stream and closes it at the stream's end, however that comes.

    `most` is what a tenant may have open that has no number of its own.
    """

    def __init__(self, streams: OpenStreams, *, most: int) -> None:
        self._streams = streams
        self._most = most
        self._open: dict[int, tuple[str, str]] = {}

    async def __call__(self, call: Call) -> None:
        """Raises ResourceExhausted."""
        if not call.method.server_streaming or call.principal is None:
            return
        tenant = tenant_of(call)
        most = (call.policy.max_open_streams if call.policy else 0) or self._most
        name = await self._streams.open(tenant, most)
        if name is None:
            violation = QuotaFailure.Violation(subject=tenant, description=f"{most} streams open at a time")
            raise ResourceExhausted(
                f"As many streams are open as may be: {most}. Close one, or wait for one to end.",
                reason="OPEN_STREAMS_EXCEEDED",
                metadata={"limit": str(most)},
                retry_after=_RETRY_SECONDS,
                details=[QuotaFailure(violations=[violation])],
            )
        self._open[id(call)] = tenant, name

    def observe(self, call: Call, _outcome: RpcError | None) -> None:
        """Close the place of a stream that has ended."""
        place = self._open.pop(id(call), None)
        if place is not None:
            self._streams.close(*place)
