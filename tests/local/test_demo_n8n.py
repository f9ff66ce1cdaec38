"""The demo n8n against what a real n8n 2.41.1 answered (data/n8n_responses.json)."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from gateway.local.demo_n8n import DemoN8n
from gateway.local.demo_wire import etag
from gateway.local.errors import PartFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "s3cret-internal"
API_KEY = "api-key"
CASES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("data").joinpath("n8n_responses.json").read_text()
)
VARYING = (
    (r'"executionId":"\d+"', '"executionId":"1"'),
    (r'\\"executionId\\":\\"\d+\\"', r'\\"executionId\\":\\"1\\"'),
    (r'"workflowId":"[0-9A-Za-z]{16}"', '"workflowId":"w"'),
    (r'"nodeId":"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"', '"nodeId":"n"'),
    (r'"timestamp":\d{13}', '"timestamp":1'),
)
HTTP_DATE = re.compile(r"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$")
DEMO_ONLY = "x-n8n-execution-id"
"""The demo's workflows send it; the recorded ones did not."""


@dataclass
class Answer:
    status: str
    headers: list[list[str]]
    body: bytes
    chunks: list[bytes] | None = None

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class Connection:
    """HTTP/1.1 on a bare socket: what is compared is what was sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, n8n: DemoN8n) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", n8n.port))

    async def send(self, method: str, path: str, headers: list[str], body: str | bytes | None) -> None:
        data = body.encode() if isinstance(body, str) else body
        head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
        if data is not None:
            head.append(f"Content-Length: {len(data)}")
            if not any(header.startswith("Content-Type") for header in headers):
                head.append("Content-Type: application/json")
        self.writer.write("\r\n".join([*head, "", ""]).encode() + (data or b""))
        await self.writer.drain()

    async def head(self) -> Answer:
        async with asyncio.timeout(30):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        return Answer(lines[0], [line.split(": ", 1) for line in lines[1:]], b"")

    async def chunk(self) -> bytes:
        async with asyncio.timeout(30):
            size = int(await self.reader.readline(), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def answer(self, method: str) -> Answer:
        answer = await self.head()
        if answer.header("Transfer-Encoding") == "chunked":
            answer.chunks = []
            while data := await self.chunk():
                answer.chunks.append(data)
            answer.body = b"".join(answer.chunks)
        elif method != "HEAD":
            answer.body = await self.reader.readexactly(int(answer.header("Content-Length") or 0))
        return answer


@pytest.fixture
async def n8n() -> AsyncIterator[DemoN8n]:
    async with DemoN8n(SECRET, api_key=API_KEY, pace=0.01) as server:
        yield server


async def call(
    n8n: DemoN8n, method: str, path: str, body: str | bytes | None = None, headers: tuple[str, ...] = ()
) -> Answer:
    connection = await Connection.open(n8n)
    await connection.send(method, path, list(headers), body)
    answer = await connection.answer(method)
    connection.writer.close()
    return answer


async def api(n8n: DemoN8n, method: str, path: str) -> tuple[int, Any]:
    answer = await call(n8n, method, f"/api/v1/{path}", None, (f"X-N8N-API-KEY: {API_KEY}",))
    return int(answer.status.split()[1]), json.loads(answer.body)


def settled(text: str) -> str:
    for pattern, replacement in VARYING:
        text = re.sub(pattern, replacement, text)
    return text


def comparable(headers: list[list[str]]) -> list[list[str]]:
    """Leave out the values that follow from the body or the clock; they are checked by themselves."""
    derived = {"Date", "ETag", "Content-Length"}
    return [[name, "" if name in derived else value] for name, value in headers if name != DEMO_ONLY]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_it_answers_as_n8n_did(n8n: DemoN8n, case: dict[str, Any]) -> None:
    request, expected = case["request"], case["response"]
    body = request["body"] or None
    answer = await call(n8n, request["method"], request["path"], body, tuple(request["headers"]))
    assert answer.status == expected["status"]
    assert comparable(answer.headers) == comparable(expected["headers"])
    assert HTTP_DATE.match(answer.header("Date") or "")
    if "chunks" in expected:
        assert answer.chunks is not None
        assert [settled(chunk.decode()) for chunk in answer.chunks] == [
            settled(c) for c in expected["chunks"]
        ]
    else:
        assert settled(answer.body.decode()) == settled(expected["body"])
        if answer.body:
            assert answer.header("Content-Length") == str(len(answer.body))
            if answer.header("ETag"):
                assert answer.header("ETag") == etag(answer.body)


def test_the_etags_are_those_that_n8n_computed() -> None:
    checked = 0
    for case in CASES:
        headers = dict(case["response"]["headers"])
        body = case["response"].get("body", "").encode()
        if "ETag" in headers and headers.get("Content-Length") == str(len(body)):
            assert etag(body) == headers["ETag"]
            checked += 1
    assert checked > 10


async def test_execution_ids_count_up_and_are_in_header_and_body(n8n: DemoN8n) -> None:
    for number in range(1, 4):
        answer = await call(n8n, "POST", "/webhook/echo", "{}")
        assert answer.headers[0] == ["x-n8n-execution-id", str(number)]
        assert json.loads(answer.body)["executionId"] == str(number)


async def test_lines_are_gzipped_one_by_one_when_asked(n8n: DemoN8n) -> None:
    plain = await call(n8n, "POST", "/webhook/stream", '{"q":"hi"}')
    packed = await call(n8n, "POST", "/webhook/stream", '{"q":"hi"}', ("Accept-Encoding: gzip",))
    assert packed.header("Content-Encoding") == "gzip"
    assert packed.chunks is not None
    reader = zlib.decompressobj(wbits=31)
    lines = [reader.decompress(chunk).decode() for chunk in packed.chunks]
    assert [settled(line) for line in lines if line] == [
        settled(chunk.decode()) for chunk in plain.chunks or []
    ]


async def test_a_large_answer_is_gzipped_when_asked(n8n: DemoN8n) -> None:
    sent = json.dumps({"text": "x" * 5000})
    answer = await call(n8n, "POST", "/webhook/echo", sent, ("Accept-Encoding: br;q=0, gzip",))
    assert answer.header("Content-Encoding") == "gzip"
    assert json.loads(gzip.decompress(answer.body))["echo"] == json.loads(sent)
    refused = await call(n8n, "POST", "/webhook/echo", sent, ("Accept-Encoding: gzip;q=0",))
    assert refused.header("Content-Encoding") is None


@pytest.mark.parametrize(
    ("sent", "echoed"),
    [
        ('{"n": 1.0, "f": 1.5, "e": 1e3}', '{"n":1,"f":1.5,"e":1000}'),
        ('{"text": "é ☃ \\u00e9 \\ud83d\\ude00"}', '{"text":"é ☃ é 😀"}'),
        ('"\\ud800"', '"\\ud800"'),
        ("null", "null"),
        (b'{"a": "\xff"}', '{"a":"\ufffd"}'),
    ],
)
async def test_values_come_back_as_javascript_writes_them(
    n8n: DemoN8n, sent: str | bytes, echoed: str
) -> None:
    answer = await call(n8n, "POST", "/webhook/echo", sent)
    assert answer.body.decode().startswith(f'{{"echo":{echoed},"executionId"')


@pytest.mark.parametrize("body", ["{", '{"a":NaN}', "[" * 100_000, "{'a':1}", '{"a":1,}', "undefined"])
async def test_what_is_not_json_is_422(n8n: DemoN8n, body: str) -> None:
    answer = await call(n8n, "POST", "/webhook/echo", body)
    assert answer.status == "HTTP/1.1 422 Unprocessable Entity"
    assert json.loads(answer.body)["message"] == "Failed to parse request body"
    assert (await api(n8n, "GET", "executions"))[1]["data"] == []


async def test_a_body_over_16_mib_is_500(n8n: DemoN8n) -> None:
    async with aiohttp.ClientSession() as session:
        body = b'"' + b"x" * (16 << 20) + b'"'
        async with session.post(f"{n8n.url}/webhook/echo", data=body) as response:
            assert response.status == 500


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
async def test_another_method_is_404(n8n: DemoN8n, method: str) -> None:
    answer = await call(n8n, method, "/webhook/stream")
    assert answer.status == "HTTP/1.1 404 Not Found"


async def test_a_connection_serves_many_calls_and_closes_on_demand(n8n: DemoN8n) -> None:
    connection = await Connection.open(n8n)
    for path in (
        "/webhook/echo",
        "/webhook/stream",
        "/webhook/fail",
        "/webhook/header-auth",
        "/webhook/echo",
    ):
        await connection.send("POST", path, [], "{}")
        answer = await connection.answer("POST")
        assert answer.header("Connection") == "keep-alive"
    await connection.send("POST", "/webhook/echo", ["Connection: close"], "{}")
    assert (await connection.answer("POST")).header("Connection") == "close"
    assert await connection.reader.read() == b""


@pytest.mark.parametrize("path", ["slow", "slow-stream"])
async def test_a_run_goes_on_when_its_client_is_gone(n8n: DemoN8n, path: str) -> None:
    connection = await Connection.open(n8n)
    await connection.send("POST", f"/webhook/{path}", [], "{}")
    while not (await api(n8n, "GET", "executions?status=running"))[1]["data"]:
        pass
    connection.writer.transport.abort()
    async with asyncio.timeout(30):
        while (await api(n8n, "GET", "executions/1"))[1]["status"] != "success":
            pass


async def test_a_stopped_run_answers_500() -> None:
    async with DemoN8n(SECRET, api_key=API_KEY, pace=100) as n8n:
        waiting = asyncio.create_task(call(n8n, "POST", "/webhook/slow", "{}"))
        while not (await api(n8n, "GET", "executions?status=running"))[1]["data"]:
            pass
        status, stopped = await api(n8n, "POST", "executions/1/stop")
        assert (status, stopped["status"], stopped["finished"]) == (200, "canceled", False)
        answer = await waiting
        assert answer.status == "HTTP/1.1 500 Internal Server Error"
        assert answer.body == b'{"code":0,"message":"The execution was cancelled manually"}'


async def test_a_stopped_stream_never_ends() -> None:
    async with DemoN8n(SECRET, api_key=API_KEY, pace=100) as n8n:
        connection = await Connection.open(n8n)
        await connection.send("POST", "/webhook/stream", [], "{}")
        await connection.head()
        for _ in ("begin", "item", "end"):
            await connection.chunk()
        more = asyncio.create_task(connection.chunk())
        assert (await api(n8n, "POST", "executions/1/stop"))[0] == 200
        assert (await api(n8n, "GET", "executions/1"))[1]["status"] == "canceled"
        assert not more.done()
        more.cancel()


async def test_only_a_running_execution_can_be_stopped(n8n: DemoN8n) -> None:
    await call(n8n, "POST", "/webhook/echo", "{}")
    status, answer = await api(n8n, "POST", "executions/1/stop")
    assert (status, answer["message"]) == (
        409,
        "Only running or waiting executions can be stopped and 1 is currently success",
    )
    assert await api(n8n, "POST", "executions/99/stop") == (404, {"message": "Not Found"})


async def test_executions_are_listed_newest_first_in_pages(n8n: DemoN8n) -> None:
    for path in ("echo", "fail", "echo"):
        await call(n8n, "POST", f"/webhook/{path}", "{}")
    _, first = await api(n8n, "GET", "executions?limit=2")
    _, second = await api(n8n, "GET", f"executions?cursor={first['nextCursor']}")
    listed = [(run["id"], run["status"], run["finished"]) for run in first["data"] + second["data"]]
    assert listed == [("3", "success", True), ("2", "error", False), ("1", "success", True)]
    assert second["nextCursor"] is None
    _, failed = await api(n8n, "GET", "executions?status=error")
    assert [run["id"] for run in failed["data"]] == ["2"]
    echo = first["data"][0]["workflowId"]
    _, of_echo = await api(n8n, "GET", f"executions?workflowId={echo}")
    assert [run["id"] for run in of_echo["data"]] == ["3", "1"]


@pytest.mark.parametrize(
    ("headers", "message"),
    [((), "'X-N8N-API-KEY' header required"), (("X-N8N-API-KEY: wrong",), "unauthorized")],
)
async def test_the_api_wants_its_key(n8n: DemoN8n, headers: tuple[str, ...], message: str) -> None:
    answer = await call(n8n, "GET", "/api/v1/executions", None, headers)
    assert answer.status == "HTTP/1.1 401 Unauthorized"
    assert json.loads(answer.body) == {"message": message}


async def test_old_executions_are_forgotten(n8n: DemoN8n) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(1005):
            async with session.post(f"{n8n.url}/webhook/fail") as response:
                await response.read()
    assert (await api(n8n, "GET", "executions/5"))[0] == 404
    assert (await api(n8n, "GET", "executions/6"))[0] == 200


async def test_a_port_in_use_is_said_to_be(n8n: DemoN8n) -> None:
    with pytest.raises(PartFailed, match="n8n cannot listen"):
        await DemoN8n(SECRET, n8n.port).start()
