"""The last event of runs that end without a runner: cancelled as they wait, or left by a dead replica."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import orjson
import structlog

from gateway.adapters.redis.availability import RedisFull
from gateway.adapters.redis.event_streams import Batch, is_end
from gateway.executions.stored import end_event, read_stored
from gateway.rpc.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.adapters.database import Database
    from gateway.adapters.redis.event_streams import Progress
    from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent

log = structlog.get_logger("gateway.executions")


class Streams(Protocol):
    """Where events are published: `gateway.adapters.redis.event_streams`. All methods raise Unavailable."""

    async def claim(self, writer: str, execution_id: str) -> int:
        """Become the one that writes. Raises RedisFull, too."""
        ...

    async def progress(self, execution_id: str) -> Progress:
        """How far the stream has come."""
        ...

    async def read(self, execution_id: str, after: int) -> list[ExecutionEvent]:
        """The next events."""
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

        Without Redis nobody is told: who reads the run when it is back publishes it then.
        """
        try:
            await self.publish(execution_id)
        except Unavailable:
            log.warning("end of a run not published", execution_id=execution_id)

    async def publish(self, execution_id: str) -> int:
        """Publish it; the answer is its sequence, which comes after all that was published before.

        It is kept with the run: whoever comes later gets the same, also where Redis is too full to take the
        end. Raises Unavailable.
        """
        last = await self._claimed(execution_id)
        if last and any(map(is_end, await self._streams.read(execution_id, last - 1))):
            return await self._numbered(execution_id, last)
        sequence = await self._numbered(execution_id, last + 1)
        stored = read_stored(await self._database.call("get_execution", None, p_id=execution_id))
        end = end_event(stored.execution, stored.credits_remaining, sequence)
        batch = Batch(execution_id, stored.execution.organization_id, [end])
        with contextlib.suppress(Unavailable):
            await self._streams.append(self._writer, [batch])
        return sequence

    async def _claimed(self, execution_id: str) -> int:
        """The sequence of the newest event, after which nobody publishes more."""
        try:
            return await self._streams.claim(self._writer, execution_id)
        except RedisFull:
            # Nor does it take more from who has written the stream so far. One that only took too long may.
            return (await self._streams.progress(execution_id)).last

    async def _numbered(self, execution_id: str, sequence: int) -> int:
        text = await self._database.call(
            "number_end", None, p_execution_id=execution_id, p_last_sequence=sequence
        )
        return int(orjson.loads(text)["last_sequence"])
