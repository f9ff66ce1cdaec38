from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import structlog
from structlog.testing import capture_logs

from gateway.rpc.errors import Unavailable
from gateway.rpc.periodic import Periodic, stop

LONG = 3600.0


class Counted(Periodic):
    """Counts its turns; `answers` are what they answer, or raise, and LONG is the answer after these."""

    def __init__(self, *answers: float | Exception | None, retry: float = LONG) -> None:
        super().__init__(structlog.get_logger("test"), "turn not taken", retry=retry)
        self.answers = list(answers)
        self.turns = 0
        self.taken = asyncio.Event()

    async def turn(self) -> float | None:
        self.turns += 1
        self.taken.set()
        answer = self.answers.pop(0) if self.answers else LONG
        if isinstance(answer, Exception):
            raise answer
        return answer


@asynccontextmanager
async def running(periodic: Counted) -> AsyncIterator[Callable[[int], asyncio.Future[None]]]:
    """Gives what waits until so many turns have begun."""

    async def taken(turns: int) -> None:
        async with asyncio.timeout(10):
            while periodic.turns < turns:
                periodic.taken.clear()
                await periodic.taken.wait()

    periodic.start()
    yield lambda turns: asyncio.ensure_future(taken(turns))
    await periodic.close()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_turn_is_taken_when_the_last_one_said() -> None:
    async with running(Counted(0, 0.001, 0, LONG)) as taken:
        await taken(4)


async def test_waking_ends_a_pause_of_any_length() -> None:
    periodic = Counted(LONG, None)
    async with running(periodic) as taken:
        await taken(1)
        await settled()
        assert periodic.turns == 1
        periodic.wake()
        await taken(2)
        await settled()
        assert periodic.turns == 2
        periodic.wake()
        periodic.wake()
        await taken(3)
        await settled()
        assert periodic.turns == 3


async def test_who_wakes_it_during_a_turn_gets_another_one() -> None:
    class Woken(Counted):
        async def turn(self) -> float | None:
            if self.turns == 0:
                self.wake()
            return await super().turn()

    async with running(Woken()) as taken:
        await taken(2)


@pytest.mark.parametrize(
    ("fault", "told"),
    [(Unavailable("away", reason="AWAY"), {"reason": "AWAY"}), (RuntimeError("a fault"), {"exc_info": True})],
)
async def test_a_fault_is_told_and_the_next_turn_comes_later(
    fault: Exception, told: dict[str, object]
) -> None:
    with capture_logs() as logs:
        periodic = Counted(fault)
        async with running(periodic) as taken:
            await taken(1)
            await settled()
            periodic.wake()
            await settled()
            assert periodic.turns == 1
        async with running(Counted(fault, fault, retry=0.001)) as taken:
            await taken(3)
    assert len(logs) == 3
    assert all(line["event"] == "turn not taken" and line.items() >= told.items() for line in logs)


async def test_one_that_was_never_started_can_be_closed() -> None:
    await Counted().close()


async def test_a_task_that_loses_its_cancellation_is_stopped() -> None:
    async def deaf() -> None:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await stop(task)
    assert task.cancelled()
