"""One HTTP/1.1 connection to n8n (RFC 9112), on httptools: one request at a time, its answer as it comes.

A general HTTP client costs ten times as much, and leaves open what a run has to know: whether a request that
failed may have been sent, and that nothing which was said unasked is taken for the next answer.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from math import inf
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from multidict import CIMultiDict

from gateway.adapters.n8n import faults

_IN_ONE_GO = 2**16
_READ_AHEAD = 2**18
"""Bytes of a body that may wait for their reader."""
_MOST_FRAMING = 2**16
"""Bytes that may come without any of a body: a head, or what is around chunks."""
_KEEP_ALIVE = re.compile(r"\btimeout=([0-9]{1,9})")
_WITHOUT_BODY = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


class Connection(asyncio.Protocol):
    """Sends a request (`ask`), then gives the head of its answer (`answered`) and its body (`read`).

    Both raise N8N_CONNECTION_LOST, N8N_MALFORMED_RESPONSE, and what `fail` was given. What of a body came
    before the connection was lost is read first.
    """

    __slots__ = (
        "_body",
        "_ends_with_connection",
        "_fault",
        "_framing",
        "_has_ended",
        "_is_asked",
        "_is_interim",
        "_is_kept",
        "_is_paused",
        "_parser",
        "_received",
        "_transport",
        "_waiter",
        "headers",
        "status",
    )

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_asked = self._is_paused = False
        self._is_kept = True
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers: CIMultiDict[str] = CIMultiDict()
        self._body = bytearray()
        self._received = self._framing = 0
        self._fault: Exception | None = None
        self._is_interim = self._ends_with_connection = self._has_ended = False

    @property
    def idle_seconds(self) -> float:
        """How long the server keeps it for the next request, as far as it has said so (RFC 2068, 19.7.1)."""
        told = _KEEP_ALIVE.search(self.headers.get("Keep-Alive", ""))
        return float(told[1]) if told else inf

    @property
    def has_news(self) -> bool:
        """Whether `read` answers at once."""
        return bool(self._body) or not self._is_asked

    @property
    def is_free(self) -> bool:
        """Whether it can take a request: it is there, and the last answer was whole and has been read."""
        transport = self._transport
        return (
            transport is not None
            and self._is_kept
            and not (self._is_asked or self._body)
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def ask(self, head: bytes, body: bytes) -> None:
        """Send a request. Raises N8N_UNREACHABLE when the connection is gone: nothing was sent then."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise faults.unreachable()
        self._begin()
        self._is_asked = True
        if len(body) <= _IN_ONE_GO:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    async def answered(self) -> None:
        """Wait for the head of the answer."""
        while not self.status:
            if self._fault is not None:
                raise self._fault
            await self._change()

    async def read(self) -> bytes:
        """The next bytes of the body, as soon as there are any; b"" at its end."""
        while not self._body:
            if self._fault is not None:
                raise self._fault
            if not self._is_asked:
                return b""
            await self._change()
        data = bytes(self._body)
        self._body.clear()
        if self._is_paused:
            self._is_paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    def fail(self, fault: Exception) -> None:
        """End the answer here, with what of it was not read."""
        self._body.clear()
        self._end(fault)
        self.abort()

    def abort(self) -> None:
        """Leave at once: a transport that is only closed lives on until its peer took all that is unsent."""
        if self._transport is not None:
            self._transport.abort()

    async def _change(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _end(self, fault: Exception | None = None) -> None:
        self._is_asked = False
        self._fault = fault
        self._wake()

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self._is_asked:
            self.abort()
            return
        received = self._received
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._break()
            return
        self._framing = 0 if self._received > received else self._framing + len(data)
        if self._framing > _MOST_FRAMING:
            self._break()

    def _break(self) -> None:
        if self._is_asked:
            self._end(faults.malformed("it is not HTTP"))
        self.abort()

    def eof_received(self) -> None:
        """See asyncio.Protocol."""
        self._has_ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BaseProtocol."""
        self._transport = None
        if self._is_asked:
            is_whole = self._ends_with_connection and self._has_ended and exc is None
            self._end(None if is_whole else faults.connection_lost())

    # What the parser tells.

    def on_message_begin(self) -> None:
        """An answer begins."""
        if not self._is_asked:
            self._is_kept = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        if not self.status:
            self.headers.add(name.decode("latin-1"), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if not self._is_asked:
            return
        status = self._parser.get_status_code()
        if status < HTTPStatus.OK:
            self._is_interim = True
            self.headers.clear()
            return
        coding = ",".join(self.headers.getall("Transfer-Encoding", ())).strip().lower()
        is_framed = coding.endswith("chunked") or (not coding and "Content-Length" in self.headers)
        self._ends_with_connection = not is_framed and status not in _WITHOUT_BODY
        self.status = status
        self._wake()

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        if self._is_interim or not self._is_asked:
            return
        self._body += data
        self._received += len(data)
        if len(self._body) > _READ_AHEAD and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._is_interim:
            self._is_interim = False
        elif self._is_asked:
            self._is_kept = self._is_kept and self._parser.should_keep_alive()
            self._end()
