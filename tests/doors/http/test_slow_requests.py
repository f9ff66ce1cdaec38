"""Clients that let the HTTP port wait: slow heads, slow bodies, and more connections than there may be."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.doors.grpc import Connections
from gateway.doors.http import Bounds
from gateway.gen.n8ngateway.v1.execution_service_pb import WatchExecutionRequest
from tests.doors.conftest import EXECUTIONS, serve
from tests.doors.wire import SECONDS, Http1, connect, frame, request_bytes

WATCH = f"/{EXECUTIONS.type_name}/WatchExecution"
LIVE = request_bytes("GET", "/api/v1/health/live", {})
SLOW_HEAD = b"GET / HTTP/1.1\r\nhost: localhost\r\n"
SLOW_BODY = b"POST /api/v1/execute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


async def drip(connection: Http1, beginning: bytes, drop: bytes) -> bytes:
    """Begin a request and send more of it bit by bit; all that comes before the server closes."""

    async def send() -> None:
        connection.writer.write(beginning)
        while not connection.writer.is_closing():
            connection.writer.write(drop)
            await asyncio.sleep(0.02)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(SECONDS):
            return await connection.reader.read()
    except ConnectionResetError:
        return b""
    finally:
        sending.cancel()


@pytest.mark.parametrize(
    ("beginning", "drop"),
    [
        (SLOW_HEAD, b"x-slow: 1\r\n"),
        (SLOW_HEAD + b"x-endless: ", b"x"),
        (b"GET /", b"x"),
        (b"\r\n", b"\r\n"),
        (SLOW_BODY + b"content-length: 9999\r\n\r\n", b"x"),
        (SLOW_BODY + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (SLOW_BODY + b"transfer-encoding: chunked\r\n\r\n1", b";a=b"),
        (SLOW_BODY + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"x-trailer: 1\r\n"),
    ],
    ids=["fields", "one field", "path", "empty lines", "body", "chunks", "chunk extension", "trailers"],
)
async def test_a_request_that_comes_drop_by_drop_is_given_up(beginning: bytes, drop: bytes) -> None:
    bounds = Bounds(head_seconds=0.2, body_seconds=0.4, head_count=1_000_000)
    async with serve(Connections(), bounds=bounds) as doors, connect(doors.http_port) as connection:
        answer = await drip(connection, beginning, drop)
        assert not answer or answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert doors.service.calls == []


async def test_the_late_are_told_so() -> None:
    async with (
        serve(Connections(), bounds=Bounds(head_seconds=0.1)) as doors,
        connect(doors.http_port) as connection,
    ):
        connection.writer.write(SLOW_HEAD)
        answer = await connection.answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (408, 4)
        assert await connection.closed()


async def test_a_silent_connection_is_closed_without_a_word() -> None:
    async with (
        serve(Connections(), bounds=Bounds(head_seconds=0.1)) as doors,
        connect(doors.http_port) as connection,
    ):
        assert await connection.closed()


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with (
        serve(Connections(), bounds=Bounds(head_seconds=0.1, idle_seconds=1)) as doors,
        connect(doors.http_port) as connection,
    ):
        connection.writer.write(LIVE)
        assert (await connection.answer()).status == 200
        assert await connection.closed()


async def test_a_call_may_take_longer_than_its_request() -> None:
    bounds = Bounds(head_seconds=0.05, body_seconds=0.05)
    async with serve(Connections(), bounds=bounds) as doors, connect(doors.http_port) as connection:
        watch = frame(WatchExecutionRequest(execution_id="hold", after_sequence=1).to_binary())
        connection.writer.write(
            request_bytes("POST", WATCH, {"content-type": "application/connect+proto"}, watch)
        )
        await doors.service.called.wait()
        await asyncio.sleep(0.2)
        assert not doors.service.ended.is_set()


async def test_a_slow_request_behind_a_long_call_does_not_end_it() -> None:
    async with (
        serve(Connections(), bounds=Bounds(head_seconds=0.05)) as doors,
        connect(doors.http_port) as connection,
    ):
        watch = frame(WatchExecutionRequest(execution_id="hold", after_sequence=1).to_binary())
        connection.writer.write(
            request_bytes("POST", WATCH, {"content-type": "application/connect+proto"}, watch) + SLOW_HEAD
        )
        await doors.service.called.wait()
        await asyncio.sleep(0.2)
        assert not doors.service.ended.is_set()


async def test_more_connections_than_there_may_be_are_turned_away() -> None:
    async with (
        serve(Connections(), bounds=Bounds(connections=2)) as doors,
        connect(doors.http_port) as first,
        connect(doors.http_port) as second,
    ):
        for connection in (first, second):
            connection.writer.write(LIVE)
            assert (await connection.answer()).status == 200
        async with connect(doors.http_port) as third:
            answer = await third.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert await third.closed()
        first.writer.write(LIVE)
        assert (await first.answer()).status == 200
        second.writer.close()
        await second.writer.wait_closed()
        await _served(doors.http_port)


async def _served(port: int) -> None:
    """A new connection is served again, once the server has seen that the other one is gone."""
    async with asyncio.timeout(SECONDS):
        while True:
            async with connect(port) as connection:
                connection.writer.write(LIVE)
                if (await connection.answer()).status == 200:
                    return


async def test_bodies_of_requests_are_held_within_bounds_and_small_ones_still_taken() -> None:
    bounds = Bounds(pending_bytes=250_000, small_bytes=50_000)
    head = SLOW_BODY + b"content-length: 200000\r\n\r\n"
    async with (
        serve(Connections(), bounds=bounds) as doors,
        connect(doors.http_port) as first,
        connect(doors.http_port) as second,
        connect(doors.http_port) as third,
    ):
        first.writer.write(head + b" " * 190_000)
        second.writer.write(head + b" " * 190_000)
        async with asyncio.timeout(SECONDS):
            done, pending = await asyncio.wait(
                {asyncio.create_task(first.answer()), asyncio.create_task(second.answer())},
                return_when=asyncio.FIRST_COMPLETED,
            )
        [refused] = [task.result() for task in done]
        assert (refused.status, json.loads(refused.body)["code"]) == (503, 14)
        small = b'{"workflow_id": "echo"}'
        json_type = {"content-type": "application/json"}
        assert (await third.request("POST", "/api/v1/execute", json_type, small)).status == 200
        for connection in (first, second):
            connection.writer.write(b" " * (10_000 - len(small)) + small)
        [taken] = pending
        assert (await taken).status == 200
        large = b" " * 190_000 + small
        assert (await third.request("POST", "/api/v1/execute", json_type, large)).status == 200
