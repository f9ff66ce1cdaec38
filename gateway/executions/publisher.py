"""Publishes the logs of this replica's runs, so that every replica can read them.

A log with readers is published at once, and shown to them as soon as it is; of many that change at one time,
all go in one round trip. A log that nobody reads here is published a little later, and one that has ended by
then not at all, where what is stored of its run says the same (`Publication.whole`): a short Execute costs
nothing.

Without Redis nobody waits: events are shown here at once, and published when Redis is back, under the same
sequences. What the log could not keep until then is missing in the stream, which its readers notice. Not so
for a run that another replica may have taken up meanwhile, and given these sequences to other events.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from gateway.adapters.redis.event_streams import Batch
from gateway.executions.lease_clock import lease_clock
from gateway.executions.log import EventLog
from gateway.rpc.errors import Unavailable
from gateway.rpc.periodic import stop

log = structlog.get_logger("gateway.executions")

QUIET_SECONDS = 0.1
"""How long events that nobody reads here may stay unpublished."""
BATCH_BYTES = 128 << 10
"""Of an entry, unless a single event is larger."""
FLUSH_BATCHES = 64
"""Entries in one round trip."""
KEPT_HERE_BYTES = 1 << 20
"""What is kept here of events that are published: a reader further behind than this reads from Redis."""
CROWDED_BYTES = 8 << 20
"""What may wait to be published of one run, before it has to wait itself; never while Redis is away."""
LEFT_OVER_BYTES = 64 << 20
"""What is kept of runs that ended while Redis was away, for when it is back."""
RETRY_SECONDS = 0.5

_TURN_SECONDS = 0.01


def _nothing() -> None:
    return


class Streams(Protocol):
    """Where logs are published; see `gateway.adapters.redis.event_streams`."""

    async def claim(self, writer: str, execution_id: str) -> int:
        """Become the one that writes; the sequence of the newest event. Raises Unavailable."""
        ...

    async def append(self, writer: str, batches: Sequence[Batch]) -> list[int | None]:
        """How many replicas follow each run, None where another one writes. Raises Unavailable."""
        ...


class Publication:
    """One log on its way to the streams.

    `lost` is called when another replica has taken the run over, `ended` when there is no more to publish.
    `awaited` is one whose readers may be waiting elsewhere since before it began: it is always published.
    """

    def __init__(
        self,
        publisher: Publisher,
        execution_id: str,
        organization_id: str,
        *,
        after: int = 0,
        awaited: bool = False,
        lost: Callable[[], None] = _nothing,
        ended: Callable[[], None] = _nothing,
    ) -> None:
        self.log = EventLog(execution_id, after=after, changed=lambda: publisher.changed(self))
        self.whole = False
        """Set it before the end, if what is stored of the run tells all that its events do."""
        self.sure_until = math.inf
        """Until when, by `lease_clock`, no other replica has taken the run up."""
        self.lost = lost
        self.ended = ended
        self.followed = False
        self._publisher = publisher
        self._organization_id = organization_id
        self._published = after
        self._begun = awaited or after > 0

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to publish, now or later."""
        log = self.log
        if not log.is_closed:
            return False
        spared = self.whole and not self._begun and not log.readers
        return spared or log.is_abandoned or self._published == log.last

    @property
    def is_urgent(self) -> bool:
        """Whether somebody waits for its events."""
        return self.followed or self.log.readers > 0

    def show_alone(self) -> None:
        """Show what nobody else can read yet, unless its sequences may be others' by now."""
        if self.log.is_closed or lease_clock() < self.sure_until:
            self.log.show(self.log.last)
            # Who has read them here goes on elsewhere, under the same sequences.
            self._begun = self._begun or self.log.readers > 0

    async def room(self) -> None:
        """Wait while Redis takes events more slowly than they come: none is lost for that."""
        while self.log.size > CROWDED_BYTES and await self._publisher.flushed(self):
            pass

    def next_batch(self) -> Batch | None:
        """The events that come next, for one entry."""
        self.log.is_known = False
        events, end = self.log.kept_after(self._published, BATCH_BYTES)
        if not events:
            return None
        self._begun = True
        return Batch(self.log.execution_id, self._organization_id, events, end)

    def appended(self, batch: Batch, followers: int) -> None:
        """The batch can be read by everyone."""
        self._published = batch.last
        self.followed = followers > 0
        self.log.show(batch.last)
        self.log.trim(batch.end - KEPT_HERE_BYTES, batch.last)


class Publisher:
    """Publishes logs as `writer`. `start` it in the loop that uses it; `close` publishes what is left."""

    def __init__(self, streams: Streams, writer: str) -> None:
        self._streams = streams
        self._writer = writer
        self._waiting: dict[Publication, None] = {}
        self._quiet: dict[Publication, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._away = False
        self._turn: asyncio.Future[None] | None = None
        """Done when the round trip that is under way, or the next one, has been made or has failed."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Publish from now on."""
        self._task = asyncio.create_task(self._publish())

    async def close(self, grace: float) -> None:
        """Publish what is left, if that takes no longer than `grace` seconds."""
        self._waiting |= dict.fromkeys(self._quiet)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._waiting and not self._away:
                    self._wake.set()
                    await asyncio.sleep(_TURN_SECONDS)
        if self._timer is not None:
            self._timer.cancel()
        await stop(self._task)

    async def claim(self, execution_id: str) -> int:
        """Take over a run's stream; the sequence of its newest event, or 0. Raises Unavailable."""
        return await self._streams.claim(self._writer, execution_id)

    async def flushed(self, publication: Publication) -> bool:
        """Wait until more has been published; False while Redis is away."""
        if self._away:
            return False
        self._wait_for(publication)
        self._turn = self._turn or asyncio.get_running_loop().create_future()
        await asyncio.shield(self._turn)
        return not self._away

    def changed(self, publication: Publication) -> None:
        """A log has grown, has ended, or has got a reader."""
        if publication.is_over:
            self._end(publication)
            return
        publication.log.is_known = not self._away
        if self._away:
            publication.show_alone()
        if publication.is_urgent:
            self._wait_for(publication)
        elif publication not in self._waiting and publication not in self._quiet:
            loop = asyncio.get_running_loop()
            self._quiet[publication] = loop.time() + QUIET_SECONDS
            if self._timer is None:
                self._timer = loop.call_later(QUIET_SECONDS, self._ripen)

    def _wait_for(self, publication: Publication) -> None:
        self._quiet.pop(publication, None)
        self._waiting[publication] = None
        self._wake.set()

    def _end(self, publication: Publication) -> None:
        self._waiting.pop(publication, None)
        self._quiet.pop(publication, None)
        if not publication.log.is_abandoned:
            publication.log.show(publication.log.last)
        publication.ended()

    def _ripen(self) -> None:
        """Publish what has been quiet for long enough."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for publication, due in list(self._quiet.items()):
            if due > loop.time():
                self._timer = loop.call_at(due, self._ripen)
                break
            del self._quiet[publication]
            self._waiting[publication] = None
        self._wake.set()

    async def _publish(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while self._waiting:
                    await self._flush()
                    self._end_turn()
            except Exception as error:
                if not isinstance(error, Unavailable):
                    log.exception("events not published")
                self._go_on_alone()
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.set_result(None)
            self._turn = None

    async def _flush(self) -> None:
        """Append the next events of as many logs as fit into one round trip."""
        batches: dict[Publication, Batch] = {}
        for publication in list(self._waiting):
            batch = publication.next_batch()
            if batch is None:
                del self._waiting[publication]
                continue
            batches[publication] = batch
            if len(batches) == FLUSH_BATCHES:
                break
        if not batches:
            return
        answers = await self._streams.append(self._writer, list(batches.values()))
        if self._away:
            self._away = False
            log.info("events are published again")
        for (publication, batch), followers in zip(batches.items(), answers, strict=True):
            # To the end of the line, so that each gets its turn.
            self._waiting.pop(publication, None)
            if followers is None:
                publication.log.abandon()
                publication.lost()
            else:
                publication.appended(batch, followers)
                if publication.log.last > batch.last:
                    self._waiting[publication] = None
            if publication.is_over:
                self._end(publication)

    def _go_on_alone(self) -> None:
        """Redis is away: nobody here waits for it."""
        if not self._away:
            log.warning("events not published", runs=len(self._waiting))
        self._away = True
        self._waiting |= dict.fromkeys(self._quiet)
        self._quiet.clear()
        left_over = 0
        for publication in reversed(list(self._waiting)):
            publication.log.is_known = False
            publication.show_alone()
            if publication.log.is_closed:
                left_over += publication.log.size
                if left_over > LEFT_OVER_BYTES:
                    log.warning("events given up", execution_id=publication.log.execution_id)
                    self._end(publication)
        self._end_turn()
