"""Sliding windows on a real Valkey: by a clock of the test's, held against a plain model, and by its own."""

from __future__ import annotations

import asyncio
import bisect
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.adapters.redis.windows import LOGGED, PREFIX, RedisWindows
from gateway.rpc.errors import Unavailable
from gateway.rpc.quota import Quota

SECOND = 1_000_000
ROOT = Path(__file__).parents[3]


class Clock:
    """Time that passes when a test says so, in microseconds."""

    def __init__(self) -> None:
        self.now = 1_795_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


def most_in_a_window(times: list[int], window: int) -> int:
    """The most of sorted `times` that any half-open window of that length holds."""
    return max((bisect.bisect_left(times, start + window) - i for i, start in enumerate(times)), default=0)


async def test_the_log_admits_exactly_what_it_may(redis: Redis) -> None:
    """Two replicas, random pauses from microseconds to minutes: held against a list of all admitted times."""
    chance, clock = random.Random(7), Clock()
    replicas = [RedisWindows(redis, clock=clock, timeout=30) for _ in range(2)]
    quota = Quota("organization", "exact", 10, 60)
    admitted: list[int] = []
    for _ in range(3000):
        clock.now += chance.choice([0, 1, 999, SECOND // 7, SECOND, 7 * SECOND, 61 * SECOND])
        (standing,) = await chance.choice(replicas).take([quota])
        within = [t for t in admitted if t > clock.now - 60 * SECOND]
        assert standing.refused == (len(within) >= 10)
        if standing.refused:
            assert standing.reset == pytest.approx((within[0] + 60 * SECOND - clock.now) / SECOND, abs=1e-5)
        else:
            admitted.append(clock.now)
            assert standing.remaining == 9 - len(within)
    assert most_in_a_window(admitted, 60 * SECOND) == 10
    assert await redis.zcard(f"{PREFIX}exact:log") <= 10


async def test_what_is_admitted_again_after_reset_is_no_sooner(redis: Redis) -> None:
    clock = Clock()
    windows = RedisWindows(redis, clock=clock, timeout=30)
    for requests in (5, LOGGED + 5):
        quota = Quota("organization", f"wait {requests}", requests, 60)
        while not (standing := (await windows.take([quota]))[0]).refused:
            clock.now += SECOND // 100
        clock.now += int(standing.reset * SECOND) - 2000
        assert (await windows.take([quota]))[0].refused
        clock.now += 4000
        assert not (await windows.take([quota]))[0].refused


async def test_the_counter_stays_close_to_its_quota(redis: Redis) -> None:
    """Under an even load two cells say the same as a log; a burst can gain on them, not double."""
    clock = Clock()
    windows = RedisWindows(redis, clock=clock, timeout=30)
    quota = Quota("organization", "cells", 2 * LOGGED, 60)
    admitted: list[int] = []
    for _ in range(400):
        clock.now += SECOND
        together = await asyncio.gather(*(windows.take([quota]) for _ in range(60)))
        admitted += [clock.now for (standing,) in together if not standing.refused]
    assert most_in_a_window(admitted, 60 * SECOND) < 2 * quota.requests
    steady = [t for t in admitted if t >= admitted[0] + 180 * SECOND]
    assert 0.95 * quota.requests <= most_in_a_window(steady, 60 * SECOND) <= 1.05 * quota.requests
    assert await redis.memory_usage(f"{PREFIX}cells:counter:60") < 300


async def test_nothing_is_counted_where_one_quota_refuses(redis: Redis) -> None:
    clock = Clock()
    windows = RedisWindows(redis, clock=clock, timeout=30)
    small, log, cells = Quota("key", "s", 2, 60), Quota("organization", "l", 9, 60), Quota("a", "c", 5000, 60)
    for _ in range(5):
        answered = await windows.take([log, cells, small])
    assert [standing.refused for standing in answered] == [False, False, True]
    assert [standing.remaining for standing in await windows.take([log, cells])] == [9 - 3, 5000 - 3]


async def test_calls_that_are_owed_are_counted_whatever_becomes_of_the_call(redis: Redis) -> None:
    clock = Clock()
    windows = RedisWindows(redis, clock=clock, timeout=30)
    log, cells = Quota("organization", "l", 10, 60), Quota("address", "c", 5000, 60)
    answered = await windows.take([log, cells], owed=[4, 100])
    assert [standing.remaining for standing in answered] == [10 - 4 - 1, 5000 - 100 - 1]
    answered = await windows.take([log, cells], owed=[20, 200])
    assert [standing.refused for standing in answered] == [True, False]
    assert answered[1].remaining == 5000 - 301
    clock.now += 61 * SECOND
    assert (await windows.take([log]))[0].remaining == 9


async def test_calls_of_one_batch_count_each_other(redis: Redis) -> None:
    windows = RedisWindows(redis, timeout=30)
    quotas = [Quota("organization", "o", 70, 60), Quota("key", "k", 50, 60)]
    together = await asyncio.gather(*(windows.take(quotas) for _ in range(100)))
    assert sum(not any(standing.refused for standing in answer) for answer in together) == 50
    assert (await windows.take(quotas[:1]))[0].remaining == 70 - 50 - 1


async def test_a_quota_that_was_lowered_or_raised_holds_at_once(redis: Redis) -> None:
    clock = Clock()
    windows = RedisWindows(redis, clock=clock, timeout=30)
    for _ in range(8):
        clock.now += SECOND
        await windows.take([Quota("organization", "o", 10, 60)])
    (standing,) = await windows.take([Quota("organization", "o", 5, 60)])
    assert standing.refused
    assert standing.reset == 60 - 4  # until the fourth of the eight has left
    assert (await windows.take([Quota("organization", "o", 20, 60)]))[0].remaining == 11


async def test_what_nobody_calls_any_more_is_forgotten(redis: Redis) -> None:
    windows = RedisWindows(redis)
    await windows.take([Quota("organization", "log", 5, 60), Quota("address", "cells", 5000, 60)])
    assert 0 < await redis.pttl(f"{PREFIX}log:log") <= 60_000
    assert 0 < await redis.pttl(f"{PREFIX}cells:counter:60") <= 120_000


async def test_a_server_that_lost_the_script_is_told_it_again(redis: Redis) -> None:
    windows, quota = RedisWindows(redis, timeout=30), Quota("organization", "o", 5, 60)
    await windows.take([quota])
    await redis.script_flush()
    assert (await windows.take([quota]))[0].remaining == 3


async def test_redis_away_is_told_to_all_who_wait(tmp_path: Path) -> None:
    client = Redis.from_url(f"unix://{tmp_path / 'none'}")
    windows = RedisWindows(client)
    told = await asyncio.gather(
        *(windows.take([Quota("o", "o", 5, 60)]) for _ in range(200)), return_exceptions=True
    )
    assert {type(error) for error in told} == {Unavailable}
    await client.aclose()


async def test_a_silent_redis_is_not_waited_for() -> None:
    held = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    client = Redis(port=server.sockets[0].getsockname()[1])
    with pytest.raises(Unavailable):
        await RedisWindows(client, timeout=0.05).take([Quota("o", "o", 5, 60)])
    held.set()
    await client.aclose()
    server.close()


async def test_whoever_gives_up_does_not_disturb_the_others(redis: Redis) -> None:
    windows, quota = RedisWindows(redis, timeout=30), Quota("organization", "o", 50, 60)
    calls = [asyncio.create_task(windows.take([quota])) for _ in range(10)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, tuple) for outcome in done) == 5


REPLICA = """
import asyncio, json, sys, time
from redis.asyncio import Redis
from gateway.adapters.redis.windows import RedisWindows
from gateway.rpc.quota import Quota

async def main(url, seconds):
    redis = Redis.from_url(url)
    windows = RedisWindows(redis, timeout=30)
    admitted, tried = [], 0
    print("ready", flush=True)
    sys.stdin.readline()
    until = time.time() + seconds

    async def caller():
        nonlocal tried
        while time.time() < until:
            before = time.time()
            (standing,) = await windows.take([Quota("organization", "two", 100, 1)])
            tried += 1
            if not standing.refused:
                admitted.append((before, time.time()))

    await asyncio.gather(*(caller() for _ in range(8)))
    print(json.dumps({"admitted": admitted, "tried": tried}))
    await redis.aclose()

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


def test_two_processes_never_admit_more_together(valkey: str) -> None:
    """By Valkey's own clock, over several windows.

    A call was counted between the two times at which its caller looked at the clock, so calls that began
    after a moment and were answered less than a window later were in one window.
    """
    command = [sys.executable, "-c", REPLICA, valkey, "4"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    replicas = [subprocess.Popen(command, cwd=ROOT, text=True, **pipes) for _ in range(2)]
    for replica in replicas:
        assert replica.stdout is not None
        replica.stdout.readline()
    for replica in replicas:
        assert replica.stdin is not None
        replica.stdin.write("go\n")
        replica.stdin.flush()
    told = [json.loads(replica.communicate(timeout=60)[0]) for replica in replicas]
    admitted = sorted((tuple(call) for replica in told for call in replica["admitted"]), key=lambda c: c[1])
    assert sum(replica["tried"] for replica in told) > 2 * len(admitted) > 200
    assert all(replica["admitted"] for replica in told)
    for begun, _ in admitted:
        surely_within = sum(begun <= start and end < begun + 1 for start, end in admitted)
        assert surely_within <= 100
