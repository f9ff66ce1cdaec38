"""Calls that wait for each other and go together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pytest

from gateway.adapters.postgres.batches import MOST_TOGETHER, Batches


class Line:
    """Calls that come back when they are told to; what went together, in the order in which it went."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.batches = Batches(self._alone, self._together)
        self._answers: list[asyncio.Future[list[str | Exception] | None]] = []

    def call(self, name: str) -> asyncio.Task[str]:
        return asyncio.create_task(self.batches.call(name))

    async def gone(self, count: int) -> None:
        """Wait until so many statements have been sent."""
        while len(self.sent) < count:  # noqa: ASYNC110 - nobody tells when it is
            await asyncio.sleep(0)

    async def behind(self, first: str, others: Iterable[str]) -> list[asyncio.Task[str]]:
        """Make a call, which goes alone, and others that wait for it."""
        call = self.call(first)
        await self.gone(1)
        calls = [call, *(self.call(name) for name in others)]
        await asyncio.sleep(0)
        return calls

    def answer(self, number: int, answers: list[str | Exception] | None = None) -> None:
        self._answers[number].set_result(answers or [name.upper() for name in self.sent[number]])

    def come_to_nothing(self, number: int) -> None:
        self._answers[number].set_result(None)

    def breaks(self, number: int, error: Exception) -> None:
        self._answers[number].set_exception(error)

    async def _send(self, names: Sequence[str]) -> list[str | Exception] | None:
        self.sent.append(list(names))
        future: asyncio.Future[list[str | Exception] | None] = asyncio.get_running_loop().create_future()
        self._answers.append(future)
        return await future

    async def _alone(self, name: str) -> str:
        (answer,) = await self._send([name]) or ()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _together(self, names: Sequence[str]) -> list[str | Exception] | None:
        return await self._send(names)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    """One in which no call goes for having waited too long."""
    monkeypatch.setattr("gateway.adapters.postgres.batches.LONGEST_WAIT_SECONDS", 3600.0)
    return Line()


async def test_a_call_goes_alone_while_none_is_under_way(line: Line) -> None:
    for number, name in enumerate("ab"):
        call = line.call(name)
        await line.gone(number + 1)
        line.answer(number)
        assert await call == name.upper()
    assert line.sent == [["a"], ["b"]]


async def test_those_that_come_at_one_time_go_together(line: Line) -> None:
    calls = [line.call(name) for name in "abc"]
    await line.gone(1)
    line.answer(0)
    assert await asyncio.gather(*calls) == ["A", "B", "C"]
    assert line.sent == [["a", "b", "c"]]


async def test_those_that_come_meanwhile_go_together(line: Line) -> None:
    calls = await line.behind("a", "bcd")
    line.answer(0)
    await line.gone(2)
    late = line.call("e")
    line.answer(1)
    assert await asyncio.gather(*calls) == ["A", "B", "C", "D"]
    await line.gone(3)
    line.answer(2)
    assert await late == "E"
    assert line.sent == [["a"], ["b", "c", "d"], ["e"]]


async def test_as_many_as_may_go_together_wait_for_nobody(line: Line) -> None:
    calls = await line.behind("0", map(str, range(1, 1 + MOST_TOGETHER + 1)))
    await line.gone(2)
    assert [len(sent) for sent in line.sent] == [1, MOST_TOGETHER]
    line.answer(1)
    await line.gone(3)
    line.answer(2)
    line.answer(0)
    assert await asyncio.gather(*calls) == [str(number) for number in range(len(calls))]


async def test_nobody_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.adapters.postgres.batches.LONGEST_WAIT_SECONDS", 0.0)
    line = Line()
    calls = await line.behind("a", "bc")
    await line.gone(2)
    assert line.sent == [["a"], ["b", "c"]]
    line.answer(1)
    assert await asyncio.gather(*calls[1:]) == ["B", "C"]
    line.answer(0)
    assert await calls[0] == "A"


async def test_who_goes_away_while_waiting_is_not_sent(line: Line) -> None:
    first, gone, left = await line.behind("a", "bc")
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    line.answer(0)
    await line.gone(2)
    line.answer(1)
    assert await asyncio.gather(first, left) == ["A", "C"]
    assert line.sent == [["a"], ["c"]]


async def test_who_goes_away_later_takes_nobody_along(line: Line) -> None:
    first, gone, left = await line.behind("a", "bc")
    line.answer(0)
    await line.gone(2)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    line.answer(1)
    assert await asyncio.gather(first, left) == ["A", "C"]


async def test_those_that_wait_go_when_the_one_before_them_is_cancelled(line: Line) -> None:
    first, second = await line.behind("a", "b")
    first.cancel()
    await line.gone(2)
    line.answer(1)
    assert await second == "B"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_each_gets_what_is_its_own(line: Line) -> None:
    first, *calls = await line.behind("a", "bc")
    line.answer(0)
    await line.gone(2)
    line.answer(1, [LookupError("b alone"), "C"])
    assert await first == "A"
    with pytest.raises(LookupError, match="b alone"):
        await calls[0]
    assert await calls[1] == "C"


async def test_what_came_to_nothing_is_made_again_alone(line: Line) -> None:
    first, *calls = await line.behind("a", "bcd")
    line.answer(0)
    assert await first == "A"
    await line.gone(2)
    calls[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[2]
    line.come_to_nothing(1)
    await line.gone(4)
    line.answer(3)
    assert await calls[1] == "C"
    line.answer(2, [LookupError("b")])
    with pytest.raises(LookupError, match="b"):
        await calls[0]
    assert line.sent == [["a"], ["b", "c", "d"], ["b"], ["c"]]


async def test_what_breaks_together_breaks_for_each(line: Line) -> None:
    first, *calls = await line.behind("a", "bc")
    line.breaks(0, LookupError("alone"))
    with pytest.raises(LookupError, match="alone"):
        await first
    await line.gone(2)
    line.breaks(1, LookupError("together"))
    for call in calls:
        with pytest.raises(LookupError, match="together"):
            await call
    after = line.call("d")
    await line.gone(3)
    line.answer(2)
    assert await after == "D"


async def test_closing_waits_for_what_was_sent(line: Line) -> None:
    calls = await line.behind("a", "bc")
    line.answer(0)
    await line.gone(2)
    closing = asyncio.create_task(line.batches.close())
    line.answer(1)
    await closing
    assert await asyncio.gather(*calls) == ["A", "B", "C"]


async def test_who_goes_away_as_it_is_told_to_go_alone_keeps_nobody_waiting(line: Line) -> None:
    gone = line.call("a")
    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, gone.cancel)
    with pytest.raises(asyncio.CancelledError):
        await gone
    left = line.call("b")
    await line.gone(1)
    line.answer(0)
    assert await left == "B"
    assert line.sent == [["b"]]
