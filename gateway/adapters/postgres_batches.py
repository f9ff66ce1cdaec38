"""Calls of one SQL function that come while another one is under way, and go together after it.

A statement of its own costs Postgres as much as what it is for: a snapshot, a commit, the protocol. Of calls
that come faster than they are answered, each costs half when they share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST_TOGETHER = 8
"""Calls in one statement, which keeps the locks of all of them until it ends."""
LONGEST_WAIT_SECONDS = 0.002
"""How long a call waits for the one before it, on a database that is far away or stands still."""


class Batches(Generic[T, R]):
    """Makes a call alone while none is under way, and else together with others that come meanwhile.

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
        self._waiting: dict[asyncio.Future[R], T] = {}
        self._under_way = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sent: set[asyncio.Task[None]] = set()

    async def call(self, item: T) -> R:
        """Make a call. Cancelled while it waits, it is not made; later it may be, as others go with it."""
        if not self._under_way:
            self._under_way += 1
            try:
                return await self._alone(item)
            finally:
                self._come_back()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting[future] = item
        if len(self._waiting) == MOST_TOGETHER:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(LONGEST_WAIT_SECONDS, self._send)
        try:
            return await future
        finally:
            self._waiting.pop(future, None)

    async def close(self) -> None:
        """Wait for the calls that went together."""
        while self._sent:
            await asyncio.wait(self._sent)

    def _send(self) -> None:
        """Let those go that wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            batch, self._waiting = self._waiting, {}
            self._under_way += 1
            task = asyncio.get_running_loop().create_task(self._go(batch))
            self._sent.add(task)
            task.add_done_callback(self._sent.discard)

    def _come_back(self) -> None:
        self._under_way -= 1
        self._send()

    async def _go(self, batch: dict[asyncio.Future[R], T]) -> None:
        try:
            answers = await self._together(list(batch.values()))
            if answers is None:
                awaited = ((future, item) for future, item in batch.items() if not future.done())
                await asyncio.gather(*(self._go_alone(future, item) for future, item in awaited))
                return
        except Exception as error:  # noqa: BLE001 - it is the callers'
            answers = [error] * len(batch)
        except BaseException:
            for future in batch:
                future.cancel()
            raise
        finally:
            self._come_back()
        for future, answer in zip(batch, answers, strict=True):
            _give(future, answer)

    async def _go_alone(self, future: asyncio.Future[R], item: T) -> None:
        answer: R | Exception
        try:
            answer = await self._alone(item)
        except Exception as error:  # noqa: BLE001 - it is the caller's
            answer = error
        _give(future, answer)


def _give(future: asyncio.Future[R], answer: R | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
