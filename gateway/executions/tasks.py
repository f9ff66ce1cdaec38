"""Background tasks that outlive the calls which began them, and are seen to their end at shutdown."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

log = structlog.get_logger("gateway.executions")

SETTLE_SECONDS = 5.0
"""How long the settlements of runs that were cut off may take, before the gateway stops without them."""


class _Marked:
    """A task that is in a set for as long as the context is not left."""

    __slots__ = ("_marked", "_task")

    def __init__(self, marked: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
        self._marked = marked
        self._task = task

    def __enter__(self) -> None:
        self._marked.add(self._task)

    def __exit__(self, *_: object) -> None:
        self._marked.discard(self._task)


class Tasks:
    """Tasks, some of which may be cut off while they wait for others (`may_be_cut`)."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._to_cut: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run it in the background."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def may_be_cut(self) -> _Marked:
        """Mark the running task as one that waits for others, and not for its own settlement."""
        task = asyncio.current_task()
        if task is None:
            msg = "outside of a task"
            raise RuntimeError(msg)
        return _Marked(self._to_cut, task)

    def cut(self, task: asyncio.Task[Any]) -> bool:
        """Cancel a task if it may be cut off; False when it is too late for that."""
        return task in self._to_cut and task.cancel()

    async def drain(self, grace: float) -> None:
        """Let the tasks end for `grace` seconds; then cut off those that are left.

        What then remains to be settled has SETTLE_SECONDS more: the database may be away.
        """
        await self._ended_within(grace)
        # One turn of the loop, so that what has just been started can be cut off.
        await asyncio.sleep(0)
        if self._to_cut:
            log.warning("runs cut off", count=len(self._to_cut))
        for task in self._to_cut:
            task.cancel()
        await self._ended_within(SETTLE_SECONDS)
        if self._tasks:
            log.error("runs left unsettled", count=len(self._tasks))
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _ended_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        over = loop.time() + seconds
        while self._tasks and loop.time() < over:
            await asyncio.wait(self._tasks, timeout=over - loop.time())

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, even where the caller that waited for it has gone
