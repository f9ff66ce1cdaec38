"""The event log of one run: its runner appends, any number of readers follow.

Readers never slow the run. The log keeps the newest events up to a bound in bytes;
a reader that falls further behind is told so, rather than given a stream with a gap.
Nor does a reader keep more alive than a few events that it has taken out.

A log that is published (see `publisher`) shows an event to its readers once other
replicas can read it too: what a reader has seen is then there after the end of this
process, under the same sequence.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.executions.event import AtNode, Moment, NodeEvent
from gateway.executions.output import is_json, most_values
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent
from gateway.rpc.errors import OutOfRange

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from gateway.executions.event import Event, Told

DEFAULT_CAPACITY = 24 << 20
"""The largest document with as many values as it may have is in it."""
EVENT_BYTES = 1 << 9
"""What an event takes beside its content; without it, a run of tiny events would know no bound."""
VALUE_BYTES = 1 << 7
"""What each value of an event's JSON takes beside its text."""

TAKEN_AT_ONCE = 64
"""Events that a reader is given together, at most."""

_TAKEN_BYTES = 64 << 10


class EventLog:
    """Events of one execution in order, numbered from `after` + 1.

    `capacity` bounds what is kept, in bytes: content, EVENT_BYTES for each event, VALUE_BYTES for each value
    of its JSON.
    `changed` is told of events, of readers and of the end; it then has to `show` the events.
    Without it, events are shown at once.
    """

    def __init__(
        self,
        execution_id: str,
        *,
        capacity: int = DEFAULT_CAPACITY,
        after: int = 0,
        changed: Callable[[], None] | None = None,
    ) -> None:
        self.execution_id = execution_id
        self.last = after
        self.readers = 0
        self.is_known = False
        """Set by `changed` while it needs to be told of no more events."""
        self._capacity = capacity
        self._changed_hook = changed
        self._events: list[tuple[Event, int]] = []
        """Each with the bytes of all events up to its end."""
        self._start = self.end = 0
        self._shown = after
        self._is_closed = self._is_abandoned = False
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._waiting_for_end: dict[asyncio.Future[None], None] = {}

    def append(self, event: Told, content: str | bytes = b"") -> None:
        """Add an event, and tell its content."""
        self.extend([(event, content)])

    def extend(self, events: Iterable[tuple[Told | AtNode, str | bytes]]) -> None:
        """Add events of one moment, each with its content, for its length."""
        now, before = Moment.now(), self.last
        sequence, end = self.last, self.end
        for event, content in events:
            sequence += 1
            end += len(content) + EVENT_BYTES
            if not isinstance(event, AtNode) and event.field == "chunk" and is_json(event.value):
                end += VALUE_BYTES * most_values(content)
            self._events.append((self._placed(event, sequence, now), end))
        self.last, self.end = sequence, end
        if self.end - self._start > self._capacity:
            self.trim(self.end - self._capacity, self.last - 1)
        if self.last > before and not self.is_known:
            self._tell()

    def close(self) -> None:
        """Nothing more will come: readers end after the last event."""
        self._is_closed = True
        self._tell()
        self._end()

    def abandon(self) -> None:
        """Another replica goes on with the run: readers end where they are, and find the rest there."""
        self._is_closed = self._is_abandoned = True
        self._end()

    def show(self, sequence: int) -> None:
        """Let readers have the events up to this one."""
        if sequence > self._shown:
            self._shown = sequence
            _wake(self._waiting)

    def trim(self, start: int, up_to: int) -> None:
        """Let go of events up to the sequence `up_to` that begin before the byte `start` of the log."""
        gone = 0
        for event, end in self._events:
            if self._start >= start or event.sequence > up_to:
                break
            self._start = end
            gone += 1
        if gone:
            del self._events[:gone]

    @property
    def size(self) -> int:
        """What is kept, in bytes."""
        return self.end - self._start

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will come."""
        return self._is_closed

    @property
    def is_abandoned(self) -> bool:
        """Whether the rest is to be found at another replica."""
        return self._is_abandoned

    async def read(self, after: int = 0) -> AsyncGenerator[list[Event], None]:
        """Every event with a sequence above `after`, those together that are there, until the log is closed.

        Raises OutOfRange when an event that is still to be read is no longer kept.
        """
        self.readers += 1
        self._tell()
        try:
            while True:
                while after < self._shown:
                    events = self._since(after)
                    after = events[-1].sequence
                    yield events
                if self._is_abandoned or (self._is_closed and self._shown == self.last):
                    return
                await _woken(self._waiting)
        finally:
            self.readers -= 1

    def has_shown(self, after: int) -> bool:
        """Whether a reader who has the events up to this sequence need not wait for what comes next."""
        return after < self._shown or self.is_closed

    async def closed(self) -> None:
        """Wait until nothing more will come."""
        while not self._is_closed:
            await _woken(self._waiting_for_end)

    def kept_after(self, sequence: int, limit: int) -> tuple[list[Event], int]:
        """What is kept above `sequence`, and where it ends; `limit` bytes at most, but one event at least."""
        first = self.last - len(self._events) + 1
        begin = max(0, sequence + 1 - first)
        end = limit + (self._events[begin - 1][1] if begin else self._start)
        taken: list[Event] = []
        ended_at = end
        for at in range(begin, len(self._events)):
            event, event_end = self._events[at]
            if event_end > end and taken:
                break
            taken.append(event)
            ended_at = event_end
        return taken, ended_at

    def _placed(self, event: Told | AtNode, sequence: int, at: Moment) -> Event:
        if isinstance(event, AtNode):
            return NodeEvent(self.execution_id, sequence, at, event)
        return ExecutionEvent(
            execution_id=self.execution_id, sequence=sequence, time=at.timestamp, event=event
        )

    def _since(self, after: int) -> list[Event]:
        """The next events, though not all of them: a slow reader would keep them alive."""
        first = self.last - len(self._events) + 1
        if after + 1 < first:
            raise expired(first)
        start = after + 1 - first
        stop = min(start + TAKEN_AT_ONCE, self._shown - first + 1)
        most = _TAKEN_BYTES + self._events[start][1]
        taken = self._events[start:stop]
        return [event for event, end in taken if end <= most]

    def _tell(self) -> None:
        if self._changed_hook is None:
            self.show(self.last)
        else:
            self._changed_hook()

    def _end(self) -> None:
        _wake(self._waiting)
        _wake(self._waiting_for_end)


async def _woken(waiting: dict[asyncio.Future[None], None]) -> None:
    """What an asyncio.Event does, in a tenth of its memory: there are two for each run."""
    future = asyncio.get_running_loop().create_future()
    waiting[future] = None
    try:
        await future
    finally:
        del waiting[future]


def _wake(waiting: dict[asyncio.Future[None], None]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)


def expired(first_kept: int) -> OutOfRange:
    """Tells a reader that events which it has not read are gone."""
    msg = (
        f"Events up to {first_kept - 1} are no longer kept: the reader was too slow, or came too late. "
        "GetExecution has the outcome as soon as the run has ended."
    )
    return OutOfRange(msg, reason="EVENTS_EXPIRED", metadata={"first_kept": str(first_kept)})
