"""Calls of one SQL function that come at one time, or while another one is under way, and go together.

A statement of its own costs Postgres as much as what it is for: a snapshot, a commit, the protocol. Of calls
that come faster than they are answered, each costs half when they share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST_TOGETHER = 16
"""Calls in one statement, which keeps the locks of all of them until it ends."""
LONGEST_WAIT_SECONDS = 0.01
"""How long a call waits for the one before it, on a database that is far away or stands still."""


class _Alone(Enum):
    """What a call is told that is to be made alone."""

    GO = "go"


class Batches(Generic[T, R]):
    """Makes calls together that come in one turn of the loop, or while another one is under way.

    `alone` makes one call. `together` makes several, and answers each in its place: with what it gives, or
    with what it raises. None says that nothing came of them: then each is made alone.
    """

    def __init__(
        self,
        alone: Callable[[T], Awaitable[R]],
        together: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception] | None]],
    ) -> None:
        self._alone = alone
        self._together = together
        self._waiting: dict[asyncio.Future[R | _Alone], T] = {}
        self._under_way = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_turn_awaited = False
        self._sent: set[asyncio.Task[None]] = set()

    async def call(self, item: T) -> R:
        """Make a call. Cancelled while it waits, it is not made; later it may be, as others go with it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R | _Alone] = loop.create_future()
        self._waiting[future] = item
        if len(self._waiting) == MOST_TOGETHER:
            self._send()
        elif not self._under_way:
            self._send_soon()
        elif self._timer is None:
            self._timer = loop.call_later(LONGEST_WAIT_SECONDS, self._send)
        try:
            answer = await future
        except asyncio.CancelledError:
            if self._waiting.pop(future, None) is None and _may_go(future):
                self._come_back()
            raise
        if answer is not _Alone.GO:
            return answer
        try:
            return await self._alone(item)
        finally:
            self._come_back()

    async def close(self) -> None:
        """Wait for the calls that went together."""
        while self._sent:
            await asyncio.wait(self._sent)

    def _send_soon(self) -> None:
        """Let those that wait go with all that come in this turn of the loop."""
        if not self._is_turn_awaited:
            self._is_turn_awaited = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        """Let those go that wait."""
        self._is_turn_awaited = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        batch, self._waiting = self._waiting, {}
        if len(batch) == 1:
            self._let_go_alone(batch)
            return
        self._under_way += 1
        task = asyncio.get_running_loop().create_task(self._go(batch))
        self._sent.add(task)
        task.add_done_callback(self._sent.discard)

    def _let_go_alone(self, futures: Iterable[asyncio.Future[R | _Alone]]) -> None:
        for future in futures:
            if not future.done():
                self._under_way += 1
                future.set_result(_Alone.GO)

    def _come_back(self) -> None:
        self._under_way -= 1
        if self._waiting:
            self._send_soon()

    async def _go(self, batch: dict[asyncio.Future[R | _Alone], T]) -> None:
        try:
            answers = await self._together(list(batch.values()))
        except Exception as error:  # noqa: BLE001 - it is the callers'
            answers = [error] * len(batch)
        except BaseException:
            for future in batch:
                future.cancel()
            raise
        finally:
            self._come_back()
        if answers is None:
            self._let_go_alone(batch)
            return
        for future, answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _may_go(future: asyncio.Future[R | _Alone]) -> bool:
    """Whether a call was told to be made alone, in the turn in which its caller went away."""
    return not future.cancelled() and future.exception() is None and future.result() is _Alone.GO
