"""Readers at another replica than a run's, while a real Valkey takes nothing from anybody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from protobuf import Oneof
from redis.asyncio import Redis

from gateway.adapters.redis.channels import Channels
from gateway.adapters.redis.event_streams import EventStreams
from gateway.executions import watch as module
from gateway.executions.ending import Endings
from gateway.executions.peers import Peers
from gateway.executions.publisher import Publication, Publisher
from gateway.executions.run import Job, Run
from gateway.executions.stored import Stored
from gateway.executions.tasks import Tasks
from gateway.executions.unpublished import Unpublished
from gateway.executions.watch import Watcher
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionChunk
from gateway.gen.n8ngateway.v1.execution_pb import Execution, ExecutionState
from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.local.valkey import LocalValkey
from gateway.rpc.errors import OutOfRange
from tests.executions.test_watch import END, RUN, TEXT

if TYPE_CHECKING:
    from gateway.adapters.database import Json
    from gateway.executions.event import Told
    from gateway.rpc.principal import Principal

HERE, ELSEWHERE = "here", "elsewhere"
CHANNELS = [f"n8n-gateway:replica:{name}" for name in (HERE, ELSEWHERE)]
OUTPUT = 2000
"""Events: more than an answer has room for."""
LONG: Told = Oneof("chunk", ExecutionChunk(content=Oneof("text", "x" * 100)))


class KnowsRunner:
    """Implements `Database` for a run of HERE."""

    async def call(self, function: str, _principal: Principal | None, /, **_arguments: Json) -> str:
        assert function == "find_runner"
        return json.dumps({"runner": HERE})

    async def ping(self) -> None:
        return

    async def close(self) -> None:
        return


class Replica:
    """What a replica reads runs with."""

    def __init__(self, name: str, redis: Redis, runs: Mapping[str, Run]) -> None:
        database = KnowsRunner()
        self.streams, self.channels = EventStreams(redis), Channels(redis)
        self.peers = Peers(self.channels, name, Tasks())
        unpublished = Unpublished(database, runs, self.peers)
        endings = Endings(database, self.streams, name)
        self.watcher = Watcher(runs, self.streams, self.channels, endings, unpublished)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    async with LocalValkey(tmp_path) as valkey, Redis.from_url(valkey.url) as connected:
        yield connected


@pytest.fixture
def runs() -> dict[str, Run]:
    return {}


@pytest.fixture
async def elsewhere(
    redis: Redis, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replica]:
    """A replica beside HERE, which has the runs."""
    monkeypatch.setattr(module, "TAIL_SECONDS", 0.5)
    async with AsyncExitStack() as stack:
        replicas = [Replica(HERE, redis, runs), Replica(ELSEWHERE, redis, {})]
        for replica in replicas:
            replica.channels.start()
            stack.push_async_callback(replica.streams.close)
            stack.push_async_callback(replica.channels.close)
            stack.enter_context(replica.peers.listen())
        async with asyncio.timeout(60):
            while not all(count for _, count in await redis.pubsub_numsub(*CHANNELS)):  # noqa: ASYNC110
                await asyncio.sleep(0)
        yield replicas[1]


async def failed() -> Stored:
    """As it is stored: without what it had put out."""
    execution = Execution(id=RUN, organization_id="tenant", state=ExecutionState.FAILED)
    execution.last_sequence = OUTPUT + 1
    return Stored(execution, 0)


async def read(replica: Replica, after: int) -> list[int]:
    async with aclosing(replica.watcher.watch(RUN, after, failed)) as batches:
        return [event.sequence async for batch in batches for event in batch]


async def test_what_a_full_redis_does_not_take_is_told_by_the_replica_that_has_it(
    elsewhere: Replica, redis: Redis, runs: dict[str, Run]
) -> None:
    streams = EventStreams(redis)
    publisher = Publisher(streams, HERE)
    over = asyncio.Event()
    run = Run(Job(RUN, Workflow(), 1, b"{}", ""), Publication(publisher, RUN, "tenant", ended=over.set))
    runs[RUN] = run
    await redis.config_set("maxmemory", 1)
    publisher.start()
    for _ in range(OUTPUT):
        run.log.append(LONG)
    run.log.append(END)
    run.log.close()
    assert await read(elsewhere, 0) == list(range(1, OUTPUT + 2))
    assert await read(elsewhere, 5) == list(range(6, OUTPUT + 2))
    assert await read(elsewhere, OUTPUT) == [OUTPUT + 1]
    assert await read(elsewhere, OUTPUT + 1) == []
    del runs[RUN]
    with pytest.raises(OutOfRange) as caught:
        await read(elsewhere, 5)
    assert caught.value.reason == "EVENTS_EXPIRED"
    assert not over.is_set()
    await redis.config_set("maxmemory", 0)
    await over.wait()
    assert await read(elsewhere, 5) == list(range(6, OUTPUT + 2))
    await publisher.close(1)
    await streams.close()


async def test_a_gap_is_told_by_nobody(elsewhere: Replica, redis: Redis, runs: dict[str, Run]) -> None:
    """The replica that has the run could not keep all of it."""
    publisher = Publisher(elsewhere.streams, HERE)
    run = Run(Job(RUN, Workflow(), 1, b"{}", ""), Publication(publisher, RUN, "tenant", after=OUTPUT - 1))
    runs[RUN] = run
    await redis.config_set("maxmemory", 1)
    run.log.append(TEXT)
    run.log.append(END)
    with pytest.raises(OutOfRange) as caught:
        await read(elsewhere, 5)
    assert caught.value.reason == "EVENTS_EXPIRED"
    assert await read(elsewhere, OUTPUT - 1) == [OUTPUT, OUTPUT + 1]
