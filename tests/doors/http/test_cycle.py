"""Requests that come whole are answered as uvicorn's own cycle answers them, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable
from typing import Any

import pytest

from gateway.doors.asgi import Receive, Scope, Send
from gateway.doors.http import HttpServer
from gateway.doors.http.cycle import WholeRequestCycle
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest
from gateway.transcoding.responder import Response
from gateway.transcoding.unary import WholeRequest
from tests.doors.conftest import EXECUTIONS, ORIGIN, Doors
from tests.doors.wire import SECONDS, connect, frame, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXECUTE = f"/{EXECUTIONS.type_name}/Execute"
REST = "/api/v1/execute"
JSON = {"content-type": "application/json", "x-request-id": "one"}
PROTO = {"content-type": "application/proto", "x-request-id": "one"}
GZIP = {"accept-encoding": "gzip"}

Request = tuple[str, str, dict[str, str], bytes]

REQUESTS: dict[str, Request] = {
    "rest": ("POST", REST, JSON, b'{"workflow_id": "echo"}'),
    "rest error": ("POST", REST, JSON, b'{"workflow_id": "raise"}'),
    "rest malformed": ("POST", REST, JSON, b'{"workflow_id'),
    "rest without a body": ("POST", REST, JSON, b""),
    "rest wrong type": ("POST", REST, {"content-type": "text/plain"}, b"{}"),
    "rest wrong method": ("DELETE", REST, {}, b""),
    "rest unknown": ("GET", "/api/v1/nothing", {}, b""),
    "rest malformed path": ("GET", "/api/v1/executions/%zz", {}, b""),
    "rest encoded path": ("GET", "/api/v1/executions/a%2Fb%C3%A4?x=%20", {"x-request-id": "one"}, b""),
    "rest get": ("GET", "/health/live", {"x-request-id": "one"}, b""),
    "rest head": ("HEAD", "/health/live", {"x-request-id": "one"}, b""),
    "rest gzip": ("GET", "/api/v1/executions?page_size=5000", {"x-request-id": "one"} | GZIP, b""),
    "rest foreign page": ("POST", REST, JSON | {"origin": ORIGIN}, b"{}"),
    "rest stream": (
        "GET",
        "/api/v1/executions/some/events?after_sequence=3",
        {"accept": "text/event-stream", "x-request-id": "one"},
        b"",
    ),
    "rest, then the end": ("POST", REST, JSON | {"connection": "close"}, b"{}"),
    "preflight": ("OPTIONS", REST, {"origin": ORIGIN, "access-control-request-method": "POST"}, b""),
    "options": ("OPTIONS", REST, {}, b""),
    "connect": ("POST", EXECUTE, PROTO, ExecuteRequest(workflow_id="echo").to_binary()),
    "connect error": ("POST", EXECUTE, PROTO, b"\xff"),
    "connect get": ("GET", f"{EXECUTE}?connect=v1", {}, b""),
    "grpc-web": (
        "POST",
        EXECUTE,
        {"content-type": "application/grpc-web", "x-request-id": "one"},
        frame(ExecuteRequest(workflow_id="echo").to_binary()),
    ),
    "documentation": ("GET", "/openapi.json", GZIP, b""),
}

Start = dict[str, Any]


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Start:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, *, more: bool = False) -> Start:
    return {"type": "http.response.body", "body": data, "more_body": more}


THREE = (b"content-length", b"3")
ANSWERS: dict[str, list[Start]] = {
    "whole": [start(THREE), body(b"abc")],
    "in parts": [start(THREE), body(b"a", more=True), body(b"bc")],
    "in chunks": [start(), body(b"a", more=True), body(b"bc")],
    "of the length 0": [start((b"content-length", b"0")), body(b"")],
    "no content": [start(status=204), body(b"")],
    "too short": [start(THREE), body(b"ab")],
    "too long": [start(THREE), body(b"abcd")],
    "with a header that is none": [start(THREE, (b"x-a b", b"1")), body(b"abc")],
    "with a line break in a header": [start(THREE, (b"x-a", b"1\r\nx-b: 2")), body(b"abc")],
    "with a tab in a header": [start(THREE, (b"x-a", b"1\t2")), body(b"abc")],
    "with capitals": [start((b"X-A", b"B"), THREE), body(b"abc")],
    "the last one": [start(THREE, (b"connection", b"close")), body(b"abc")],
    "in its own chunks": [start(THREE, (b"transfer-encoding", b"chunked")), body(b"abc")],
    "of nothing": [],
}


LAST = request_bytes("GET", "/last", {"connection": "close"})


async def exchange(port: int, request: Request, *, short: bool) -> bytes:
    """All bytes of the answer, and of that to a last request; uvicorn serves what expects to be asked."""
    method, path, headers, data = request
    if not short:
        headers = headers | {"expect": "100-continue"}
    async with connect(port) as connection:
        connection.writer.write(request_bytes(method, path, headers, data) + LAST)
        async with asyncio.timeout(SECONDS):
            answer = await connection.reader.read()
    return re.sub(rb"(date: )[^\r]*", rb"\1now", answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))


@pytest.fixture
def short_ways(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each request that comes whole, whether its answer left at once."""
    taken: list[bool] = []
    send_whole = WholeRequestCycle._send_whole

    def note(cycle: WholeRequestCycle, *arguments: Any) -> bool:
        taken.append(send_whole(cycle, *arguments))
        return taken[-1]

    monkeypatch.setattr(WholeRequestCycle, "_send_whole", note)
    return taken


@pytest.mark.parametrize("case", REQUESTS)
async def test_every_door_answers_the_same(doors: Doors, short_ways: list[bool], case: str) -> None:
    short = await exchange(doors.http_port, REQUESTS[case], short=True)
    if case in ("rest", "rest malformed", "connect", "connect error"):
        assert short_ways == [True]
    doors.forget()
    assert short == await exchange(doors.http_port, REQUESTS[case], short=False)
    assert short.startswith(b"HTTP/1.1 ")
    assert short_ways.count(True) <= 1


@pytest.mark.parametrize("case", ANSWERS)
async def test_every_answer_is_the_same(case: str) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        for event in ANSWERS[case if scope["path"] == "/first" else "whole"]:
            await send(event)

    server = HttpServer(application, grace=1)
    port = await server.start("127.0.0.1", 0)
    try:
        request = ("GET", "/first", {}, b"")
        short = await exchange(port, request, short=True)
        assert short == await exchange(port, request, short=False)
    finally:
        await server.stop()


class Whole:
    """Answers whole requests as it is told, once it is let."""

    def __init__(self, *fields: tuple[bytes, bytes]) -> None:
        self.fields = fields
        self.asked, self.may = asyncio.Event(), asyncio.Event()

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        raise AssertionError("the request is not whole")

    def answer(self, _request: WholeRequest) -> Awaitable[Response]:
        return self._answer()

    async def _answer(self) -> Response:
        self.asked.set()
        await self.may.wait()
        return Response(200, [(b"content-length", b"5"), *self.fields], b"whole")


async def refuses(port: int) -> None:
    """Wait until new connections are refused."""
    with contextlib.suppress(OSError):
        while True:
            async with connect(port):
                await asyncio.sleep(0)


async def test_the_answer_to_a_whole_request_is_whole_when_the_server_stops() -> None:
    application = Whole()
    server = HttpServer(application, grace=SECONDS)
    port = await server.start("127.0.0.1", 0)
    async with connect(port) as connection:
        connection.writer.write(request_bytes("GET", "/", {}))
        await application.asked.wait()
        stopping = asyncio.create_task(server.stop())
        await refuses(port)
        application.may.set()
        answer = await connection.answer()
        await stopping
    assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"whole", "close")


@pytest.mark.parametrize("field", [(b"X-A", b"1"), (b"connection", b"close")])
async def test_the_answer_to_a_whole_request_may_be_any(field: tuple[bytes, bytes]) -> None:
    application = Whole(field)
    application.may.set()
    server = HttpServer(application, grace=1)
    port = await server.start("127.0.0.1", 0)
    try:
        async with connect(port) as connection:
            connection.writer.write(request_bytes("GET", "/", {}))
            answer = await connection.answer()
    finally:
        await server.stop()
    assert (answer.status, answer.body) == (200, b"whole")


async def test_requests_of_one_connection_have_each_their_own_head(doors: Doors) -> None:
    async with connect(doors.http_port) as connection:
        for given in ("one", "one", "two", "one", "two", "two"):
            answer = await connection.request("POST", REST, JSON | {"x-request-id": given}, b"{}")
            assert answer.headers["x-request-id"] == given
        for fields in ({}, {"host": "no host"}):
            answer = await connection.request("POST", REST, JSON | fields, b"{}")
    assert answer.status == 400


async def test_a_request_in_pieces_is_served_whole(doors: Doors) -> None:
    data = json.dumps({"workflow_id": "x" * 1000}).encode()
    pieces = request_bytes("POST", REST, JSON, data)
    async with connect(doors.http_port) as connection:
        connection.writer.write(pieces[:-900])
        await doors_turn(doors)
        connection.writer.write(pieces[-900:])
        assert json.loads((await connection.answer()).body)["status"] == "x" * 1000


async def doors_turn(doors: Doors) -> None:
    """Until the server has read what was sent before: another connection has been answered."""
    async with connect(doors.http_port) as other:
        await other.request("GET", "/health/live", {})
