"""What no client would send: a clear status, the connection lives on where it can, memory stays bounded."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import tracemalloc

import grpc
import pytest

from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest
from tests.doors.conftest import EXECUTIONS, MAX_MESSAGE_BYTES, SECRET, Doors
from tests.doors.wire import (
    Answer,
    Http1,
    Http2,
    connect,
    connect_http2,
    frame,
    frames,
    request_bytes,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXECUTE = f"/{EXECUTIONS.type_name}/Execute"
WATCH = f"/{EXECUTIONS.type_name}/WatchExecution"
LIST = f"/{EXECUTIONS.type_name}/ListExecutions"
GOOD = ExecuteRequest(workflow_id="echo").to_binary()
LIE = 1 << 30

CUT = frame(b"abc", length=10)
HALF_HEAD = b"\x00\x00\x00"
TOO_LONG = frame(b"abc", length=LIE)
NO_ENCODING = frame(b"abc", flags=1)
NO_FLAGS = frame(GOOD, flags=0x40)
TWO = frame(GOOD) * 2


async def works(connection: Http1) -> bool:
    """Whether the same connection still answers a good call."""
    answer = await connection.post(EXECUTE, "application/proto", GOOD)
    return answer.status == 200


def end_of_stream(answer: Answer) -> dict[str, str]:
    """The error at the end of a Connect stream."""
    flags, message = frames(answer.body)[-1]
    assert flags == 2
    error: dict[str, str] = json.loads(message)["error"]
    return error


def grpc_status(answer: Answer) -> tuple[int, str]:
    """Status and message of a gRPC-Web answer, whether in its headers or in its last frame."""
    if "grpc-status" in answer.headers:
        return int(answer.headers["grpc-status"]), answer.headers.get("grpc-message", "")
    flags, trailers = frames(answer.body)[-1]
    assert flags == 0x80
    fields = dict(line.split(": ", 1) for line in trailers.decode().split("\r\n") if line)
    return int(fields["grpc-status"]), fields.get("grpc-message", "")


@pytest.mark.parametrize(
    ("body", "code", "number"),
    [
        (CUT, "invalid_argument", 3),
        (HALF_HEAD, "invalid_argument", 3),
        (TOO_LONG, "resource_exhausted", 8),
        (NO_ENCODING, "internal", 13),
        (NO_FLAGS, "invalid_argument", 3),
        (TWO, "unimplemented", 12),
        (b"", "unimplemented", 12),
    ],
    ids=["cut", "half a head", "length that lies", "compressed without encoding", "flags", "two", "none"],
)
async def test_frames_that_are_wrong_are_refused_and_the_connection_lives_on(
    doors: Doors, body: bytes, code: str, number: int
) -> None:
    async with connect(doors.http_port) as connection:
        stream = await connection.post(WATCH, "application/connect+proto", body)
        assert end_of_stream(stream)["code"] == code
        for path in (EXECUTE, WATCH):
            web = await connection.post(path, "application/grpc-web+proto", body)
            assert grpc_status(web)[0] == number
        assert doors.service.calls == []
        assert await works(connection)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (CUT, b"grpc-status\x0212"),
        (HALF_HEAD, b"grpc-status\x0212"),
        (b"", b"grpc-status\x0212"),
        (TOO_LONG, b"grpc-status\x018"),
        (NO_ENCODING, b"grpc-status\x0213"),
        (frame(b"\xff\xff\xff"), b"grpc-status\x013"),
    ],
    ids=["cut", "half a head", "none", "length that lies", "compressed without encoding", "no protobuf"],
)
@pytest.mark.parametrize("path", [EXECUTE, WATCH])
async def test_grpc_frames_that_are_wrong_are_refused_and_the_connection_lives_on(
    doors: Doors, path: str, body: bytes, status: bytes
) -> None:
    async with connect_http2(doors.grpc_port) as connection:
        connection.start(1, path)
        connection.send(1, body)
        assert status in await connection.ended(1)
        assert [call for call in doors.service.calls if call.request is not None] == []
        connection.start(3, EXECUTE)
        connection.send(3, frame(GOOD))
        assert b"echo" in await connection.ended(3)


async def test_a_second_message_ends_a_grpc_server_stream(doors: Doors) -> None:
    async with connect_http2(doors.grpc_port) as connection:
        connection.start(1, WATCH)
        connection.send(1, frame(b"") * 2)
        assert b"grpc-status\x0212" in await connection.ended(1)


async def test_of_a_grpc_unary_call_the_first_message_is_answered(doors: Doors) -> None:
    async with connect_http2(doors.grpc_port) as connection:
        connection.start(1, EXECUTE)
        connection.send(1, TWO)
        assert b"echo" in await connection.ended(1)


@pytest.mark.parametrize("content_type", [b"application/grpc+foo", b"application/grpc+json", b"image/jpeg"])
async def test_messages_on_the_grpc_port_are_binary_whatever_is_said(
    doors: Doors, content_type: bytes
) -> None:
    async with connect_http2(doors.grpc_port) as connection:
        connection.start(1, EXECUTE, content_type=content_type)
        connection.send(1, frame(GOOD))
        assert b"echo" in await connection.ended(1)
        connection.start(3, EXECUTE, content_type=content_type)
        connection.send(3, frame(b'{"workflow_id": "echo"}'))
        assert b"grpc-status\x013" in await connection.ended(3)


async def test_an_unknown_compression_on_the_grpc_port_disturbs_no_other_call(doors: Doors) -> None:
    async with connect_http2(doors.grpc_port) as connection:
        for stream in (1, 5):
            connection.start(stream, EXECUTE)
        connection.start(7, EXECUTE, (b"grpc-encoding", b"zstd"))
        connection.send(7, frame(GOOD, flags=1))
        assert b"grpc-status\x0213" in await connection.ended(7)
        for stream in (1, 5):
            connection.send(stream, frame(GOOD))
            assert b"echo" in await connection.ended(stream)


async def test_an_unknown_compression_is_named_and_refused(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        unary = await connection.post(EXECUTE, "application/proto", GOOD, content_encoding="zstd")
        assert (unary.status, json.loads(unary.body)["code"]) == (501, "unimplemented")
        stream = await connection.post(
            WATCH, "application/connect+proto", frame(b"", flags=1), connect_content_encoding="zstd"
        )
        assert end_of_stream(stream)["code"] == "unimplemented"
        web = await connection.post(
            EXECUTE, "application/grpc-web", frame(GOOD, flags=1), grpc_encoding="zstd"
        )
        number, message = grpc_status(web)
        assert number == 12
        assert "gzip" in message
        assert await works(connection)


async def test_broken_gzip_is_refused_in_our_own_words(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        for body in (b"no gzip", gzip.compress(GOOD)[:-9]):
            unary = await connection.post(EXECUTE, "application/proto", body, content_encoding="gzip")
            error = json.loads(unary.body)
            assert (unary.status, error["code"]) == (400, "invalid_argument")
            assert "gzip" in error["message"]
            assert "Error -" not in error["message"]
        assert await works(connection)


async def test_a_small_body_that_unpacks_to_much_is_refused_within_bounds(doors: Doors) -> None:
    bomb = gzip.compress(bytes(50 << 20))
    assert len(bomb) < MAX_MESSAGE_BYTES
    async with connect(doors.http_port) as connection:
        tracemalloc.start()
        try:
            answer = await connection.post(EXECUTE, "application/proto", bomb, content_encoding="gzip")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert json.loads(answer.body)["code"] == "resource_exhausted"
        assert peak < 8 * MAX_MESSAGE_BYTES
        assert await works(connection)


async def test_a_body_that_is_too_large_is_refused(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        answer = await connection.post(EXECUTE, "application/proto", bytes(MAX_MESSAGE_BYTES + 1))
        assert (answer.status, json.loads(answer.body)["code"]) == (429, "resource_exhausted")


async def test_a_megabyte_of_headers_is_too_large(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        answer = await connection.request("POST", EXECUTE, {"x-large": "x" * (1 << 20)}, GOOD)
        assert answer.status == 431
        assert await connection.closed()


async def test_many_headers_are_too_large_together(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        headers = {f"x-{number}": "x" * 1000 for number in range(100)}
        answer = await connection.request("GET", "/api/v1/health/live", headers)
        assert answer.status == 431
        assert await connection.closed()


async def test_a_header_that_never_ends_is_not_collected(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        connection.writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nx-endless: ")

        async def go_on() -> None:
            while True:
                connection.writer.write(b"x" * 65536)
                await connection.writer.drain()

        sender = asyncio.create_task(go_on())
        assert (await connection.answer()).status == 431
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)


async def test_large_headers_within_the_bound_arrive(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        value = "x" * 50_000
        answer = await connection.request(
            "POST", EXECUTE, {"content-type": "application/proto", "x-large": value}, GOOD
        )
        assert answer.status == 200
        assert doors.service.calls[-1].metadata["x-large"] == value


async def test_a_megabyte_of_grpc_metadata_is_refused_and_the_channel_lives_on(doors: Doors) -> None:
    async with grpc.aio.insecure_channel(doors.grpc_address) as channel:
        execute = channel.unary_unary(EXECUTE)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await execute(GOOD, metadata=[("x-large", "x" * (1 << 20))])
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await execute(GOOD, metadata=[("x-large", "x" * 20_000)])


async def test_http2_on_the_http1_port_is_told_so(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        connection.writer.write(Http2.PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        assert (await connection.answer()).status == 400
        assert await connection.closed()


async def test_an_offer_to_upgrade_is_passed_over(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        headers = {
            "connection": "Upgrade, HTTP2-Settings",
            "upgrade": "h2c",
            "http2-settings": "AAMAAABkAAQAAP__",
        }
        answer = await connection.request("GET", "/api/v1/health/live", headers)
        assert answer.status == 200


async def test_a_grpc_client_on_the_http_port_learns_that_it_is_the_wrong_one(doors: Doors) -> None:
    async with grpc.aio.insecure_channel(doors.http_url.removeprefix("http://")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(EXECUTE)(GOOD, timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "http1.x server" in (refused.value.details() or "")


async def test_grpc_over_http1_is_refused_as_grpc(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        answer = await connection.post(EXECUTE, "application/grpc+proto", frame(GOOD), te="trailers")
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/grpc+proto"
        number, message = grpc_status(answer)
        assert number == 12
        assert "http%2f2" in message
        assert await works(connection)


async def test_http1_on_the_grpc_port_is_closed(doors: Doors) -> None:
    async with connect(doors.grpc_port) as connection:
        connection.writer.write(request_bytes("GET", "/api/v1/health/live", {}))
        async with asyncio.timeout(10):
            await connection.reader.read()


async def test_unknown_methods_are_refused_in_the_callers_protocol(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        for path in (f"/{EXECUTIONS.type_name}/Nothing", "/nobody.v1.Nothing/Nothing"):
            unary = await connection.post(path, "application/proto", b"", connect_protocol_version="1")
            assert (unary.status, json.loads(unary.body)["code"]) == (404, "unimplemented")
            web = await connection.post(path, "application/grpc-web+proto", frame(b""))
            assert (web.status, grpc_status(web)[0]) == (200, 12)
        assert await works(connection)


@pytest.mark.parametrize("value", [b"caf\xe9", b"caf\xc3\xa9", b"\xff\xfe"])
async def test_headers_that_are_no_ascii_are_no_error(doors: Doors, value: bytes) -> None:
    async with connect(doors.http_port) as connection:
        connect_call = {"content-type": "application/proto", "x-city": value}
        assert (await connection.request("POST", EXECUTE, connect_call, GOOD)).status == 200
        assert (await connection.request("GET", "/api/v1/health/live", {"x-city": value})).status == 200


async def test_queries_that_are_no_text_are_refused(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        connection.writer.write(
            b"GET " + LIST.encode() + b"?encoding=json&message=%22\xff%22 HTTP/1.1\r\nhost: localhost\r\n\r\n"
        )
        answer = await connection.answer()
        assert answer.status == 400
        assert b"codec" not in answer.body


async def test_a_body_shorter_than_its_length_never_reaches_a_service(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        connection.writer.write(
            request_bytes(
                "POST", EXECUTE, {"content-type": "application/proto", "content-length": "99"}, GOOD
            )
        )
        connection.writer.write_eof()
        await connection.writer.drain()
    async with connect(doors.http_port) as other:
        assert await works(other)
    assert len(doors.service.calls) == 1


@pytest.mark.parametrize("workflow", ["raise", "unsendable", "unsendable error"])
async def test_no_door_tells_the_text_of_an_exception(doors: Doors, workflow: str) -> None:
    request = ExecuteRequest(workflow_id=workflow)
    expected = 3 if workflow == "unsendable error" else 13
    async with connect(doors.http_port) as connection:
        unary = await connection.post(EXECUTE, "application/proto", request.to_binary())
        web = await connection.post(EXECUTE, "application/grpc-web", frame(request.to_binary()))
        rest = await connection.post("/api/v1/execute", "application/json", request.to_json().encode())
        assert json.loads(unary.body)["code"] == ("invalid_argument" if expected == 3 else "internal")
        assert grpc_status(web)[0] == expected
        assert rest.status == (400 if expected == 3 else 500)
        for answer in (unary, web, rest):
            assert SECRET.encode() not in answer.body + str(answer.headers).encode()
            assert not re.search(rb"codec|Unicode|Traceback", answer.body)
    async with grpc.aio.insecure_channel(doors.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary(EXECUTE)(request.to_binary())
        assert failed.value.code().value[0] == expected
        assert SECRET not in f"{failed.value.details()}{failed.value.trailing_metadata()}"
    assert [outcome is None for outcome in doors.outcomes].count(False) >= 3  # REST encodes behind the chain
