"""HTTP/1.1 with bounds on what a request may take before anyone has judged it.

uvicorn bounds neither the size of a request's head nor the time that a request takes to come.
A request that comes whole is served by a shorter cycle than uvicorn's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.doors.http_cycle import WholeRequestCycle

MAX_HEAD_BYTES = 64 * 1024
REQUEST_SECONDS = 60.0
"""The time for a whole request, head and body, to come."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class _HeadTooLargeError(Exception):
    """Stops the parser."""


class _Alarm:
    """Rings when a time is over. To put that time off, as every request does, costs no timer."""

    __slots__ = ("_loop", "_on_ring", "_timer", "_timer_at", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_ring: Callable[[], None]) -> None:
        self._loop = loop
        self._on_ring = on_ring
        self._when = self._timer_at = inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Ring in `seconds` from now, and not when it was set to before."""
        self._when = self._loop.time() + seconds
        if self._when < self._timer_at:
            self._start()

    def clear(self) -> None:
        """Do not ring."""
        self._when = inf

    def close(self) -> None:
        """Never ring again."""
        self._when = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._when
        self._timer = self._loop.call_at(self._when, self._look)

    def _look(self) -> None:
        self._timer, self._timer_at = None, inf
        if self._when <= self._loop.time():
            self._when = inf
            self._on_ring()
        elif self._when < inf:
            self._start()


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol; a head that is too large is answered 431, and the connection closed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = self._in_request = self._too_large = False
        self._received = 0
        self._held: bytes | None = None
        """The body so far of a request that may come whole; None when uvicorn has the request."""
        self._alarm = _Alarm(self.loop, self._give_up)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request's time starts."""
        super().connection_made(transport)
        self._alarm.set(REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._alarm.close()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, as long as the head stays within its bound."""
        self._received += len(data)
        super().data_received(data)
        if self._held is not None:
            self._let_go()
        if self._in_head and self._received > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request's first byte is there."""
        super().on_message_begin()
        self._in_head = self._in_request = True
        self._alarm.set(REQUEST_SECONDS)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        received, self._received = self._received, 0
        if received > MAX_HEAD_BYTES and self._head_size() > MAX_HEAD_BYTES:
            self._too_large = True
            raise _HeadTooLargeError
        if self._is_plain():
            self._read_target()
            self._held = b""
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body is there."""
        if self._held is None:
            super().on_body(body)
        else:
            self._held += body

    def on_message_complete(self) -> None:
        """The request is there."""
        self._in_request = False
        self._alarm.clear()
        self._received = 0
        if self._held is None:
            super().on_message_complete()
        else:
            body, self._held = self._held, None
            self.cycle = WholeRequestCycle(self, body)
            self._start_asgi_task(self.cycle, self.app)

    def on_response_complete(self) -> None:
        """The answer has been sent: the next request's turn, or the wait for it."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._in_request:
            self._alarm.set(self.timeout_keep_alive)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed or is too large, unless that would end up in another answer."""
        self._held = None
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()
        elif self._too_large:
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        else:
            super().send_400_response(msg)

    def _is_plain(self) -> bool:
        """Whether the request is the only one of its connection, and its answer waits for nothing else."""
        parser = self.parser
        return (
            (self.cycle is None or self.cycle.response_complete)
            and not self.expect_100_continue
            and not parser.should_upgrade()
            and parser.should_keep_alive()
            and parser.get_http_version() == "1.1"
        )

    def _let_go(self) -> None:
        """The rest of the request is still to come: uvicorn takes it over."""
        body, self._held = self._held, None
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def _read_target(self) -> None:
        """Fill the scope with method, path and query, as uvicorn does."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _give_up(self) -> None:
        """Close the connection, unless an earlier request of it is still being answered."""
        if self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            self._alarm.set(REQUEST_SECONDS)
        else:
            self.transport.close()
