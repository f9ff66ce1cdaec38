"""Readers of runs, wherever a run is: here, at another replica, or in what is stored of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import TYPE_CHECKING, Protocol

from gateway.adapters.redis.event_streams import ENDED, channel_of, is_end
from gateway.executions.log import TAKEN_AT_ONCE, expired
from gateway.executions.stored import beyond, end_event, has_ended, is_lost, outcome_events, tells_as_much
from gateway.gen.n8ngateway.v1.execution_pb import ExecutionState
from gateway.rpc.errors import OutOfRange, Unavailable

if TYPE_CHECKING:
    from gateway.adapters.redis.event_streams import Progress
    from gateway.executions.event import Event
    from gateway.executions.run import Run
    from gateway.executions.stored import Stored
    from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent

FIRST_LOOK_SECONDS = 0.3
"""After this long, a run without any event is asked about."""
FIRST_END_SECONDS = 0.05
"""After this long, a run that is waited for is asked about; then ever less often."""
LOOK_SECONDS = 5.0
"""So long a run may be silent before its reader asks whether its runner lives."""
TRUSTED_SECONDS = 30.0
"""So long it is asked no more than that: it may have lost the run, and who ended that have found no Redis."""
TAIL_SECONDS = 3.0
"""How long the last events of a run that has ended may be on their way."""


class Streams(Protocol):
    """Where others publish; see `gateway.adapters.redis.event_streams`. All methods raise Unavailable."""

    async def read(self, execution_id: str, after: int) -> list[ExecutionEvent]:
        """The next events."""
        ...

    async def progress(self, execution_id: str) -> Progress:
        """How far the stream has come."""
        ...

    async def is_alive(self, writer: str) -> bool:
        """Whether a runner has told so lately."""
        ...


class Endings(Protocol):
    """See `gateway.executions.ending`."""

    async def publish(self, execution_id: str) -> int:
        """Publish the end of a run without a runner; its sequence. Raises Unavailable."""
        ...


class Unpublished(Protocol):
    """See `gateway.executions.unpublished`."""

    async def read(self, execution_id: str, after: int) -> list[ExecutionEvent]:
        """The next events, from the replica that has the run."""
        ...


class Channels(Protocol):
    """See `gateway.adapters.redis.channels`."""

    def listen(self, channel: str, handler: Callable[[bytes | None], None]) -> AbstractContextManager[None]:
        """Call `handler` with what is published."""
        ...


class Watcher:
    """Reads runs out. `runs` are those that are under way in this process."""

    def __init__(
        self,
        runs: Mapping[str, Run],
        streams: Streams,
        channels: Channels,
        endings: Endings,
        unpublished: Unpublished,
    ) -> None:
        self._runs = runs
        self._streams = streams
        self._channels = channels
        self._endings = endings
        self._unpublished = unpublished

    async def newest(self, execution_id: str) -> int:
        """The sequence of a run's newest event, as far as that is known here."""
        run = self._runs.get(execution_id)
        if run is not None:
            return run.log.last
        try:
            return (await self._streams.progress(execution_id)).last
        except Unavailable:
            return 0

    async def end(self, execution_id: str, look: Callable[[], Awaitable[Stored]]) -> Stored:
        """Wait until a run has ended, here or elsewhere; `look` reads what is stored of it, and may raise."""
        ended = asyncio.Event()

        def hear(told: bytes | None) -> None:
            if told == ENDED:
                ended.set()

        run = self._runs.get(execution_id)
        if run is not None:
            await run.log.closed()
        patience = _Patience(FIRST_END_SECONDS)
        with self._channels.listen(channel_of(execution_id), hear):
            while True:
                stored = await look()
                if has_ended(stored.execution):
                    return stored
                ended.clear()
                await patience.wait(ended)

    async def watch(
        self,
        execution_id: str,
        after: int,
        look: Callable[[], Awaitable[Stored]],
        stored: Stored | None = None,
        *,
        announced: bool = False,
    ) -> AsyncGenerator[Sequence[Event], None]:
        """A run's events above a sequence, those to come included, to its `completed` or `failed`.

        Those that are there at one time come together, up to TAKEN_AT_ONCE; if there is none yet and
        `announced` is asked for, an empty batch comes first.

        `stored` is what is stored of the run now, and `look` reads it again. Raises what it raises,
        OutOfRange for a sequence beyond the newest and for events that are gone, Unavailable when neither
        the run nor Redis is here.
        """
        run = self._run(execution_id)
        if run is not None:
            if after > run.log.last:
                raise beyond(run.log.last)
            if announced and not run.log.has_shown(after):
                yield []
            last = None
            async with aclosing(run.log.read(after)) as batches:
                try:
                    async for batch in batches:
                        last = batch[-1]
                        after = last.sequence
                        yield batch
                except OutOfRange:
                    pass  # too far behind for this process: Redis keeps more
                else:
                    if not run.log.is_abandoned or (last is not None and is_end(last)):
                        run.check_settled()
                        return
            stored = None
        following = self._follow(
            execution_id, after, look, stored, announced=announced and run is None, lacks_end=run is not None
        )
        async with aclosing(following) as batches:
            async for events in batches:
                yield events

    def _run(self, execution_id: str) -> Run | None:
        """A run that is under way in this process, unless another replica goes on with it."""
        run = self._runs.get(execution_id)
        return None if run is None or run.log.is_abandoned else run

    async def _follow(
        self,
        execution_id: str,
        after: int,
        look: Callable[[], Awaitable[Stored]],
        stored: Stored | None,
        *,
        announced: bool,
        lacks_end: bool,
    ) -> AsyncGenerator[Sequence[Event], None]:
        """As `watch`, from the streams and from what is stored."""
        changed = asyncio.Event()
        with self._channels.listen(channel_of(execution_id), lambda _: changed.set()):
            stored = stored or await look()
            following = _Following(
                self._streams, self._endings, self._unpublished, stored, after, lacks_end=lacks_end
            )
            while not following.is_over:
                changed.clear()
                if events := await following.next(look):
                    for start in range(0, len(events), TAKEN_AT_ONCE):
                        yield events[start : start + TAKEN_AT_ONCE]
                elif announced and following.is_idle:
                    await following.check(look)
                    yield []
                announced = False
                if following.is_idle and not await following.patience.wait(changed):
                    await following.check(look)


class _Following:
    """One reader of a stream, who goes on with what is stored of the run where the stream ends.

    `lacks_end` tells of one who has read the run while it was under way: what they have had is not its end,
    whatever its number. Of others nobody knows.
    """

    def __init__(
        self,
        streams: Streams,
        endings: Endings,
        unpublished: Unpublished,
        stored: Stored,
        after: int,
        *,
        lacks_end: bool,
    ) -> None:
        self._streams = streams
        self._endings = endings
        self._unpublished = unpublished
        self._stored = stored
        self._after = after
        self._lacks_end = lacks_end
        self.patience = _Patience()
        self.is_over = False
        self.is_idle = False
        """Whether there was nothing to be had."""

    async def next(self, look: Callable[[], Awaitable[Stored]]) -> list[ExecutionEvent]:
        """The next events, if there are any. Raises OutOfRange when they are gone for good."""
        events = await self._read(look)
        if not events and has_ended(self._stored.execution):
            rest = await self._rest()
            events = rest or []
            if events:
                self._after = events[-1].sequence
            self.is_over = rest is not None and (not events or is_end(events[-1]))
        self._lacks_end = self._lacks_end or bool(events)
        self.is_idle = not (events or self.is_over)
        return events

    async def check(self, look: Callable[[], Awaitable[Stored]]) -> None:
        """Find out whether a silent run has ended. Raises OutOfRange when its next events are gone."""
        progress = await self._streams.progress(self._stored.execution.id)
        if has_ended(self._stored.execution):
            return
        if progress.last > self._after:
            if not await self._streams.read(self._stored.execution.id, self._after):
                await self._miss(progress.last + 1, look)  # to make room for others: see `event_streams`
            return
        if self.patience.is_trusting and progress.writer and await self._streams.is_alive(progress.writer):
            return
        self._stored = await look()
        self.patience.trust()
        if has_ended(self._stored.execution):
            self.patience.renew()

    async def _miss(self, first_kept: int, look: Callable[[], Awaitable[Stored]]) -> None:
        """Go on with the outcome where the next events are gone. Raises OutOfRange when that tells less."""
        if self._after <= 1 and not has_ended(self._stored.execution):
            self._stored = await look()
        execution = self._stored.execution
        if self._after > 1 or not has_ended(execution) or execution.result_truncated:
            raise expired(first_kept)
        self.patience.give_up()

    async def _read(self, look: Callable[[], Awaitable[Stored]]) -> list[ExecutionEvent]:
        try:
            events = await self._streams.read(self._stored.execution.id, self._after)
        except Unavailable:
            if not tells_as_much(self._stored.execution, self._after):
                raise  # what is to be read is not gone for that
            self.patience.give_up()
            return []
        for index, event in enumerate(events):
            if event.sequence != self._after + 1 + index:
                await self._miss(event.sequence, look)
                return []
        if events:
            self._after = events[-1].sequence
            self.is_over = is_end(events[-1])
            self.patience.renew()
        return events

    async def _rest(self) -> list[ExecutionEvent] | None:
        """What is to be told next of a run that has ended; None while its last events may be on their way."""
        execution = self._stored.execution
        if not execution.last_sequence:
            # Its runner has gone without a word, and who ended it may have found no Redis.
            execution.last_sequence = await self._endings.publish(execution.id)
        if execution.last_sequence <= self._after:
            return self._ended_before()
        is_told = tells_as_much(execution, self._after)
        try:
            published = (await self._streams.progress(execution.id)).last
        except Unavailable:
            if not is_told:
                raise
            published = 0
        if (published or not is_told) and self.patience.is_left:
            return None
        if not (is_told or is_lost(execution)) and published < execution.last_sequence:
            events = await self._unpublished.read(execution.id, self._after)
            if events:
                return events
        return list(outcome_events(execution, self._stored.credits_remaining, self._after))

    def _ended_before(self) -> list[ExecutionEvent]:
        """What is to be told of a run that has ended with no more events than this reader has had.

        Raises OutOfRange to who has had the end, and asks for more, or has missed a result.
        """
        execution, after = self._stored.execution, self._after
        if self._lacks_end and execution.state is ExecutionState.COMPLETED:
            raise expired(execution.last_sequence)  # another replica's events have the numbers of those read
        if self._lacks_end or (is_lost(execution) and execution.last_sequence < after):
            # The runner had told more than it could publish.
            return [end_event(execution, self._stored.credits_remaining, after + 1)]
        return list(outcome_events(execution, self._stored.credits_remaining, after))


class _Patience:
    """How long a reader waits for the next event before it looks what has become of the run."""

    def __init__(self, first: float = FIRST_LOOK_SECONDS) -> None:
        self._seconds = first
        self._until = time.monotonic() + TAIL_SECONDS
        self.trust()

    @property
    def is_trusting(self) -> bool:
        """Whether a runner that lives is taken to have the run still."""
        return time.monotonic() < self._trusted_until

    def trust(self) -> None:
        """It was there just now."""
        self._trusted_until = time.monotonic() + TRUSTED_SECONDS

    @property
    def is_left(self) -> bool:
        """Whether the last events of a run that has ended may still come."""
        return time.monotonic() < self._until

    def renew(self) -> None:
        """Something has come."""
        self._seconds = FIRST_LOOK_SECONDS
        self._until = time.monotonic() + TAIL_SECONDS
        self.trust()

    def give_up(self) -> None:
        """Nothing can come."""
        self._until = 0.0

    async def wait(self, changed: asyncio.Event) -> bool:
        """Wait for a change; False when none came."""
        try:
            async with asyncio.timeout(self._seconds):
                await changed.wait()
        except TimeoutError:
            self._seconds = min(self._seconds * 2, LOOK_SECONDS)
            return False
        return True
