"""One request and its answer over HTTP/1.1: uvicorn's cycle, the short way.

Nearly every request comes whole, head and body in one piece, and nearly every answer
is one head and one body. Those need no event to wait for the body, and no second
write. Whatever else an application sends is left to uvicorn, rule by rule.
"""

from __future__ import annotations

import asyncio
import re
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.transcoding.metadata import Headers
from gateway.transcoding.unary import WholeRequest
from gateway.transcoding.watch import ClientWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.doors.asgi import Event, RawHeaders
    from gateway.transcoding.responder import Response

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


def _layout_of(fields: RawHeaders) -> _Layout | None:
    return _layout(tuple([name for name, _ in fields]))


def whole_scope(request: WholeRequest, connection: HttpToolsProtocol) -> Any:
    """The request's ASGI scope, as uvicorn makes it."""
    http_method, raw_path, query, headers, client, _ = request
    path = raw_path.decode("ascii")
    return {
        "type": "http",
        "asgi": {"version": connection.asgi_version, "spec_version": "2.3"},
        "http_version": "1.1",
        "server": connection.server,
        "client": client,
        "scheme": connection.scheme,
        "root_path": "",
        "headers": list(headers.pairs),
        "state": {},
        "method": http_method,
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
    }


_GONE = WholeRequest("", b"", b"", Headers(()), None, b"")
"""In place of a request that has been served: its body is held no longer."""


def _nothing() -> None:
    """What an exchange that has ended is to its connection."""


class WholeRequestCycle(RequestResponseCycle):
    """Serves a request whose head and body are there, on a connection that is to be kept alive.

    An application that answers whole requests is asked for that first. For any other, and for what it does
    not answer so, this is the server's side of ASGI.
    """

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
    _event: Signal | None = None
    _is_watched = False
    _has_left = False
    _clients = ClientWatch()

    def __init__(self, protocol: HttpToolsProtocol, request: WholeRequest) -> None:
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.default_headers = protocol.server_state.default_headers
        self.on_response = protocol.on_response_complete
        self._protocol = protocol
        self._whole = request
        self._is_head = request.http_method == "HEAD"
        self._request: Event | None = None

    @cached_property
    def scope(self) -> Any:  # type: ignore[override] # which uvicorn asks for when it writes an answer
        """The request's ASGI scope."""
        return whole_scope(self._whole, self._protocol)

    def start(self, app: Any) -> None:
        """Serve the request in a task of its own, which the server waits for when it stops."""
        protocol = self._protocol
        self._task = protocol.loop.create_task(self.run_asgi(app))
        protocol.tasks.add(self._task)

    @property
    def message_event(self) -> Signal:  # type: ignore[override]
        """Set when something happens that `receive` waits for."""
        if self._event is None:
            self._event = Signal()
        return self._event

    async def run_asgi(self, app: Any) -> None:
        """Serve the request."""
        answer = getattr(app, "answer", None)
        try:
            answering: Awaitable[Response] | None = None if answer is None else answer(self._whole)
            if answering is None:
                self._turn_to_events()
                await super().run_asgi(app)
            else:
                await self._respond(answering)
        except BaseException:
            if not self._has_left:
                self.logger.exception("Exception in ASGI application\n")
                await self._break_off()
        finally:
            self._protocol.tasks.discard(self._task)
            self.on_response = _nothing
            self._whole = _GONE
            del self._protocol

    def _turn_to_events(self) -> None:
        """Make the request what ASGI has of it. The body is held no longer than until it is received."""
        self.scope = whole_scope(self._whole, self._protocol)
        self._request = {"type": "http.request", "body": self._whole.body, "more_body": False}
        self._whole = _GONE

    async def _break_off(self) -> None:
        if self.response_started:
            self.transport.close()
        else:
            await self.send_500_response()

    async def _respond(self, answering: Awaitable[Response]) -> None:
        self._clients.add(self)
        try:
            status, fields, body, _ = await answering
        finally:
            self._clients.discard(self)
        if not self.disconnected and not self._send_whole(status, _layout_of(fields), fields, body):
            await super().send({"type": "http.response.start", "status": status, "headers": fields})
            await super().send({"type": "http.response.body", "body": body, "more_body": False})

    def watch_client(self) -> None:
        """From now on, end the call when its client goes away."""
        self._is_watched = True
        if self.disconnected:
            self.leave()

    def leave(self) -> None:
        """The client has gone."""
        if self._is_watched and not self.response_complete:
            self._has_left = True
            self._task.cancel()

    async def receive(self) -> Any:
        """The whole request, and then the end of the exchange."""
        request, self._request = self._request, None
        if request is not None and not self.disconnected:
            return request
        return await super().receive()

    async def send(self, message: Any) -> None:
        """Hold the head of an answer until its body comes, if that is announced; write parts of others."""
        if self.chunked_encoding and message.get("more_body") and self._can_stream():
            if body := message.get("body"):
                self.transport.write(b"".join((b"%x\r\n" % len(body), body, b"\r\n")))
            return
        if not self.response_started and not self.disconnected:
            if message["type"] == "http.response.start":
                self._layout = _layout_of(message["headers"])
                if self._layout is not None:
                    self._start = message
                    return
            elif self._start is not None:
                start, self._start = self._start, None
                if not message.get("more_body") and self._send_whole(
                    start["status"], self._layout, start["headers"], message.get("body", b"")
                ):
                    return
                await super().send(start)
        await super().send(message)

    def _can_stream(self) -> bool:
        """Whether a part of the body can be written now, as it is."""
        refused = self.flow.write_paused or self.disconnected or self.response_complete
        return not refused and not self._is_head

    def _send_whole(self, status: int, layout: _Layout | None, fields: RawHeaders, body: bytes) -> bool:
        """Write head and body at once. False, and nothing is written, for what is not plain."""
        if (
            layout is None
            or self.flow.write_paused
            or not self.keep_alive
            or self._is_head
            or fields[layout.length][1] != b"%d" % len(body)
        ):
            return False
        lines = layout.template % tuple([value for _, value in fields])
        if len(lines.translate(None, _CONTROLS)) != len(lines) - layout.controls:
            return False
        self.transport.write(b"".join((STATUS_LINE[status], _lines(*self.default_headers), lines, body)))
        self.response_started = self.response_complete = True
        if self._event is not None:
            self._event.set()
        self.on_response()
        return True
