"""What every call passes on its way to a service.

::

    errors > context > deadline > guards (authenticate, …, validate) > service

A guard is one concern, written once for all doors: it looks at the call, adds what
it found out, or refuses by raising an RpcError. Whatever ends a call, each observer
is told once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog

from gateway.rpc.errors import Cancelled, DeadlineExceeded, Internal, RpcError

if TYPE_CHECKING:
    from protobuf import Message

    from gateway.rpc.call import Call

    Guard = Callable[[Call], Awaitable[None]]
    Observer = Callable[[Call, RpcError | None], None]

log = structlog.get_logger("gateway")


class Chain:
    """Runs calls through `context` and `guards` in order, then the method's implementation.

    `timeout` is the longest that a unary call may take, in seconds; a caller's own
    shorter deadline wins. A server stream is bounded by the caller's deadline alone.
    """

    def __init__(
        self,
        context: Guard,
        guards: Sequence[Guard],
        observers: Sequence[Observer],
        *,
        timeout: float,
    ) -> None:
        self._context = context
        self._guards = tuple(guards)
        self._observers = tuple(observers)
        self._timeout = timeout

    async def unary(self, call: Call) -> Message:
        """Answer one request. Raises RpcError, and nothing else but cancellation."""
        deadline = _deadline(call, self._timeout)
        outcome: RpcError | None = None
        try:
            async with asyncio.timeout_at(deadline):
                await self._admit(call)
                return await call.method.implementation(call.request, call)  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            outcome = Cancelled("The caller went away.")
            raise
        except BaseException as error:
            outcome = _shown(error, call, deadline)
            raise outcome from error
        finally:
            self._observe(call, outcome)

    async def stream(self, call: Call) -> AsyncGenerator[Message, None]:
        """Answer one request with a stream. Raises RpcError, and nothing else but cancellation."""
        deadline = _deadline(call, None)
        outcome: RpcError | None = None
        try:
            async with asyncio.timeout_at(deadline):
                await self._admit(call)
            async with aclosing(call.method.implementation(call.request, call)) as messages:
                while (message := await _next(messages, deadline)) is not None:
                    yield message
        except (asyncio.CancelledError, GeneratorExit):
            outcome = Cancelled("The caller went away.")
            raise
        except BaseException as error:
            outcome = _shown(error, call, deadline)
            raise outcome from error
        finally:
            self._observe(call, outcome)

    async def _admit(self, call: Call) -> None:
        await self._context(call)
        if call.timeout is not None and call.timeout <= 0:
            raise TimeoutError
        for guard in self._guards:
            await guard(call)

    def _observe(self, call: Call, outcome: RpcError | None) -> None:
        for observer in self._observers:
            observer(call, outcome)


def _deadline(call: Call, longest: float | None) -> float | None:
    """The event loop's time at which the call is over."""
    seconds = min((t for t in (call.timeout, longest) if t is not None), default=None)
    return None if seconds is None else asyncio.get_running_loop().time() + seconds


async def _next(messages: AsyncIterator[Message], deadline: float | None) -> Message | None:
    """Wait for one message, until the deadline; the time a slow reader takes is not counted."""
    async with asyncio.timeout_at(deadline):
        return await anext(messages, None)


def _shown(error: BaseException, call: Call, deadline: float | None) -> RpcError:
    """What the caller may know of an error: nothing of one that nobody foresaw."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, TimeoutError) and _is_over(call, deadline):
        return DeadlineExceeded("The deadline passed before the call was done.")
    log.error("unexpected error", method=call.method.path, request_id=call.request_id, exc_info=error)
    return Internal(f"Something went wrong in the gateway. Quote request {call.request_id} to its operator.")


def _is_over(call: Call, deadline: float | None) -> bool:
    if call.timeout is not None and call.timeout <= 0:
        return True
    return deadline is not None and asyncio.get_running_loop().time() >= deadline
