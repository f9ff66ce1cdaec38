"""How long calls may take."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Limit:
    """Cancels the task inside of it at the event loop's time `when`, and makes that a TimeoutError.

    The same as asyncio.timeout_at, for a fraction of its price; None is never. A limit of `limits`
    runs out when they say so. `expired` tells whether the time was over before the block was left.
    """

    __slots__ = ("_cancelling", "_limits", "_task", "_timer", "_when", "expired")

    def __init__(self, when: float | None, limits: Limits | None = None) -> None:
        self._when = when
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self.expired = False

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            msg = "a time limit needs a task"
            raise RuntimeError(msg)
        self._task = task
        self._cancelling = task.cancelling()
        if self._limits is not None:
            self._limits.start(self, loop)
        elif self._when is not None:
            self._timer = loop.call_at(self._when, self.run_out)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._limits is not None:
            self._limits.stop(self)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, self._task = self._task, None
        # A cancellation that came from elsewhere meanwhile is not to be swallowed.
        if self.expired and task and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def run_out(self) -> None:
        """The time is over."""
        if self._task is not None and not self.expired:
            self.expired = True
            self._task.cancel()


class Limits:
    """Limits of `seconds` each on many blocks: they run out in the order of their starts, by one timer."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ends: dict[Limit, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def limit(self) -> Limit:
        """A limit that starts when it is entered."""
        return Limit(None, self)

    def start(self, limit: Limit, loop: asyncio.AbstractEventLoop) -> None:
        """From now on."""
        end = loop.time() + self.seconds
        self._ends[limit] = end
        if self._loop is not loop:
            self._loop = loop
            loop.call_at(end, self._ring)

    def stop(self, limit: Limit) -> None:
        """The block has been left."""
        self._ends.pop(limit, None)

    def _ring(self) -> None:
        loop = asyncio.get_running_loop()
        while self._ends:
            limit, end = next(iter(self._ends.items()))
            if end > loop.time():
                loop.call_at(end, self._ring)
                return
            del self._ends[limit]
            limit.run_out()
        self._loop = None
