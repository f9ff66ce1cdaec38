"""What a reader is given of a run that is elsewhere, from the streams of a real Valkey."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from pathlib import Path

from protobuf import Oneof
from redis.asyncio import Redis

from gateway.adapters.event_streams import Batch, EventStreams
from gateway.executions.log import TAKEN_AT_ONCE
from gateway.executions.stored import Stored
from gateway.executions.watch import Watcher
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionChunk, ExecutionCompleted, ExecutionEvent
from gateway.gen.n8ngateway.v1.execution_pb import Execution, ExecutionState
from gateway.local.valkey import LocalValkey

RUN = "01936f5e-7c00-7000-8000-000000000001"
EVENTS = 1000


class Silent:
    """Channels on which nothing is told."""

    def listen(self, _channel: str, _handler: Callable[[bytes | None], None]) -> AbstractContextManager[None]:
        return nullcontext()


async def look() -> Stored:
    return Stored(Execution(id=RUN, state=ExecutionState.RUNNING), 0)


async def test_a_page_of_many_small_events_is_given_in_parts(tmp_path: Path) -> None:
    """What is encoded at one time keeps others waiting, and is held for a reader that is slow."""
    text = Oneof("chunk", ExecutionChunk(content=Oneof("text", "x")))
    events = [ExecutionEvent(execution_id=RUN, sequence=n, event=text) for n in range(1, EVENTS)]
    end = Oneof("completed", ExecutionCompleted())
    events.append(ExecutionEvent(execution_id=RUN, sequence=EVENTS, event=end))
    async with LocalValkey(tmp_path) as valkey, Redis.from_url(valkey.url) as redis:
        streams = EventStreams(redis)
        await streams.append("another replica", [Batch(RUN, "tenant", events)])
        async with aclosing(Watcher({}, streams, Silent()).watch(RUN, 0, look)) as batches:
            taken = [batch async for batch in batches]
        await streams.close()
    assert [event.sequence for batch in taken for event in batch] == list(range(1, EVENTS + 1))
    assert max(map(len, taken)) == TAKEN_AT_ONCE
