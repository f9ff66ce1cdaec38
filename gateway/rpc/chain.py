"""What every call passes on its way to a service.

::

    errors > context > deadline > guards (authenticate, …, validate) > service > encode

A guard is one concern, written once for all doors: it looks at the call, adds what
it found out, or refuses by raising an RpcError. Whatever ends a call, each observer
is told once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from math import inf
from typing import TYPE_CHECKING, TypeVar

import structlog

from gateway.rpc.errors import Cancelled, DeadlineExceeded, Internal, RpcError
from gateway.rpc.limit import Limit, Limits
from gateway.rpc.standing import Standing

if TYPE_CHECKING:
    from protobuf import Message

    from gateway.rpc.call import Call
    from gateway.transcoding import Outgoing

    Guard = Callable[[Call], Awaitable[None]]
    Observer = Callable[[Call, RpcError | None], None]

Encoded = TypeVar("Encoded")

_HEADROOM, _LEAST, _MOST = 0.05, 0.005, 0.05
"""What of a caller's deadline is left for the answer that it has passed, so that the caller hears it with its
details: a part of it, between so many seconds. The servers below hold the deadline too."""

_BURST = 32
"""Messages of a stream after which others get a turn, even if more are ready: a caller may have gone."""

_OVER = "The deadline passed before the call was done."

log = structlog.get_logger("gateway")


class Chain:
    """Runs calls through `context` and `guards` in order, then the method's implementation.

    `timeout` is the longest that a unary call may take, in seconds; a caller's own
    shorter deadline wins. A server stream is bounded by the caller's deadline alone, and ends early
    where `standing` finds that its caller may not have it any more.
    Each answer leaves through the door's `encode`, so that a message which its encoding
    cannot carry is told and observed as any other fault.
    """

    def __init__(
        self,
        context: Guard,
        guards: Sequence[Guard],
        observers: Sequence[Observer],
        *,
        timeout: float,
        standing: Standing | None = None,
    ) -> None:
        self._standing = standing or Standing()
        self._context = context
        self._guards = tuple(guards)
        self._observers = tuple(observers)
        self._limits = Limits(timeout)

    async def unary(self, call: Call, encode: Callable[[Message], Encoded]) -> Encoded:
        """Answer one request. Raises RpcError, and nothing else but cancellation."""
        deadline = _deadline(call, self._limits.seconds)
        limit = self._limits.limit() if deadline is None else Limit(deadline)
        outcome: RpcError | None = None
        try:
            with limit:
                await self._admit(call)
                return encode(await call.method.implementation(call.request, call))
        except asyncio.CancelledError:
            outcome = Cancelled("The caller went away.")
            raise
        except BaseException as error:
            outcome = _shown(error, call, expired=limit.expired)
            if outcome is error:
                raise
            raise outcome from error
        finally:
            self._observe(call, outcome)

    async def stream(
        self, call: Call, encode: Callable[[Sequence[Outgoing]], Encoded]
    ) -> AsyncGenerator[Encoded, None]:
        """Answer one request with a stream, in batches: `encode` is given what is there at one time.

        Raises RpcError, and nothing else but cancellation.
        """
        deadline = _deadline(call)
        hold = self._standing.hold(call)
        limit = hold.limit = Limit(deadline)
        outcome: RpcError | None = None
        try:
            with limit:
                await self._admit(call)
            sent = 0
            async with aclosing(call.method.implementation(call.request, call)) as batches:
                with hold:
                    while True:
                        _refuse_late(deadline)
                        hold.check()
                        with limit:
                            batch = await anext(batches, None)
                        if batch is None:
                            return
                        yield encode(batch)
                        sent += len(batch)
                        if sent >= _BURST:
                            sent = 0
                            await asyncio.sleep(0)
        except (asyncio.CancelledError, GeneratorExit):
            outcome = Cancelled("The caller went away.")
            raise
        except BaseException as error:
            outcome = (limit.expired and hold.refusal) or _shown(error, call, expired=limit.expired)
            if outcome is error:
                raise
            raise outcome from error
        finally:
            self._observe(call, outcome)

    async def _admit(self, call: Call) -> None:
        await self._context(call)
        if call.timeout is not None and call.timeout <= 0:
            raise DeadlineExceeded(_OVER)
        for guard in self._guards:
            await guard(call)

    def _observe(self, call: Call, outcome: RpcError | None) -> None:
        for observer in self._observers:
            try:
                observer(call, outcome)
            except Exception:
                log.exception("observer failed", method=call.method.path, request_id=call.request_id)


def _deadline(call: Call, longest: float = inf) -> float | None:
    """The event loop's time at which the call is over for its caller; None if `longest` seconds are less."""
    if call.timeout is None:
        return None
    seconds = call.timeout - min(max(call.timeout * _HEADROOM, _LEAST), _MOST)
    return None if seconds >= longest else asyncio.get_running_loop().time() + seconds


def _refuse_late(deadline: float | None) -> None:
    """Raise DeadlineExceeded when a slow reader comes too late for the next messages, were they ready."""
    if deadline is not None and asyncio.get_running_loop().time() >= deadline:
        raise DeadlineExceeded(_OVER)


def _shown(error: BaseException, call: Call, *, expired: bool) -> RpcError:
    """What the caller may know of an error: nothing of one that nobody foresaw."""
    if isinstance(error, RpcError):
        return error
    # The clock cannot tell whose timeout it was: loops ring a little early, and handlers have their own.
    if expired and isinstance(error, TimeoutError):
        return DeadlineExceeded(_OVER)
    log.error("unexpected error", method=call.method.path, request_id=call.request_id, exc_info=error)
    return Internal(f"Something went wrong in the gateway. Quote request {call.request_id} to its operator.")
