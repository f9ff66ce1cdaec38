"""What is done again and again, in a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import Any

from gateway.rpc.errors import RpcError

_CANCEL_SECONDS = 0.1


class Periodic(ABC):
    """Takes turns from `start` to `close`.

    A turn that fails is told to `log` as `failure`, and the next one begins `retry` seconds after it began,
    whoever wakes it.
    """

    def __init__(self, log: Any, failure: str, *, retry: float) -> None:
        self._log = log
        self._failure = failure
        self._retry = retry
        self._woken = asyncio.Event()
        self._turns: asyncio.Task[None] | None = None

    @abstractmethod
    async def turn(self) -> float | None:
        """Take a turn; the answer is how many seconds after its beginning the next one comes.

        `wake` brings that about at once; None waits for it.
        """

    def start(self) -> None:
        """Take turns from now on."""
        self._turns = asyncio.create_task(self._take_turns())

    async def close(self) -> None:
        """Take no more."""
        await stop(self._turns)

    def wake(self) -> None:
        """Take the next turn without a pause, unless the last one has failed."""
        self._woken.set()

    async def _take_turns(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            self._woken.clear()
            try:
                pause = await self.turn()
            except RpcError as error:
                self._log.warning(self._failure, reason=error.reason)
            except Exception:  # noqa: BLE001 - it is logged
                self._log.exception(self._failure)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(None if pause is None else begun + pause):
                        await self._woken.wait()
                continue
            await asyncio.sleep(begun + self._retry - loop.time())


async def stop(task: asyncio.Task[None] | None) -> None:
    """Cancel a task that would go on for ever, and wait for its end."""
    # redis-py loses a cancellation that comes while it connects.
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_SECONDS)
