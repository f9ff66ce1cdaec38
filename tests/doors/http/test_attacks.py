"""Requests that two servers in a row could read in two ways, and headers that break out of their line."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_network

import pytest

from gateway.chain.address import ClientAddress
from gateway.doors.grpc import Connections
from gateway.doors.http import Bounds
from tests.doors.conftest import Doors, serve
from tests.doors.wire import SECONDS, connect, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = b'{"workflow_id":"echo"}'
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
HOST = b"Host: localhost"
POST = b"POST /api/v1/execute HTTP/1.1"


def head(*fields: bytes, line: bytes = POST, host: bytes | None = HOST) -> bytes:
    lines = [line, *([host] if host else []), b"Content-Type: application/json", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def chunked(body: bytes) -> bytes:
    return head(CHUNKED) + body


LENGTHS = {
    "length and chunks": head(LENGTH, CHUNKED) + CHUNKS,
    "chunks and length": head(CHUNKED, LENGTH) + CHUNKS,
    "the same length twice": head(LENGTH, LENGTH) + BODY,
    "two lengths": head(LENGTH, b"Content-Length: 5") + BODY,
    "a list of lengths": head(b"Content-Length: 22, 22") + BODY,
    "-length": head(b"Content-Length: -22") + BODY,
    "+length": head(b"Content-Length: +22") + BODY,
    "hexadecimal length": head(b"Content-Length: 0x16") + BODY,
    "length_": head(b"Content-Length: 2_2") + BODY,
    "empty length": head(b"Content-Length:") + BODY,
    "overflowing length": head(b"Content-Length: 18446744073709551638") + BODY,
}
CODINGS = {
    "xchunked": head(b"Transfer-Encoding: xchunked") + CHUNKS,
    "identity": head(b"Transfer-Encoding: identity") + CHUNKS,
    "gzip, chunked": head(b"Transfer-Encoding: gzip, chunked") + CHUNKS,
    "chunked, gzip": head(b"Transfer-Encoding: chunked, gzip") + CHUNKS,
    "chunked twice": head(CHUNKED, CHUNKED) + CHUNKS,
    "chunked, then identity": head(CHUNKED, b"Transfer-Encoding: identity") + CHUNKS,
    "vertical tab": head(b"Transfer-Encoding: \x0bchunked") + CHUNKS,
    "space before the colon": head(b"Transfer-Encoding : chunked") + CHUNKS,
    "NUL": head(b"Transfer-Encoding: chunked\x00") + CHUNKS,
    "quoted": head(b'Transfer-Encoding: "chunked"') + CHUNKS,
    "HTTP/1.0": head(CHUNKED, line=b"POST /api/v1/execute HTTP/1.0") + CHUNKS,
}
CHUNK_SHAPES = {
    "extension that ends with LF": chunked(CHUNKS.replace(b"\r\n", b";a\n", 1)),
    "size that ends with LF": chunked(CHUNKS.replace(b"\r\n", b"\n", 1)),
    "data that ends with LF": chunked(CHUNKS.replace(b"}\r\n", b"}\n", 1)),
    "0x": chunked(b"0x" + CHUNKS),
    "negative": chunked(b"-" + CHUNKS),
    "overflowing": chunked(b"1" * 17 + CHUNKS),
    "space behind the size": chunked(CHUNKS.replace(b"\r\n", b" \r\n", 1)),
    "size too small": chunked(b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "length in the trailers": chunked(CHUNKS[:-2] + b"Content-Length: 5\r\n\r\n"),
    "an extension that never ends": chunked(b"16;" + b"a" * 200_000),
    "trailers that never end": chunked(CHUNKS[:-2] + b"x-trailer: " + b"a" * 200_000),
}
LINES = {
    "LF alone": (head(LENGTH) + BODY).replace(b"\r\n", b"\n"),
    "LF behind the request line": (head(LENGTH) + BODY).replace(b"\r\n", b"\n", 1),
    "LF in a value": head(LENGTH, b"x-a: b\nx-tenant-id: c") + BODY,
    "CR in a value": head(LENGTH, b"x-a: b\rx-tenant-id: c") + BODY,
    "CR CR LF": (head(LENGTH) + BODY).replace(b"\r\n", b"\r\r\n", 1),
    "NUL in a value": head(LENGTH, b"x-a: b\x00c") + BODY,
    "NUL in a name": head(LENGTH, b"x\x00a: b") + BODY,
    "another control character": head(LENGTH, b"x-a: b\x01") + BODY,
    "obs-fold": head(LENGTH, b"x-a: b\r\n c") + BODY,
    "obs-fold with a tab": head(LENGTH, b"x-a: b\r\n\tc") + BODY,
    "a fold at once": head(b" x-a: b", LENGTH, host=None) + BODY,
    "space before the colon": head(LENGTH, b"x-a : b") + BODY,
    "space in a name": head(LENGTH, b"x a: b") + BODY,
    "no colon": head(LENGTH, b"x-a") + BODY,
    "no name": head(LENGTH, b": b") + BODY,
    "a name that is no token": head(LENGTH, b"x(a): b") + BODY,
    "control character in the path": head(LENGTH, line=b"POST /api\x01 HTTP/1.1") + BODY,
    "no ASCII in the path": head(LENGTH, line="POST /äpi HTTP/1.1".encode()) + BODY,
    "tabs in the request line": head(LENGTH, line=b"POST\t/api/v1/execute\tHTTP/1.1") + BODY,
}
HOSTS = {
    "no host": head(LENGTH, host=None) + BODY,
    "two hosts": head(LENGTH, b"Host: evil.example") + BODY,
    "empty host": head(LENGTH, host=b"Host:") + BODY,
    "user at host": head(LENGTH, host=b"Host: a@localhost") + BODY,
    "path in the host": head(LENGTH, host=b"Host: localhost/x") + BODY,
    "two hosts in one": head(LENGTH, host=b"Host: localhost, evil.example") + BODY,
    "target of another host": head(LENGTH, line=b"POST http://evil.example/api/v1/execute HTTP/1.1") + BODY,
}
SHAPES = LENGTHS | CODINGS | CHUNK_SHAPES | LINES | HOSTS
SMUGGLED = head(LENGTH) + BODY


@pytest.mark.parametrize("shape", SHAPES)
async def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_closed(
    doors: Doors, shape: str
) -> None:
    async with connect(doors.http_port) as connection:
        connection.writer.write(SHAPES[shape] + SMUGGLED)
        answer = await connection.answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (400, 3)
        assert answer.headers["connection"] == "close"
        assert await connection.closed()
    assert doors.service.calls == []


@pytest.mark.parametrize("version", ["0.9", "2.0"])
async def test_other_versions_are_refused(doors: Doors, version: str) -> None:
    async with connect(doors.http_port) as connection:
        connection.writer.write(head(LENGTH, line=f"POST /api/v1/execute HTTP/{version}".encode()) + BODY)
        assert (await connection.answer()).status == 505
        assert await connection.closed()
    assert doors.service.calls == []


async def test_what_stands_behind_a_last_request_is_not_read(doors: Doors) -> None:
    for fields in ([b"Connection: close"], [b"Connection: upgrade", b"Upgrade: h2c"]):
        doors.forget()
        async with connect(doors.http_port) as connection:
            connection.writer.write(head(LENGTH, *fields) + BODY + SMUGGLED)
            assert (await connection.answer()).status == 200
            assert await connection.closed()
        assert len(doors.service.calls) == 1


async def test_requests_that_are_well_formed_are_not_refused(doors: Doors) -> None:
    good = [
        head(LENGTH) + BODY,
        chunked(CHUNKS),
        chunked(CHUNKS.replace(b"\r\n", b";name=value\r\n", 1)),
        chunked(CHUNKS.replace(b"\r\n0\r\n", b"\r\n000\r\n", 1)),
        head(b"transfer-encoding:\tChunked") + CHUNKS,
        head(LENGTH, host=b"Host: [::1]:8000") + BODY,
        head(LENGTH, host=b"host:gateway.example:443") + BODY,
        head(LENGTH, line=b"POST http://localhost/api/v1/execute HTTP/1.1") + BODY,
    ]
    async with connect(doors.http_port) as connection:
        for request in good:
            connection.writer.write(request)
            assert (await connection.answer()).status == 200, request
        connection.writer.write(head(LENGTH, line=b"POST /api/v1/execute HTTP/1.0", host=None) + BODY)
        assert (await connection.answer()).status == 200
        assert await connection.closed()


@pytest.mark.parametrize("field", [b"Connection: keep-alive", b"Proxy-Connection: keep-alive"])
async def test_an_old_client_is_one_whatever_it_asks_for(doors: Doors, field: bytes) -> None:
    async with connect(doors.http_port) as connection:
        connection.writer.write(head(LENGTH, field, line=b"POST /api/v1/execute HTTP/1.0", host=None) + BODY)
        assert (await connection.answer()).status == 200
        assert await connection.closed()


async def test_trailers_are_no_headers() -> None:
    trailers = b"X-Forwarded-For: 192.0.2.1\r\nAuthorization: Bearer forged\r\nX-Tenant-ID: forged\r\n\r\n"
    async with serve(Connections(), ClientAddress([ip_network("127.0.0.1")])) as doors:
        async with connect(doors.http_port) as connection:
            connection.writer.write(head(CHUNKED, b"x-forwarded-for: 198.51.100.7") + CHUNKS[:-2] + trailers)
            assert (await connection.answer()).status == 200
        [call] = doors.service.calls
        assert call.address == "198.51.100.7"
        assert not {"authorization", "x-tenant-id"} & call.metadata.keys()


async def test_a_bad_request_behind_a_call_is_not_its_answer(doors: Doors) -> None:
    hold = request_bytes(
        "POST", "/api/v1/execute", {"content-type": "application/json"}, b'{"workflow_id": "hold"}'
    )
    async with connect(doors.http_port) as connection:
        connection.writer.write(hold)
        await doors.service.called.wait()
        connection.writer.write(SHAPES["two lengths"])
        assert await connection.closed()
        async with asyncio.timeout(SECONDS):
            await doors.service.ended.wait()


async def test_many_fields_are_too_many(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        fields = {f"x-{number}": "" for number in range(98)}
        assert (await connection.request("GET", "/api/v1/health/live", fields)).status == 200
        answer = await connection.request("GET", "/api/v1/health/live", fields | {"x-98": ""})
        assert (answer.status, json.loads(answer.body)["code"]) == (431, 8)
        assert await connection.closed()


async def test_requests_that_wait_for_answers_are_not_taken_without_end(doors: Doors) -> None:
    """A connection that sent them as fast as they could be read held everybody else, and ever more memory."""
    asked = 1000
    async with connect(doors.http_port) as connection:
        connection.writer.write((head(LENGTH) + BODY) * asked)
        answers = [await connection.answer() for _ in range(1 + Bounds().pipelined)]
        assert {answer.status for answer in answers} == {200}
        assert ["connection" in answer.headers for answer in answers] == [False] * (len(answers) - 1) + [True]
        assert await connection.closed()
    assert len(doors.service.calls) == len(answers)
