"""One HTTP request to n8n and its answer, with deadlines, on aiohttp.

What aiohttp leaves open is closed here:

- whether a request that failed may have been sent (there was a connection or not);
- idle and total deadlines that cost nothing per read;
- an aborted request leaves at once, whatever is still unsent;
- a kept-alive connection on which n8n sent something unasked is not used again, for that
  would be read as the answer to the next request;
- a body whose HTTP chunks are broken ends at once, where aiohttp's reader waits on;
- compressed answers are decoded in steps, so that a small one cannot fill the memory.
"""

from __future__ import annotations

import asyncio
import io
import ssl
import zlib
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.tracing import Trace
from yarl import URL

from gateway.adapters.addresses import AddressRefused, Networks
from gateway.adapters.n8n import faults
from gateway.adapters.n8n.faults import Fate

_ONE_GO = 2**20
_UNASKED = 16
_PLAIN = {"", "identity"}
_DECODED = {"gzip", "x-gzip", "deflate"}
_INFLATE_STEP = 2**18
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_TRANSPORT_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds.

    `connect` covers name, TCP and TLS; waiting before that for a free connection may take as
    long again. `first_byte` runs from the start to the answer's headers, which a workflow
    that does not stream sends only when it is done; None leaves it to `total`. `idle` is the
    longest silence within the body, while the reader waits. `total` is from the start to
    the end of the body, whatever the reader does.
    """

    connect: float
    idle: float
    total: float
    first_byte: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What to send. `url` is complete and encoded."""

    method: str
    url: URL
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


class _Attempt:
    """What is known of a request before it has an answer."""

    __slots__ = ("transport",)

    def __init__(self) -> None:
        self.transport: asyncio.WriteTransport | None = None


_attempt: ContextVar[_Attempt] = ContextVar("n8n_attempt")


class Connector(aiohttp.TCPConnector):
    """Tells `send` when it has a connection, and never gives one that spoke unasked."""

    def __init__(
        self, *, keepalive_seconds: float, ssl_context: ssl.SSLContext | None, networks: Networks | None
    ) -> None:
        super().__init__(
            limit=0,
            keepalive_timeout=keepalive_seconds,
            ssl=ssl_context or True,
            socket_factory=None if networks is None else networks.socket,
        )
        self._known: WeakSet[ResponseHandler] = WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the name is aiohttp's
    ) -> Connection:
        """Give a connection, kept or new."""
        for _ in range(_UNASKED):
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                self._meet(protocol)
                _attempt.get().transport = connection.transport
                return connection
            connection.close()
        raise aiohttp.ClientConnectionError

    def _meet(self, protocol: ResponseHandler) -> None:
        """See that the loss of an idle connection is nobody's unhandled error."""
        if protocol not in self._known:
            self._known.add(protocol)
            if protocol.closed is not None:
                protocol.closed.add_done_callback(asyncio.Future.exception)


async def send(session: aiohttp.ClientSession, request: Request, timeouts: Timeouts) -> Answer:
    """Send a request over a session that has a `Connector`; give the answer once it has headers.

    Raises N8N_UNREACHABLE, N8N_ADDRESS_REFUSED, N8N_CONNECTION_LOST, N8N_FIRST_BYTE_TIMEOUT,
    N8N_TIMEOUT, N8N_MALFORMED_RESPONSE.
    """
    begun = asyncio.get_running_loop().time()
    first_byte = timeouts.total if timeouts.first_byte is None else min(timeouts.first_byte, timeouts.total)
    attempt = _Attempt()
    token = _attempt.set(attempt)
    try:
        async with asyncio.timeout_at(begun + first_byte):
            response = await session.request(
                request.method,
                request.url,
                data=_body(request.body),
                headers=request.headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect),
            )
    except BaseException as error:
        if attempt.transport is not None:
            attempt.transport.abort()
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
            reason = "N8N_TIMEOUT" if first_byte == timeouts.total else "N8N_FIRST_BYTE_TIMEOUT"
            fate = Fate.NEVER_SENT if attempt.transport is None else Fate.UNKNOWN
            raise faults.timed_out(reason, first_byte, fate) from error
        if isinstance(error.__cause__, AddressRefused):
            raise faults.address_refused() from None
        if isinstance(error, _TRANSPORT_ERRORS):
            raise faults.of_transport(error, connected=attempt.transport is not None) from _cause(error)
        raise
    finally:
        _attempt.reset(token)
    return Answer(response, timeouts, begun)


def _body(body: bytes | None) -> bytes | io.BytesIO | None:
    """Give aiohttp what is large as a file, because it writes bytes in one go."""
    return body if body is None or len(body) <= _ONE_GO else io.BytesIO(body)


def _cause(error: BaseException) -> BaseException | None:
    """Leave out a cause that shows the request's headers."""
    return None if isinstance(error, aiohttp.ClientResponseError) else error


class Answer:
    """An answer whose headers are there. `close` it, whatever happens."""

    __slots__ = (
        "_closed",
        "_coding",
        "_deadline",
        "_failed",
        "_inflater",
        "_loop",
        "_response",
        "_timeouts",
        "_timer",
        "_waiting_since",
    )

    def __init__(self, response: aiohttp.ClientResponse, timeouts: Timeouts, begun: float) -> None:
        self._response = response
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._deadline = begun + timeouts.total
        self._coding = response.headers.get("Content-Encoding", "").strip().lower()
        self._inflater = _Inflater() if self._coding in _DECODED else None
        self._failed: Exception | None = None
        self._waiting_since: float | None = None
        self._timer = self._next_look(self._loop.time())
        connection = response.connection
        protocol = None if connection is None else connection.protocol
        self._closed = None if protocol is None else protocol.closed
        if self._closed is not None:
            self._closed.add_done_callback(self._lose)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The HTTP headers; names in any case."""
        return self._response.headers

    async def read(self) -> bytes:
        """Give the next bytes of the body, decoded, as soon as there are any; b"" at its end.

        Raises N8N_CONNECTION_LOST, N8N_IDLE_TIMEOUT, N8N_TIMEOUT, N8N_MALFORMED_RESPONSE.
        """
        inflater = self._inflater
        if inflater is None:
            if self._coding not in _PLAIN:
                raise faults.malformed("it is compressed in a way that was not asked for")
            return await self._receive()
        while self._failed is None:
            if decoded := inflater.step():
                return decoded
            data = await self._receive()
            if not data:
                inflater.finish()
                return b""
            inflater.put(data)
        raise self._failed

    async def read_all(self, limit: int) -> bytes:
        """Give the whole body, or at least its first `limit` bytes."""
        body = bytearray()
        while len(body) < limit and (data := await self.read()):
            body += data
        return bytes(body)

    def close(self) -> None:
        """Keep the connection when the answer is complete, else abort it at once."""
        self._timer.cancel()
        if self._closed is not None:
            self._closed.remove_done_callback(self._lose)
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            # One that is only closed lives on until the peer took all that is unsent.
            connection.transport.abort()
        self._response.close()

    async def _receive(self) -> bytes:
        self._waiting_since = self._loop.time()
        try:
            return await self._response.content.readany()
        except _TRANSPORT_ERRORS as error:
            raise faults.of_transport(error, connected=True) from error
        finally:
            self._waiting_since = None

    def _next_look(self, since: float) -> asyncio.TimerHandle:
        """Look again when the next deadline could pass: one timer a period, not one a read."""
        return self._loop.call_at(min(since + self._timeouts.idle, self._deadline), self._look)

    def _look(self) -> None:
        now, since = self._loop.time(), self._waiting_since
        if now >= self._deadline:
            self._fail(faults.timed_out("N8N_TIMEOUT", self._timeouts.total))
        elif since is not None and now >= since + self._timeouts.idle:
            self._fail(faults.timed_out("N8N_IDLE_TIMEOUT", self._timeouts.idle))
        else:
            self._timer = self._next_look(now if since is None else since)

    def _lose(self, _: asyncio.Future[None]) -> None:
        """End a body that ends with the connection, and was not told so by aiohttp."""
        content, connection = self._response.content, self._response.connection
        if content.is_eof() or content.exception() is not None:
            return
        protocol = None if connection is None else connection.protocol
        error = None if protocol is None else protocol.exception()
        cause = error if isinstance(error, Exception) else aiohttp.ClientConnectionError()
        self._fail(faults.of_transport(cause, connected=True))

    def _fail(self, failed: Exception) -> None:
        self._failed = failed
        self._response.content.set_exception(failed)
        self.close()


class _Inflater:
    """Decodes gzip (members one after the other) and zlib, in steps of bounded size."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._data = b""
        self._begun = False

    def put(self, data: bytes) -> None:
        """Take the next bytes. `step` must have given b"" before."""
        self._data = data
        self._begun = True

    def step(self) -> bytes:
        """Give the next decoded bytes; b"" when more must be put first."""
        while self._data:
            if self._decoder.eof:
                self._decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
            try:
                decoded = self._decoder.decompress(self._data, _INFLATE_STEP)
            except zlib.error as error:
                raise faults.malformed("it is not compressed as it says") from error
            self._data = self._decoder.unconsumed_tail or self._decoder.unused_data
            if decoded:
                return decoded
        return b""

    def finish(self) -> None:
        """Take the end."""
        if self._begun and not self._decoder.eof:
            raise faults.malformed("its compressed body was cut")
