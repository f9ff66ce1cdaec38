"""Runs that wait to be sent to n8n, in Redis: what they are to be sent, and whose turn it is.

The database says which runs wait and who runs them; this is only where replicas find them, so nothing here is
lost for good and a run may be in it twice. Turns go round: the organization that was not served for longest
comes first, and of its runs that wait for nothing else the oldest one.

    run:<id>                         what to send, with its organization and workflow
    ring                             organizations with runs, by when they were last served
    lane:<organization>:<workflow>   ids of its runs, which order by time
    heads:<organization>             the first id of each lane, with its workflow, but of those that rest
    rests:<organization>             until when workflows wait, because a limit was reached
    kept                             bytes to send, by the hour in which they were stored
    kept:<organization>              of these, an organization's
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.adapters.redis.availability import within
from gateway.rpc.errors import ResourceExhausted

if TYPE_CHECKING:
    from redis.asyncio import Redis

CHANNEL = "n8n-gateway:queue"
"""Where the id of an organization is told when one of its runs may be taken."""
KEPT_SECONDS = 25 * 3600
"""What is to be sent is kept for longer than a run can wait."""
RUN_BYTES = 512
"""What a run takes in Redis beside what it is to be sent."""
CALL_SECONDS = 2.0

_FULL_SECONDS = 5.0
_WOKEN_AT_ONCE = 64
"""Lanes whose rest ends in one call, because Redis does nothing else meanwhile: about half a millisecond."""
_PREFIX = "n8n-gateway:{queue}:"
_TIME = """
local P, now = KEYS[1], redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
"""

# ARGV: id, organization, workflow, what to send, seconds to keep, most bytes, bytes of a run. Answers whether
# there is room: an organization may keep as much as is left then. What nobody drops is counted for as long as
# it is kept.
_STORE = (
    _TIME
    + """
local run, all, own = P .. 'run:' .. ARGV[1], P .. 'kept', P .. 'kept:' .. ARGV[2]
local hour = math.floor(now / 3600000)
local function kept(key)
    local hours, sum = redis.call('HGETALL', key), 0
    for i = 1, #hours, 2 do
        if tonumber(hours[i]) < hour - math.ceil(ARGV[5] / 3600) then
            redis.call('HDEL', key, hours[i])
        else
            sum = sum + hours[i + 1]
        end
    end
    return sum
end
local more = #ARGV[4] - redis.call('HSTRLEN', run, 'data')
local known = redis.call('HGET', run, 'hour')
if not known then more = more + ARGV[7] end
if more > 0 and kept(own) + more > ARGV[6] - kept(all) - more then return 0 end
local stored = known or hour
redis.call('HSET', run, 'organization', ARGV[2], 'workflow', ARGV[3], 'data', ARGV[4], 'hour', stored)
redis.call('EXPIRE', run, ARGV[5])
for _, key in ipairs({all, own}) do
    redis.call('HINCRBY', key, stored, more)
    redis.call('EXPIRE', key, ARGV[5] + 3600)
end
return 1
"""
)

# ARGV: id, bytes of a run.
_DROP = """
local P = KEYS[1]
local run = P .. 'run:' .. ARGV[1]
local known = redis.call('HMGET', run, 'organization', 'hour')
if known[2] then
    local less = -redis.call('HSTRLEN', run, 'data') - ARGV[2]
    for _, key in ipairs({P .. 'kept', P .. 'kept:' .. known[1]}) do
        if redis.call('HINCRBY', key, known[2], less) <= 0 then redis.call('HDEL', key, known[2]) end
    end
end
redis.call('DEL', run)
"""

# A lane is either among the heads, by its first run, or it rests: of however many, a call looks at few.
_LANES = (
    _TIME
    + """
local function lane(organization, workflow) return P .. 'lane:' .. organization .. ':' .. workflow end
local function first(organization, workflow)
    return redis.call('ZRANGE', lane(organization, workflow), 0, 0)[1]
end
local function show(organization, workflow)
    local id = first(organization, workflow)
    if id then redis.call('ZADD', P .. 'heads:' .. organization, 0, id .. ' ' .. workflow) end
end
local function hide(organization, workflow)
    local id = first(organization, workflow)
    if id then redis.call('ZREM', P .. 'heads:' .. organization, id .. ' ' .. workflow) end
end
"""
)

# ARGV: id, milliseconds to rest, channel. Answers whether what is to be sent is known.
_ENQUEUE = (
    _LANES
    + """
local run = redis.call('HMGET', P .. 'run:' .. ARGV[1], 'organization', 'workflow')
local organization, workflow = run[1], run[2]
if not organization then return 0 end
hide(organization, workflow)
redis.call('ZADD', lane(organization, workflow), 0, ARGV[1])
redis.call('ZADD', P .. 'ring', 'NX', redis.call('GET', P .. 'turn') or 0, organization)
if tonumber(ARGV[2]) > 0 then
    redis.call('ZADD', P .. 'rests:' .. organization, now + ARGV[2], workflow)
    return 1
end
if not redis.call('ZSCORE', P .. 'rests:' .. organization, workflow) then show(organization, workflow) end
redis.call('PUBLISH', ARGV[3], organization)
return 1
"""
)

# ARGV: most lanes whose rest ends now, organizations to leave out. Answers id, organization and what is to
# be sent, or nil.
_TAKE = (
    _LANES
    + """
local left_out = {}
for index = 2, #ARGV do left_out[ARGV[index]] = true end
for _, organization in ipairs(redis.call('ZRANGE', P .. 'ring', 0, -1)) do
    if not left_out[organization] then
        local heads, rests = P .. 'heads:' .. organization, P .. 'rests:' .. organization
        for _, workflow in ipairs(redis.call('ZRANGEBYSCORE', rests, '-inf', now, 'LIMIT', 0, ARGV[1])) do
            redis.call('ZREM', rests, workflow)
            show(organization, workflow)
        end
        local head = redis.call('ZRANGE', heads, 0, 0)[1]
        if head then
            local id, workflow = string.match(head, '^(%S+) (.*)$')
            redis.call('ZADD', P .. 'ring', redis.call('INCR', P .. 'turn'), organization)
            redis.call('ZREM', heads, head)
            redis.call('ZREM', lane(organization, workflow), id)
            show(organization, workflow)
            if redis.call('EXISTS', heads, rests) == 0 then redis.call('ZREM', P .. 'ring', organization) end
            return {id, organization, redis.call('HGET', P .. 'run:' .. id, 'data') or ''}
        elseif redis.call('EXISTS', rests) == 0 then
            redis.call('ZREM', P .. 'ring', organization)
        end
    end
end
return nil
"""
)

# ARGV: organization, channel. Answers whether it has runs that wait.
_RELEASE = """
local P = KEYS[1]
local rests = P .. 'rests:' .. ARGV[1]
redis.call('ZUNIONSTORE', rests, 1, rests, 'WEIGHTS', 0)
if not redis.call('ZSCORE', P .. 'ring', ARGV[1]) then return 0 end
redis.call('PUBLISH', ARGV[2], ARGV[1])
return 1
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """A run that is this replica's to start; `data` is empty when what is to be sent is no longer known."""

    execution_id: str
    organization_id: str
    data: bytes = field(repr=False)


class RunQueue:
    """The queue of all replicas, where `most_bytes` wait at most to be sent.

    An organization keeps no more than is left for others: half of it while it is alone, and there is always
    room for one that comes later. Failure: every method raises Unavailable, within CALL_SECONDS.
    """

    def __init__(self, redis: Redis, most_bytes: int) -> None:
        self._redis = redis
        self._most_bytes = most_bytes
        self._store = redis.register_script(_STORE)
        self._drop = redis.register_script(_DROP)
        self._enqueue = redis.register_script(_ENQUEUE)
        self._take = redis.register_script(_TAKE)
        self._release = redis.register_script(_RELEASE)

    async def check(self) -> None:
        """Raises Unavailable while there is no queue."""
        async with within(CALL_SECONDS):
            await self._redis.ping()

    async def store(self, execution_id: str, organization_id: str, workflow_id: str, data: bytes) -> None:
        """Keep what a run is to be sent. Raises ResourceExhausted when there is no room for more."""
        arguments = (
            execution_id,
            organization_id,
            workflow_id,
            data,
            KEPT_SECONDS,
            self._most_bytes,
            RUN_BYTES,
        )
        if not await self._run(self._store, *arguments):
            raise ResourceExhausted(
                "As much waits to be sent for the organization as may: try again when some of it has been.",
                reason="QUEUE_FULL",
                metadata={"limit_bytes": str(self._most_bytes)},
                retry_after=_FULL_SECONDS,
            )

    async def drop(self, execution_id: str) -> None:
        """Forget what a run is to be sent."""
        await self._run(self._drop, execution_id, RUN_BYTES)

    async def enqueue(self, execution_id: str, *, rest_ms: int = 0) -> bool:
        """Let a stored run wait for its turn, its workflow for so long; False when it is not stored."""
        return bool(await self._run(self._enqueue, execution_id, rest_ms, CHANNEL))

    async def take(self, left_out: Collection[str] = ()) -> Taken | None:
        """The next run, of another organization than those; None when there is none."""
        found = await self._run(self._take, _WOKEN_AT_ONCE, *left_out)
        return found and Taken(found[0].decode(), found[1].decode(), found[2])

    async def release(self, organization_id: str) -> bool:
        """End the rests of an organization; False when none of its runs wait."""
        return bool(await self._run(self._release, organization_id, CHANNEL))

    async def organizations(self) -> set[str]:
        """Those whose runs wait."""
        async with within(CALL_SECONDS):
            found: Any = await self._redis.zrange(f"{_PREFIX}ring", 0, -1)
        return {member.decode() for member in found}

    async def _run(self, script: Any, *arguments: str | int | bytes) -> Any:
        async with within(CALL_SECONDS):
            return await script(keys=[_PREFIX], args=arguments)
