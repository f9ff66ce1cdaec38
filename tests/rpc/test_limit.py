from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from gateway.rpc.limit import Limit, Limits

SOON = 0.02
LONG = 60.0

Make = Callable[[], Limit]


def alone() -> Limit:
    return Limit(asyncio.get_running_loop().time() + SOON)


def shared() -> Limit:
    return Limits(SOON).limit()


async def inside(limit: Limit, work: Awaitable[object]) -> object:
    with limit:
        return await work


@pytest.mark.parametrize("make", [alone, shared])
async def test_what_takes_too_long_ends_with_a_timeout(make: Make) -> None:
    limit = make()
    with pytest.raises(TimeoutError):
        await inside(limit, asyncio.Event().wait())
    assert limit.expired
    await asyncio.sleep(0)  # and the task is not cancelled any more


@pytest.mark.parametrize("make", [alone, shared])
async def test_what_is_in_time_is_left_alone(make: Make) -> None:
    limit = make()
    assert await inside(limit, asyncio.sleep(0, "done")) == "done"
    await asyncio.sleep(2 * SOON)
    assert not limit.expired


@pytest.mark.parametrize("make", [alone, shared])
async def test_errors_pass(make: Make) -> None:
    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await inside(make(), fail())


@pytest.mark.parametrize("make", [alone, shared])
async def test_a_cancellation_from_elsewhere_stays_one(make: Make) -> None:
    task = asyncio.create_task(inside(make(), asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("make", [alone, shared])
async def test_a_cancellation_from_elsewhere_wins_over_the_time(make: Make) -> None:
    limit = make()
    task = asyncio.create_task(inside(limit, asyncio.Event().wait()))
    await asyncio.sleep(0)
    limit.run_out()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("make", [alone, shared])
async def test_an_error_while_being_ended_is_not_hidden(make: Make) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError

    with pytest.raises(LookupError):
        await inside(make(), stubborn())


async def test_none_is_never() -> None:
    limit = Limit(None)
    assert await inside(limit, asyncio.sleep(0, "done")) == "done"
    assert not limit.expired


async def test_a_time_that_is_over_ends_what_waits() -> None:
    with pytest.raises(TimeoutError):
        await inside(Limit(0.0), asyncio.Event().wait())


def test_outside_of_a_task_there_is_nothing_to_limit() -> None:
    async def nothing() -> None:
        """So that a loop runs."""

    loop = asyncio.new_event_loop()
    caught: list[BaseException] = []

    def enter() -> None:
        try:
            Limit(None).__enter__()
        except RuntimeError as error:
            caught.append(error)

    loop.call_soon(enter)
    loop.run_until_complete(nothing())
    loop.close()
    assert caught


async def test_shared_limits_run_out_in_the_order_of_their_starts() -> None:
    limits, ended = Limits(SOON), list[int]()

    async def one(number: int) -> None:
        await asyncio.sleep(number * SOON / 4)
        try:
            await inside(limits.limit(), asyncio.Event().wait())
        except TimeoutError:
            ended.append(number)

    quick = [inside(limits.limit(), asyncio.sleep(0)) for _ in range(3)]
    await asyncio.gather(*(one(number) for number in range(8)), *quick)
    assert ended == list(range(8))


def test_one_timer_serves_one_loop_after_the_other() -> None:
    limits = Limits(SOON)

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await inside(limits.limit(), asyncio.Event().wait())
        running = asyncio.create_task(inside(limits.limit(), asyncio.sleep(0)))
        await running

    for _ in range(2):
        asyncio.run(wait())
        uvloop.run(wait())


def test_a_loop_that_ends_early_leaves_no_trace() -> None:
    limits = Limits(SOON)

    async def leave() -> None:
        asyncio.get_running_loop().create_task(inside(limits.limit(), asyncio.Event().wait()))
        await asyncio.sleep(0)

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await inside(limits.limit(), asyncio.Event().wait())

    uvloop.run(leave())
    uvloop.run(wait())
