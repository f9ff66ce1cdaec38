"""Events of runs in Redis Streams, where every replica can read them.

One stream a run, kept for an hour after its last event. An entry holds several events, each as four bytes
of length and an ExecutionEvent; its id is `{sequence of the last}-{sequence of the first}`, so that a reader
finds its place by sequence and notices what is missing.

Beside it stands who writes the stream, and how far it has come. Another writer takes over by a claim; from
then on what the former one appends is refused.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from gateway.adapters.redis import told, unavailable
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent

if TYPE_CHECKING:
    from redis.asyncio import Redis

KEPT_SECONDS = 3600
CALL_SECONDS = 2.0
"""How long Redis may take for an answer."""
PAGE_ENTRIES = 8
"""Entries that a reader takes at once."""

GROWN, ENDED = b"grown", b"ended"
"""What is told of a run's stream."""

_LENGTH = struct.Struct(">I")

# KEYS: stream, writer. ARGV: writer, first, last, events, first to keep, seconds to keep,
# channel, what to tell there.
# Answers how many were listening, -1 where another one writes the stream.
_APPEND = """
local known = redis.call('HMGET', KEYS[2], 'writer', 'last')
if known[1] and known[1] ~= ARGV[1] then return -1 end
local last = tonumber(known[2] or 0)
if tonumber(ARGV[3]) <= last then return 0 end
redis.call('XADD', KEYS[1], 'MINID', ARGV[5], ARGV[3] .. '-' .. ARGV[2], 'e', ARGV[4])
redis.call('HSET', KEYS[2], 'writer', ARGV[1], 'last', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('EXPIRE', KEYS[2], ARGV[6])
return redis.call('PUBLISH', ARGV[7], ARGV[8])
"""

# KEYS: writer. ARGV: writer, seconds to keep. Answers the last sequence.
_CLAIM = """
redis.call('HSET', KEYS[1], 'writer', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return tonumber(redis.call('HGET', KEYS[1], 'last') or 0)
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events for one entry, up to the byte `end` of their log; entries that end before `keep_from` may go."""

    execution_id: str
    events: Sequence[ExecutionEvent]
    end: int
    keep_from: int

    @property
    def last(self) -> int:
        """Sequence of the newest event."""
        return self.events[-1].sequence


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stream has come, and who writes it."""

    writer: str = ""
    last: int = 0


class EventStreams:
    """The streams of all runs. Failure: every method raises Unavailable, within CALL_SECONDS."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._append = ""

    async def append(self, writer: str, batches: Sequence[Batch]) -> list[int | None]:
        """Append each batch to its run's stream, in one round trip.

        The answers are how many replicas follow the run, None where another one writes its stream. A batch
        whose fate is unknown can be sent again, with more behind it.
        """
        with told():
            async with asyncio.timeout(CALL_SECONDS):
                answers = await self._send(writer, batches)
                if any(isinstance(answer, NoScriptError) for answer in answers):
                    self._append = ""
                    answers = await self._send(writer, batches)
        for answer in answers:
            if isinstance(answer, Exception):
                raise unavailable() from answer
        return [None if answer < 0 else answer for answer in answers]

    async def claim(self, writer: str, execution_id: str) -> int:
        """Become the one that writes a run's stream; the answer is the sequence of its newest event, or 0."""
        with told():
            async with asyncio.timeout(CALL_SECONDS):
                answer = await self._redis.eval(_CLAIM, 1, _writer_key(execution_id), writer, KEPT_SECONDS)
        return int(answer)

    async def read(self, execution_id: str, after: int) -> list[ExecutionEvent]:
        """The next events above a sequence, not always all, in order; a gap is what is no longer kept."""
        with told():
            async with asyncio.timeout(CALL_SECONDS):
                entries: Any = await self._redis.xrange(
                    _stream_key(execution_id), min=f"{after + 1}-0", max="+", count=PAGE_ENTRIES
                )
        events: list[ExecutionEvent] = []
        for _, fields in entries:
            for event in _unpacked(fields[b"e"]):
                # An entry that was sent again may hold what the one before it holds.
                if event.sequence > after:
                    after = event.sequence
                    events.append(event)
        return events

    async def progress(self, execution_id: str) -> Progress:
        """How far a run's stream has come; of one that is not there, Progress()."""
        with told():
            async with asyncio.timeout(CALL_SECONDS):
                found: Any = await self._redis.hmget(_writer_key(execution_id), ["writer", "last"])
        writer, last = found
        return Progress((writer or b"").decode(), int(last or 0))

    async def beat(self, writer: str, seconds: int) -> None:
        """Tell that a writer lives, and goes on living for so long unless it tells otherwise."""
        with told():
            async with asyncio.timeout(CALL_SECONDS):
                await self._redis.set(_life_key(writer), b"1", ex=seconds)

    async def is_alive(self, writer: str) -> bool:
        """Whether a writer has told so lately."""
        with told():
            async with asyncio.timeout(CALL_SECONDS):
                return bool(await self._redis.exists(_life_key(writer)))

    async def _send(self, writer: str, batches: Sequence[Batch]) -> list[Any]:
        if not self._append:
            self._append = await self._redis.script_load(_APPEND)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for batch in batches:
                run = batch.execution_id
                pipeline.evalsha(
                    self._append,
                    2,
                    _stream_key(run),
                    _writer_key(run),
                    writer,
                    batch.events[0].sequence,
                    batch.last,
                    _packed(batch.events),
                    batch.keep_from,
                    KEPT_SECONDS,
                    channel_of(run),
                    ENDED if is_end(batch.events[-1]) else GROWN,
                )
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers


def is_end(event: ExecutionEvent) -> bool:
    """Whether it is the last one of its run."""
    return event.event is not None and event.event.field in ("completed", "failed")


def channel_of(execution_id: str) -> str:
    """The channel on which each append to a run's stream is told."""
    return f"n8n-gateway:events:{execution_id}"


def _stream_key(execution_id: str) -> str:
    return f"n8n-gateway:{{{execution_id}}}:events"


def _life_key(writer: str) -> str:
    return f"n8n-gateway:writers:{writer}"


def _writer_key(execution_id: str) -> str:
    return f"n8n-gateway:{{{execution_id}}}:writer"


def _packed(events: Sequence[ExecutionEvent]) -> bytes:
    parts: list[bytes] = []
    for event in events:
        data = event.to_binary()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _unpacked(data: bytes) -> Iterator[ExecutionEvent]:
    position = 0
    while position < len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        yield ExecutionEvent.from_binary(data[position : position + length])
        position += length
