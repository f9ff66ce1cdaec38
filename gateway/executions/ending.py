"""The last event of runs that end without a runner: cancelled as they wait, or left by a dead replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog
from protobuf.wkt import Timestamp

from gateway.adapters.redis.event_streams import Batch
from gateway.executions.stored import end_of, read_stored
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent
from gateway.rpc.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.adapters.database import Database

log = structlog.get_logger("gateway.executions")


class Streams(Protocol):
    """Where events are published: `gateway.adapters.redis.event_streams`. All methods raise Unavailable."""

    async def claim(self, writer: str, execution_id: str) -> int:
        """Become the one that writes."""
        ...

    async def append(self, writer: str, batches: Sequence[Batch]) -> list[int | None]:
        """Append each."""
        ...


class Endings:
    """Tells readers everywhere how a run has ended, as `writer`."""

    def __init__(self, database: Database, streams: Streams, writer: str) -> None:
        self._database = database
        self._streams = streams
        self._writer = writer

    async def tell(self, execution_id: str) -> None:
        """Publish the end of a run that the database has ended.

        Without Redis nobody is told: readers then find it in the database.
        """
        stored = read_stored(await self._database.call("get_execution", None, p_id=execution_id))
        organization_id = stored.execution.organization_id
        try:
            last = await self._streams.claim(self._writer, execution_id)
            end = ExecutionEvent(
                execution_id=execution_id,
                sequence=last + 1,
                time=stored.execution.finished_at or Timestamp.now(),
                event=end_of(stored.execution, stored.credits_remaining),
            )
            await self._streams.append(self._writer, [Batch(execution_id, organization_id, [end])])
        except Unavailable:
            log.warning("end of a run not published", execution_id=execution_id)
