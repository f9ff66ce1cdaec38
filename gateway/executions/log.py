"""The event log of one run: its runner appends, any number of readers follow.

Readers never slow the run. The log keeps the newest events up to a bound in bytes;
a reader that falls further behind is told so, rather than given a stream with a gap.
Nor does a reader keep more alive than a few events that it has taken out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Literal

from protobuf.wkt import Timestamp

from gateway.gen.n8ngateway.v1.execution_event_pb import (
    ExecutionChunk,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionStarted,
    NodeFinished,
    NodeStarted,
)
from gateway.rpc.errors import OutOfRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protobuf import Oneof

    Event = (
        Oneof[Literal["started"], ExecutionStarted]
        | Oneof[Literal["node_started"], NodeStarted]
        | Oneof[Literal["chunk"], ExecutionChunk]
        | Oneof[Literal["node_finished"], NodeFinished]
        | Oneof[Literal["failed"], ExecutionFailed]
        | Oneof[Literal["completed"], ExecutionCompleted]
    )

DEFAULT_CAPACITY = 16 << 20
EVENT_BYTES = 1 << 10
"""What an event takes beside its content; without it, a run of tiny events would know no bound."""

_TAKEN_AT_ONCE = 64


class EventLog:
    """Events of one execution in order, numbered from 1.

    `capacity` bounds what is kept, in bytes: content, and EVENT_BYTES for each event.
    """

    def __init__(self, execution_id: str, *, capacity: int = DEFAULT_CAPACITY) -> None:
        self._execution_id = execution_id
        self._capacity = capacity
        self._events: deque[tuple[ExecutionEvent, int]] = deque()
        self._size = 0
        self._last = 0
        self._closed = asyncio.Event()
        self._waiting: set[asyncio.Future[None]] = set()

    def append(self, event: Event, *, size: int = 0) -> None:
        """Add an event; `size` is the length of its content in bytes."""
        self._last += 1
        message = ExecutionEvent(
            execution_id=self._execution_id,
            sequence=self._last,
            time=Timestamp.now(),
            event=event,
        )
        size += EVENT_BYTES
        self._events.append((message, size))
        self._size += size
        while self._size > self._capacity and len(self._events) > 1:
            self._size -= self._events.popleft()[1]
        self._wake()

    def close(self) -> None:
        """Nothing more will come: readers end after the last event."""
        self._closed.set()
        self._wake()

    async def read(self, after: int = 0) -> AsyncGenerator[ExecutionEvent, None]:
        """Every event with a sequence above `after`, as they come, until the log is closed.

        Raises OutOfRange when an event that is still to be read is no longer kept.
        """
        while True:
            for event in self._since(after):
                after = event.sequence
                yield event
            if self._last > after:
                continue
            if self._closed.is_set():
                return
            await self._changed()

    async def closed(self) -> None:
        """Wait until nothing more will come."""
        await self._closed.wait()

    def _since(self, after: int) -> Sequence[ExecutionEvent]:
        """The next events, though not all of them: a slow reader would keep them alive."""
        if after >= self._last:
            return ()
        first = self._last - len(self._events) + 1
        if after + 1 < first:
            msg = f"Events up to {first - 1} are no longer kept: the reader was too slow, or came too late."
            raise OutOfRange(msg, reason="EVENTS_EXPIRED", metadata={"first_kept": str(first)})
        start = after + 1 - first
        end = min(start + _TAKEN_AT_ONCE, len(self._events))
        return [self._events[index][0] for index in range(start, end)]

    async def _changed(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
