"""One request and its answer over HTTP/1.1: uvicorn's cycle, the short way.

Nearly every request comes whole, head and body in one piece, and nearly every answer
is one head and one body. Those need no event to wait for the body, and no second
write. Whatever else an application sends is left to uvicorn, rule by rule.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from gateway.doors.asgi import Event

_is_plain_name = re.compile(rb"(?!connection$|transfer-encoding$)[a-z0-9!#$%&'*+.^_`|~-]+").fullmatch
"""Whether uvicorn sends a field of this name as it is, and it says nothing of the connection."""

_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})
"""What no field's value has in it."""


class _Layout(NamedTuple):
    """How fields of some names are written, with the empty line behind them, and where the length stands."""

    template: bytes
    length: int
    controls: int


@lru_cache(maxsize=256)
def _layout(names: tuple[bytes, ...]) -> _Layout | None:
    """The layout of plain fields; None where uvicorn must look at them, or the body's length is not told."""
    if names.count(b"content-length") != 1 or not all(map(_is_plain_name, names)):
        return None
    template = b"".join([b"%b: %%b\r\n" % name.replace(b"%", b"%%") for name in names]) + b"\r\n"
    return _Layout(template, names.index(b"content-length"), 2 * len(names) + 2)


@lru_cache(maxsize=8)
def _lines(*fields: tuple[bytes, bytes]) -> bytes:
    """The fields that every answer has; the date among them changes each second."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


class Signal:
    """Does what an asyncio.Event does in a tenth of its memory: each open connection has two."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self, *, is_set: bool = False) -> None:
        self._is_set = is_set
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def set(self) -> None:
        """Let all go on that wait, and that will."""
        self._is_set = True
        waiters, self._waiters = self._waiters, ()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Let wait, from now on, who comes."""
        self._is_set = False

    async def wait(self) -> None:
        """Wait until it is set."""
        if not self._is_set:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters += (waiter,)
            await waiter


class WholeRequestCycle(RequestResponseCycle):
    """The ASGI side of a request whose head and body are there. Its connection is to be kept alive."""

    access_log = False
    disconnected = False
    keep_alive = True
    waiting_for_100_continue = False
    more_body = False
    response_started = False
    response_complete = False
    chunked_encoding = None
    expected_content_length = 0
    _start: Any = None
    _layout: _Layout | None = None
    _values: tuple[bytes, ...] = ()
    _event: Signal | None = None

    def __init__(self, protocol: HttpToolsProtocol, body: bytes) -> None:
        self.scope = protocol.scope
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.default_headers = protocol.server_state.default_headers
        self.on_response = protocol.on_response_complete
        self._request: Event | None = {"type": "http.request", "body": body, "more_body": False}

    @property
    def message_event(self) -> Signal:  # type: ignore[override]
        """Set when something happens that `receive` waits for."""
        if self._event is None:
            self._event = Signal()
        return self._event

    async def receive(self) -> Any:
        """The whole request, and then the end of the exchange."""
        request, self._request = self._request, None
        if request is not None and not self.disconnected:
            return request
        return await super().receive()

    async def send(self, message: Any) -> None:
        """Hold the head of an answer until its body comes, if that is announced."""
        if not self.response_started and not self.disconnected:
            if message["type"] == "http.response.start":
                fields = message["headers"]
                if fields:
                    names, self._values = zip(*fields, strict=False)
                    self._layout = _layout(names)
                    if self._layout is not None:
                        self._start = message
                        return
            elif self._start is not None:
                start, self._start = self._start, None
                if self._send_whole(start["status"], message):
                    return
                await super().send(start)
        await super().send(message)

    def _send_whole(self, status: int, message: Event) -> bool:
        """Write head and body at once. False, and nothing is written, for what is not plain."""
        body: bytes = message.get("body", b"")
        layout, values = self._layout, self._values
        if (
            layout is None
            or message.get("more_body")
            or self.flow.write_paused
            or not self.keep_alive
            or self.scope["method"] == "HEAD"
            or values[layout.length] != b"%d" % len(body)
        ):
            return False
        fields = layout.template % values
        if len(fields.translate(None, _CONTROLS)) != len(fields) - layout.controls:
            return False
        self.transport.write(b"".join((STATUS_LINE[status], _lines(*self.default_headers), fields, body)))
        self.response_started = self.response_complete = True
        if self._event is not None:
            self._event.set()
        self.on_response()
        return True
