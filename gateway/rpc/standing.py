"""What long streams rest on, looked at again while they are open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import structlog

from gateway.rpc.errors import RpcError, Unavailable

if TYPE_CHECKING:
    from typing import Self

    from gateway.rpc.call import Call
    from gateway.rpc.limit import Limit

    Check = Callable[[Call], Awaitable[None]]

EVERY_SECONDS = 1.0
"""How often. What is remembered for the checks is asked for so much earlier: its bound holds here, too."""

_AT_A_TIME = 50

log = structlog.get_logger("gateway")


class Standing:
    """Asks `checks` about each open stream, again and again, and ends those that one refuses.

    A check raises what the stream is then refused with. Unavailable refuses nothing: what cannot be known
    has not changed.
    """

    def __init__(self, checks: Sequence[Check] = ()) -> None:
        self._checks = tuple(checks)
        self._open: set[Hold] = set()
        self._looking: asyncio.Task[None] | None = None

    def hold(self, call: Call) -> Hold:
        """What is to be entered for as long as the stream is open."""
        return Hold(self, call)

    def opened(self, hold: Hold) -> None:
        """Look at a stream from now on."""
        self._open.add(hold)
        if self._checks and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self._look())

    def closed(self, hold: Hold) -> None:
        """Look at it no more."""
        self._open.discard(hold)

    async def look(self) -> None:
        """Look at each open stream once."""
        holds = list(self._open)
        for start in range(0, len(holds), _AT_A_TIME):
            await asyncio.gather(*(self._look_at(hold) for hold in holds[start : start + _AT_A_TIME]))

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        while self._open:
            await asyncio.sleep(EVERY_SECONDS)
            await self.look()

    async def _look_at(self, hold: Hold) -> None:
        try:
            for check in self._checks:
                await check(hold.call)
        except Unavailable:
            pass
        except RpcError as refusal:
            hold.refuse(refusal)
        except Exception:
            log.exception("open stream not checked", request_id=hold.call.request_id)


class Hold:
    """An open stream. Whoever waits for its next message sets the `limit` that the wait is under."""

    __slots__ = ("_standing", "call", "limit", "refusal")

    def __init__(self, standing: Standing, call: Call) -> None:
        self._standing = standing
        self.call = call
        self.limit: Limit | None = None
        self.refusal: RpcError | None = None

    def __enter__(self) -> Self:
        self._standing.opened(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._standing.closed(self)

    def refuse(self, refusal: RpcError) -> None:
        """End the wait that the stream is in, if it is in one."""
        self.refusal = refusal
        if self.limit is not None:
            self.limit.run_out()

    def check(self) -> None:
        """Raise what the stream was refused with meanwhile."""
        if self.refusal is not None:
            raise self.refusal
