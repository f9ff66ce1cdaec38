"""HTTP/1.1 with bounds on what a request may take before anyone has judged it.

uvicorn bounds neither the size of a request's head nor the time that a request takes to
come, and leaves some of what RFC 9112 asks of a server to the server in front of it.
A request that comes whole is served by a shorter cycle than uvicorn's own.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.doors.http.alarm import Alarm
from gateway.doors.http.cycle import Signal, WholeRequestCycle, whole_scope
from gateway.transcoding.metadata import Headers
from gateway.transcoding.unary import WholeRequest

_BYTES_PER_CHUNK = 16
"""What the head and the end of a chunk may take, for each byte in it."""

_is_host = lru_cache(256)(re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{1,5})?").fullmatch)
"""Whether a Host header is a host with or without a port."""

_ASKING_TO_STAY = {b"connection", b"proxy-connection"}
_UNUSUAL = _ASKING_TO_STAY | {b"expect", b"transfer-encoding"}
"""Fields that say something of the connection, or of how the body comes."""


_CODES = {400: 3, 408: 4, 431: 8, 503: 14, 505: 12}
"""The code of google.rpc.Status for each HTTP status that is answered here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What requests and connections may take; times in seconds.

    A request's head (`head_bytes`, `head_count` fields) must be there `head_seconds` after its first
    byte or the connection's begin, its body `body_seconds` later. Between two requests a connection may
    be idle for `idle_seconds`: longer than balancers keep one (60), so that it is they who close it.
    More than `connections` at once are turned away. While requests that are not answered yet hold more
    than `pending_bytes` in bodies, only small ones are taken (`small_bytes`). Of a connection's requests no
    more than `pipelined` wait for the answers to those before: it ends with theirs.
    """

    head_bytes: int = 64 * 1024
    head_count: int = 100
    head_seconds: float = 20
    body_seconds: float = 60
    idle_seconds: int = 75
    connections: int = 10_000
    pending_bytes: int = 256 << 20
    small_bytes: int = 64 * 1024
    pipelined: int = 64


_NO_HEAD = Headers(())


def _is_usual(head: Headers) -> bool:
    """Whether nothing of a head needs a closer look: most are so."""
    return not head.has_repeated() and head.has_none(_UNUSUAL) and bool(_is_host(head.raw(b"host") or b""))


class Pending:
    """Bytes of bodies that all connections of a server hold."""

    def __init__(self) -> None:
        self.size = 0


class _RefusedError(Exception):
    """Stops the parser."""


class _Flow(FlowControl):
    """uvicorn's, with a smaller event."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = self.write_paused = False
        self._is_writable_event = Signal(is_set=True)  # type: ignore[assignment] # all that is asked of one


class _Pipeline(list[Any]):
    """Requests that wait for the answer to the one before: hardly ever any, and an empty list is small."""

    def appendleft(self, waiting: Any) -> None:
        self.insert(0, waiting)


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol; what is too large, too slow or no HTTP is told so, and the connection closed."""

    # More attributes in the instance's dict than uvicorn has itself would make it five times as large.
    __slots__ = (
        "_alarm",
        "_body",
        "_bounds",
        "_head",
        "_held",
        "_holds",
        "_in_head",
        "_in_request",
        "_is_full",
        "_is_head_usual",
        "_is_new",
        "_pending",
        "_received",
        "_refusal",
        "_served",
    )

    def __init__(self, bounds: Bounds, pending: Pending, **options: Any) -> None:
        super().__init__(**options)
        self.pipeline = _Pipeline()  # type: ignore[assignment] # of what a deque does, all that is asked of it
        self._bounds = bounds
        self._pending = pending
        self._holds = 0
        self._in_head = True
        self._in_request = False
        self._is_new = False
        self._head = _NO_HEAD
        """The fields of the newest head; most clients send the same on a connection again and again."""
        self._is_head_usual = False
        self._is_full = False
        """Whether what comes is not read any more, for too many requests wait."""
        self._received = self._body = 0
        self._served: RequestResponseCycle | None = None
        """What is being answered; `cycle` is the newest, which may wait for its turn."""
        self._refusal: tuple[int, str] | None = None
        self._held: bytes | None = None
        """The body so far of a request that may come whole; None when uvicorn has the request."""
        self._alarm = Alarm(self.loop, self._give_up)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request's time starts, unless there are too many connections already."""
        if len(self.connections) >= self._bounds.connections:
            self.transport = transport
            self._answer(503, "The gateway has as many connections as it can serve.")
            return
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._alarm.set(self._bounds.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._alarm.close()
        self._free()
        super().connection_lost(exc)
        served = self._served
        if served is not None and not served.response_complete:
            served.disconnected = True
            served.message_event.set()
            if isinstance(served, WholeRequestCycle):
                served.leave()

    def data_received(self, data: bytes) -> None:
        """Parse, as long as the request stays within its bounds."""
        if self._is_full:
            return
        self._received += len(data)
        try:
            self.parser.feed_data(data)
            if self._held is not None:
                self._let_go()
            elif self._is_new:
                self._is_new = False
                self._alarm.set(self._bounds.head_seconds)
            if self._received > self._bounds.head_bytes:
                self._check_size()
        except httptools.HttpParserUpgrade:
            pass  # the connection closes after the answer
        except (httptools.HttpParserError, _RefusedError) as error:
            if self._is_full:
                self.cycle.keep_alive = False
                return
            self._stop(*self._refusal or (400, f"The request is no valid HTTP/1.1: {error}"))

    def on_message_begin(self) -> None:
        """A request's first byte is there; its time starts unless the rest of the head is there, too."""
        self.url = b""
        self.headers = []
        self._in_head = self._in_request = self._is_new = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; one behind a chunked body must not be taken for one (RFC 9110, 6.5.1)."""
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there. What follows an offer to upgrade is not read: the connection is closed."""
        received, self._received, self._body = self._received, 0, 0
        if len(self.headers) > self._bounds.head_count or (
            received > self._bounds.head_bytes and self._head_size() > self._bounds.head_bytes
        ):
            self._refuse_head()
        if self._head.pairs != self.headers:
            self._head = Headers(self.headers)
            self._is_head_usual = _is_usual(self._head)
        # What is usual and asks to stay is HTTP/1.1.
        is_usual = self._is_head_usual and self.url.startswith(b"/") and self.parser.should_keep_alive()
        version = "1.1" if is_usual else self._http_version()
        if not is_usual:
            self._check_head(version)
        expected = None if is_usual else self._head.raw(b"expect")
        self.expect_100_continue = expected is not None and expected.lower() == b"100-continue"
        self._in_head = self._is_new = False
        if version == "1.1" and self._is_plain():
            self._held = b""
        else:
            self._start_in_parts()

    def on_body(self, body: bytes) -> None:
        """A part of the body is there."""
        self._body += len(body)
        self._holds += len(body)
        self._pending.size += len(body)
        if self._pending.size > self._bounds.pending_bytes and self._body > self._bounds.small_bytes:
            self._refuse(503, "The gateway holds as many bodies of requests as it can.")
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
            self.cycle = self._served = cycle = WholeRequestCycle(self, self._whole(body))
            cycle.start(self.app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """The answer has been sent: the next request's turn, or the wait for it."""
        self.server_state.total_requests += 1
        if self._holds:
            self._free()
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._in_request:
            self._alarm.set(self.timeout_keep_alive)

    def _is_plain(self) -> bool:
        """Whether the request is the only one of its connection, and its answer waits for nothing else."""
        cycle, parser = self.cycle, self.parser
        return (
            (cycle is None or cycle.response_complete)
            and not self.expect_100_continue
            and not parser.should_upgrade()
            and parser.should_keep_alive()
        )

    def _http_version(self) -> str:
        """The version. The parser takes long to tell, but of those that it knows, 1.1 alone stays unasked."""
        if self.parser.should_keep_alive() and self._head.has_none(_ASKING_TO_STAY):
            return "1.1"
        return self.parser.get_http_version()

    def _let_go(self) -> None:
        """The rest of the request is still to come: uvicorn takes it over."""
        body, self._held = self._held, None
        self._start_in_parts()
        if body:
            super().on_body(body)

    def _start_in_parts(self) -> None:
        """Leave the request, of which there may be more to come, to uvicorn."""
        if len(self.pipeline) >= self._bounds.pipelined:
            self._is_full = True
            raise _RefusedError
        scope: Any = whole_scope(WholeRequest("", b"", b"", self._head, self.client, b""), self)
        self.scope = scope
        super().on_headers_complete()
        self.cycle.keep_alive &= not self.parser.should_upgrade()
        if len(self.pipeline) == 1:
            self.flow.resume_reading()  # or nobody would notice that the client has gone
        self._alarm.set(self._bounds.body_seconds)

    def _whole(self, body: bytes) -> WholeRequest:
        target = self.url
        if target.startswith(b"/") and b"#" not in target:
            raw_path, _, query = target.partition(b"?")
        else:
            url = httptools.parse_url(target)
            raw_path, query = url.path, url.query or b""
        method = self.parser.get_method().decode("ascii")
        return WholeRequest(method, raw_path, query, self._head, self.client, body)

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _check_size(self) -> None:
        """Refuse a head that does not end, and a body that is mostly something else."""
        if self._in_head:
            self._refuse_head()
        if self._received > self._bounds.head_bytes + self._body * (1 + _BYTES_PER_CHUNK):
            self._refuse(400, "The chunks of the request are mostly not its body.")

    def _check_head(self, version: str) -> None:
        """Refuse what RFC 9112 tells servers to refuse, and the parser lets pass (2.3, 3.2, 6.1)."""
        if version not in {"1.1", "1.0"}:
            self._refuse(505, "The gateway speaks HTTP/1.1.")
        host, coding = self._head.raw(b"host"), self._head.raw(b"transfer-encoding")
        repeated = self._repeated() if self._head.has_repeated() else ()
        if b"host" in repeated or (host is None and version == "1.1"):
            self._refuse(400, "The request needs one Host header, and no more.")
        if host is not None and not _is_host(host):
            self._refuse(400, "The Host header is no host with or without a port.")
        if not self.url.startswith((b"/", b"*")) and self.url.split(b"/", 3)[2:3] != [host]:
            self._refuse(400, "The request's target is of another host than the Host header.")
        if coding is not None and (
            coding.lower() != b"chunked" or b"transfer-encoding" in repeated or version == "1.0"
        ):
            self._refuse(400, "Transfer-Encoding can only be chunked, and not in HTTP/1.0.")

    def _repeated(self) -> set[bytes]:
        """The names that more than one field has."""
        return {name for name, count in Counter(name for name, _ in self.headers).items() if count > 1}

    def _refuse_head(self) -> NoReturn:
        most = f"{self._bounds.head_bytes} bytes and {self._bounds.head_count} fields"
        self._refuse(431, f"The head of the request is too large: at most {most}.")

    def _refuse(self, status: int, message: str) -> NoReturn:
        self._refusal = status, message
        raise _RefusedError

    def _stop(self, status: int, message: str) -> None:
        """Answer and close; only close where that would end up in, or be taken for, another answer."""
        self._held = None
        cycle = self.cycle
        if self._is_answering() or (cycle and cycle.response_started and not cycle.response_complete):
            self.transport.close()
        else:
            self._answer(status, message)

    def _is_answering(self) -> bool:
        """Whether an earlier request than the one that comes is still being answered."""
        cycle = self.cycle
        return bool(self.pipeline or (cycle and not cycle.response_complete and not cycle.more_body))

    def _free(self) -> None:
        """Hold no bodies any more."""
        self._pending.size -= self._holds
        self._holds = 0

    def _answer(self, status: int, message: str) -> None:
        body = json.dumps({"code": _CODES[status], "message": message, "details": []}).encode()
        fields = b"retry-after: 1\r\n" if status == 503 else b""  # noqa: PLR2004 (Service Unavailable)
        lines = b"".join(b"%s: %s\r\n" % header for header in self.server_state.default_headers)
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + lines + fields + head % len(body) + body)
        self.transport.close()

    def _give_up(self) -> None:
        """Close the connection, unless an earlier request of it is still being answered."""
        if self._is_answering():
            self._alarm.set(self._bounds.head_seconds)
        elif self._received or self._in_request:
            self._stop(408, "The request took too long to come.")
        else:
            self.transport.close()
