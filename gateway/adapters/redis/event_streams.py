"""Events of runs in Redis Streams, where every replica can read them.

One stream a run, kept for an hour after its last event. An entry holds several events, each as four bytes
of length and an ExecutionEvent; its id is `{sequence of the last}-{sequence of the first}`, so that a reader
finds its place by sequence and notices what is missing.

Beside it stands who writes the stream, and how far it has come. Another writer takes over by a claim; from
then on what the former one appends is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gateway import metrics
from gateway.adapters.redis.availability import within
from gateway.adapters.redis.script import RedisScript
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
_ALL = "n8n-gateway:events:all:"

RUN_BYTES = 6 << 10
"""What the keys of a run take in Redis beside its events."""
ENTRY_BYTES = 128
RUN_MOST_BYTES = 16 << 20
"""What Redis keeps of a run."""

# KEYS: stream, writer, what all runs take (a prefix). ARGV: writer, first, last, events, organization, run,
# seconds to keep, channel, what to tell there, most bytes of a run, most bytes of all runs.
# Answers how many were listening (-1 where another one writes the stream), how many runs' events were
# dropped to make room, and the bytes that all take, or -1 where they were not counted anew.
#
# What all runs take: bytes (run -> what it may take, 'all' -> their sum), organizations (by their sums), and
# when each run was last counted: ages, and runs:<organization>. A run is counted ahead, so that few appends
# do it: `held` is what it may take until it is counted again, `size` what it takes.
_APPEND = f"""
local RUN, ENTRY, STEP = {RUN_BYTES}, {ENTRY_BYTES}, 16384
local stream, state, P = KEYS[1], KEYS[2], KEYS[3]
local organization, run, kept, most = ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[11])
local known = redis.call('HMGET', state, 'writer', 'last', 'size', 'held')
if known[1] and known[1] ~= ARGV[1] then return {{-1, 0, -1}} end
if tonumber(ARGV[3]) <= tonumber(known[2] or 0) then return {{0, 0, -1}} end

local cost, held = #ARGV[4] + ENTRY, tonumber(known[4] or 0)
local size, dropped, all = tonumber(known[3] or RUN) + cost, 0, -1
while size > tonumber(ARGV[10]) do
    local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    if not oldest then break end
    redis.call('XDEL', stream, oldest[1])
    size = size - #oldest[2][2] - ENTRY
end

local is_end = ARGV[9] == '{ENDED.decode()}'
if size > held or is_end then
    local now = redis.call('TIME')
    now = now[1] * 1000000 + now[2]
    local me = organization .. '/' .. run

    local function count(member, owner, taken)
        local change = taken - (redis.call('HGET', P .. 'bytes', member) or 0)
        if taken > 0 then
            redis.call('HSET', P .. 'bytes', member, taken)
        else
            redis.call('HDEL', P .. 'bytes', member)
        end
        if tonumber(redis.call('ZINCRBY', P .. 'organizations', change, owner)) <= 0 then
            redis.call('ZREM', P .. 'organizations', owner)
        end
        all = redis.call('HINCRBY', P .. 'bytes', 'all', change)
    end
    local function forget(member, owner, its)
        count(member, owner, 0)
        redis.call('ZREM', P .. 'ages', member)
        redis.call('ZREM', P .. 'runs:' .. owner, its)
    end
    local function key_of(its, name)
        return 'n8n-gateway:{{' .. its .. '}}:' .. name
    end

    -- More than one in each turn, so that none stays for long after its stream has gone.
    local gone = redis.call('ZRANGEBYSCORE', P .. 'ages', '-inf', now - kept * 1000000, 'LIMIT', 0, 10)
    for _, member in ipairs(gone) do
        local owner, its = string.match(member, '^([^/]*)/(.*)$')
        local left = redis.call('PTTL', key_of(its, 'events'))
        if left > 0 then
            redis.call('ZADD', P .. 'ages', now - kept * 1000000 + left * 1000, member)
        else
            forget(member, owner, its)
        end
    end

    held = is_end and size or size + STEP
    count(me, organization, held)
    redis.call('ZADD', P .. 'ages', now, me)
    redis.call('ZADD', P .. 'runs:' .. organization, now, run)

    -- Of the organization that takes most, what has not grown for longest goes first.
    local is_bare = false
    while all > most do
        local owner, its
        for _, candidate in ipairs(redis.call('ZREVRANGE', P .. 'organizations', 0, 1)) do
            local oldest = redis.call('ZRANGE', P .. 'runs:' .. candidate, 0, 0)[1]
            if oldest and not (is_bare and oldest == run) then
                owner, its = candidate, oldest
                break
            end
        end
        if not its then break end
        redis.call('DEL', key_of(its, 'events'))
        dropped = dropped + 1
        if its == run then
            is_bare, size = true, RUN + cost
            held = is_end and size or size + STEP
            count(me, organization, held)
        else
            if redis.call('EXISTS', key_of(its, 'writer')) == 1 then
                redis.call('HSET', key_of(its, 'writer'), 'size', RUN, 'held', 0)
            end
            forget(owner .. '/' .. its, owner, its)
        end
    end
    for _, name in ipairs({{'bytes', 'ages', 'organizations', 'runs:' .. organization}}) do
        redis.call('EXPIRE', P .. name, 2 * kept)
    end
end

redis.call('XADD', stream, ARGV[3] .. '-' .. ARGV[2], 'e', ARGV[4])
redis.call('HSET', state, 'writer', ARGV[1], 'last', ARGV[3], 'size', size, 'held', held)
redis.call('EXPIRE', stream, kept)
redis.call('EXPIRE', state, kept)
return {{redis.call('PUBLISH', ARGV[8], ARGV[9]), dropped, all}}
"""

# KEYS: writer. ARGV: writer, seconds to keep. Answers the last sequence.
_CLAIM = """
redis.call('HSET', KEYS[1], 'writer', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return tonumber(redis.call('HGET', KEYS[1], 'last') or 0)
"""


class Told(Protocol):
    """What an event tells."""

    @property
    def field(self) -> str:
        """Which of the kinds of an ExecutionEvent it is."""


class Event(Protocol):
    """An ExecutionEvent, or what is printed and read as one."""

    @property
    def sequence(self) -> int:
        """Its place in the stream."""

    @property
    def event(self) -> Told | None:
        """What it tells."""

    def to_binary(self) -> bytes:
        """The message."""


class Batch(NamedTuple):
    """Events for one entry, up to the byte `end` of their log."""

    execution_id: str
    organization_id: str
    events: Sequence[Event]
    end: int = 0

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
    """The streams of all runs, which take at most `most_bytes` of Redis together.

    Of a run the newest RUN_MOST_BYTES are kept. When all of them take too much, the organization that takes
    most gives way: its run that has not grown for longest loses the events published so far.

    Failure: every method raises Unavailable, within CALL_SECONDS.
    """

    def __init__(self, redis: Redis, most_bytes: int = 256 << 20) -> None:
        self._redis = redis
        self._most_bytes = most_bytes
        self._append = RedisScript(redis, _APPEND)

    async def close(self) -> None:
        """End the connection that events are appended on."""
        await self._append.close()

    async def append(self, writer: str, batches: Sequence[Batch]) -> list[int | None]:
        """Append each batch to its run's stream, in one round trip.

        The answers are how many replicas follow the run, None where another one writes its stream. A batch
        whose fate is unknown can be sent again, with more behind it.
        """
        async with within(CALL_SECONDS):
            answers = await self._append.run_all([self._call(writer, batch) for batch in batches])
        for _, dropped, all_bytes in answers:
            if all_bytes >= 0:
                metrics.EVENTS_BYTES.set(all_bytes)
                metrics.EVENTS_DROPPED.inc(dropped)
        return [None if listening < 0 else listening for listening, _, _ in answers]

    async def claim(self, writer: str, execution_id: str) -> int:
        """Become the one that writes a run's stream; the answer is the sequence of its newest event, or 0."""
        async with within(CALL_SECONDS):
            answer = await self._redis.eval(_CLAIM, 1, _writer_key(execution_id), writer, KEPT_SECONDS)
        return int(answer)

    async def read(self, execution_id: str, after: int) -> list[ExecutionEvent]:
        """The next events above a sequence, not always all, in order; a gap is what is no longer kept."""
        async with within(CALL_SECONDS):
            entries: Any = await self._redis.xrange(
                _stream_key(execution_id), min=f"{after + 1}-0", max="+", count=PAGE_ENTRIES
            )
        events: list[ExecutionEvent] = []
        for _, fields in entries:
            for event in unpacked(fields[b"e"]):
                # An entry that was sent again may hold what the one before it holds.
                if event.sequence > after:
                    after = event.sequence
                    events.append(event)
        return events

    async def progress(self, execution_id: str) -> Progress:
        """How far a run's stream has come; of one that is not there, Progress()."""
        async with within(CALL_SECONDS):
            found: Any = await self._redis.hmget(_writer_key(execution_id), ["writer", "last"])
        writer, last = found
        return Progress((writer or b"").decode(), int(last or 0))

    async def beat(self, writer: str, seconds: int) -> None:
        """Tell that a writer lives, and goes on living for so long unless it tells otherwise."""
        async with within(CALL_SECONDS):
            await self._redis.set(_life_key(writer), b"1", ex=seconds)

    async def is_alive(self, writer: str) -> bool:
        """Whether a writer has told so lately."""
        async with within(CALL_SECONDS):
            return bool(await self._redis.exists(_life_key(writer)))

    def _call(self, writer: str, batch: Batch) -> tuple[tuple[str, ...], tuple[int | str | bytes, ...]]:
        run = batch.execution_id
        return (_stream_key(run), _writer_key(run), _ALL), (
            writer,
            batch.events[0].sequence,
            batch.last,
            packed(batch.events),
            batch.organization_id,
            run,
            KEPT_SECONDS,
            channel_of(run),
            ENDED if is_end(batch.events[-1]) else GROWN,
            RUN_MOST_BYTES,
            self._most_bytes,
        )


def is_end(event: Event) -> bool:
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


def packed(events: Sequence[Event]) -> bytes:
    """Events as an entry has them."""
    printed = [event.to_binary() for event in events]
    return b"".join([part for data in printed for part in (_LENGTH.pack(len(data)), data)])


def unpacked(data: bytes) -> Iterator[ExecutionEvent]:
    """The events of an entry."""
    position = 0
    while position < len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        yield ExecutionEvent.from_binary(data[position : position + length])
        position += length
