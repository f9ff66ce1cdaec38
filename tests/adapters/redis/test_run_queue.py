"""The queue of runs in a real Valkey: whose turn it is, and what is left of a run that nobody can send."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.adapters.redis.run_queue import CHANNEL, RUN_BYTES, RunQueue, Taken
from gateway.rpc.errors import ResourceExhausted, Unavailable


@pytest.fixture
def queue(redis: Redis) -> RunQueue:
    return RunQueue(redis, 1 << 20)


async def put(queue: RunQueue, *runs: str) -> None:
    """Queue runs named organization.workflow.number."""
    for run in runs:
        organization, workflow, _ = run.split(".")
        await queue.store(run, organization, workflow, run.encode())
        assert await queue.enqueue(run)


async def taken(queue: RunQueue, *left_out: str) -> list[str]:
    found = []
    while run := await queue.take(left_out):
        found.append(run.execution_id)
    return found


async def test_an_empty_queue_has_nothing(queue: RunQueue) -> None:
    assert await queue.take() is None
    assert await queue.organizations() == set()


async def test_a_run_comes_with_what_it_is_to_be_sent(queue: RunQueue) -> None:
    await put(queue, "a.w.1")
    assert await queue.organizations() == {"a"}
    assert await queue.take() == Taken("a.w.1", "a", b"a.w.1")
    assert await queue.take() is None
    assert await queue.organizations() == set()


async def test_one_tenant_s_thousands_do_not_starve_another_s_one(queue: RunQueue) -> None:
    await put(queue, *(f"a.w.{number:04}" for number in range(1000)))
    assert await queue.take() is not None
    await put(queue, "b.w.1", "c.w.1")
    assert {run.execution_id for run in [await queue.take() for _ in range(3)] if run} >= {"b.w.1", "c.w.1"}


async def store(queue: RunQueue, run: str, thousands: int) -> None:
    """Store a run named organization.workflow.number that takes so much in all."""
    organization, workflow, _ = run.split(".")
    await queue.store(run, organization, workflow, bytes(thousands * 1000 - RUN_BYTES))


async def refused(queue: RunQueue, run: str, thousands: int) -> None:
    with pytest.raises(ResourceExhausted) as caught:
        await store(queue, run, thousands)
    assert (caught.value.reason, caught.value.retry_after) == ("QUEUE_FULL", 5)
    assert caught.value.metadata == {"limit_bytes": "20000"}


async def test_an_organization_alone_takes_half_of_the_room(redis: Redis) -> None:
    queue = RunQueue(redis, 20_000)
    await store(queue, "a.w.1", 5)
    await store(queue, "a.w.2", 4)
    await refused(queue, "a.w.3", 2)
    await store(queue, "a.w.1", 6)  # in place of what it was
    await refused(queue, "a.w.3", 1)
    for _ in range(2):
        await queue.drop("a.w.1")
    await store(queue, "a.w.3", 6)
    await refused(queue, "a.w.4", 1)


async def test_there_is_room_for_who_comes_later_and_never_more_than_may_be(redis: Redis) -> None:
    queue = RunQueue(redis, 20_000)
    await store(queue, "a.w.1", 10)
    await store(queue, "b.w.1", 5)
    await refused(queue, "b.w.2", 1)
    await store(queue, "c.w.1", 2)
    await refused(queue, "c.w.2", 1)
    await store(queue, "d.w.1", 1)
    await store(queue, "a.w.1", 10)  # no more than it was
    await queue.drop("a.w.1")
    await store(queue, "b.w.2", 3)
    await refused(queue, "b.w.3", 2)


async def test_what_was_never_dropped_is_counted_no_longer_than_it_is_kept(redis: Redis) -> None:
    queue = RunQueue(redis, 20_000)
    await store(queue, "a.w.1", 10)
    for key in ("n8n-gateway:{queue}:kept", "n8n-gateway:{queue}:kept:a"):
        [(hour, held)] = (await redis.hgetall(key)).items()
        assert held == b"10000"
        await redis.delete(key)
        await redis.hset(key, str(int(hour) - 26), held)
    await store(queue, "a.w.2", 10)


async def test_runs_with_little_to_send_are_counted_for_what_they_take(queue: RunQueue, redis: Redis) -> None:
    organization, workflow, *runs = (str(uuid.uuid4()) for _ in range(502))
    used = (await redis.info("memory"))["used_memory"]
    for run in runs:
        await queue.store(run, organization, workflow, b"{}")
        await queue.enqueue(run)
    used = (await redis.info("memory"))["used_memory"] - used
    [counted] = await redis.hvals("n8n-gateway:{queue}:kept")
    assert used < 2 * int(counted)


async def test_turns_go_round(queue: RunQueue) -> None:
    await put(queue, "a.w.1", "a.w.2", "a.w.3", "b.w.1", "b.w.2", "c.w.1")
    found = await taken(queue)
    assert [run[0] for run in found] == ["a", "b", "c", "a", "b", "a"]


async def test_runs_of_an_organization_go_by_age_whatever_their_workflow(queue: RunQueue) -> None:
    await put(queue, "a.1.9", "a.2.5", "a.1.7", "a.2.8")
    # The ids of real runs begin with their time; here the workflow's name comes first.
    assert await taken(queue) == ["a.1.7", "a.1.9", "a.2.5", "a.2.8"]


async def test_a_run_is_in_the_queue_once(queue: RunQueue) -> None:
    await put(queue, "a.w.1")
    assert await queue.enqueue("a.w.1")
    assert await taken(queue) == ["a.w.1"]


async def test_a_workflow_rests_and_others_go_on(queue: RunQueue) -> None:
    await put(queue, "a.1.1", "a.1.2", "a.2.1")
    first = await queue.take()
    assert first is not None
    await queue.enqueue(first.execution_id, rest_ms=60_000)
    assert await taken(queue) == ["a.2.1"]
    assert await queue.release("a")
    assert await taken(queue) == ["a.1.1", "a.1.2"]
    assert not await queue.release("a")


async def test_however_many_workflows_have_runs_a_call_looks_at_few(queue: RunQueue, redis: Redis) -> None:
    """Redis does nothing else meanwhile, and counts everybody's calls."""
    runs = [f"a.{number:04}.1" for number in range(500)]
    await put(queue, *runs)

    async def commands() -> int:
        return sum(command["calls"] for command in (await redis.info("commandstats")).values())

    before = await commands()
    first = await queue.take()
    assert first is not None
    ready = await commands() - before
    for run in runs:
        await queue.enqueue(run, rest_ms=600_000)
    before = await commands()
    assert await queue.take() is None
    resting = await commands() - before
    assert max(ready, resting) < 20
    await queue.release("a")
    before = await commands()
    assert await queue.take() is not None
    assert await commands() - before < 300
    assert len(await taken(queue)) == len(runs) - 1


async def test_a_rest_ends_by_itself(queue: RunQueue) -> None:
    await put(queue, "a.1.1")
    await queue.enqueue("a.1.1", rest_ms=1)
    while not (run := await queue.take()):
        pass
    assert run.execution_id == "a.1.1"


async def test_who_has_enough_is_left_out(queue: RunQueue) -> None:
    await put(queue, "a.w.1", "b.w.1")
    assert await taken(queue, "a") == ["b.w.1"]
    assert await taken(queue) == ["a.w.1"]


async def test_what_is_not_stored_is_not_queued(queue: RunQueue) -> None:
    assert not await queue.enqueue("a.w.1")
    await put(queue, "a.w.1")
    await queue.drop("a.w.1")
    assert await queue.take() == Taken("a.w.1", "a", b"")


async def test_it_is_told_when_a_run_can_be_taken(queue: RunQueue, redis: Redis) -> None:
    async with redis.pubsub() as told:
        await told.subscribe(CHANNEL)
        await put(queue, "a.w.1")
        async for message in told.listen():
            if message["type"] == "message":
                assert message["data"] == b"a"
                break


async def test_nothing_stays_behind(queue: RunQueue, redis: Redis) -> None:
    await put(queue, "a.1.1", "a.2.1", "b.1.1")
    for run in await taken(queue):
        await queue.drop(run)
    assert await redis.keys("*") == [b"n8n-gateway:{queue}:turn"]


async def test_payloads_go_in_time(queue: RunQueue, redis: Redis) -> None:
    await put(queue, "a.w.1")
    [key] = await redis.keys("*run:a.w.1")
    assert 24 * 3600 < await redis.ttl(key) <= 25 * 3600


async def test_without_redis_everything_is_unavailable(tmp_path: Path) -> None:
    client = Redis.from_url(f"unix://{tmp_path / 'none'}")
    queue = RunQueue(client, 1 << 20)
    for work in (
        queue.check(),
        queue.store("a.w.1", "a", "w", b""),
        queue.drop("a.w.1"),
        queue.enqueue("a.w.1"),
        queue.take(),
        queue.release("a"),
        queue.organizations(),
    ):
        with pytest.raises(Unavailable) as caught:
            await work
        assert caught.value.reason == "REDIS_UNREACHABLE"
    await client.aclose()
