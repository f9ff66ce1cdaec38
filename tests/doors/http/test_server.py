"""The HTTP port as browsers use it."""

from __future__ import annotations

import asyncio
import gzip
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio

from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent
from gateway.gen.n8ngateway.v1.execution_service_pb import (
    ExecuteRequest,
    ExecuteResponse,
    ListExecutionsResponse,
    WatchExecutionRequest,
)
from gateway.rpc.errors import Cancelled
from tests.doors.conftest import EXECUTIONS, ORIGIN, Doors
from tests.doors.wire import SECONDS, Http1, connect, frame, frames, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXECUTE = f"/{EXECUTIONS.type_name}/Execute"
WATCH = f"/{EXECUTIONS.type_name}/WatchExecution"
LIST = f"/{EXECUTIONS.type_name}/ListExecutions"
GOOD = ExecuteRequest(workflow_id="echo").to_binary()
SMALL, LARGE = 100, 50_000

HOLD = {
    "connect": request_bytes(
        "POST", EXECUTE, {"content-type": "application/proto"}, ExecuteRequest(workflow_id="hold").to_binary()
    ),
    "connect stream": request_bytes(
        "POST",
        WATCH,
        {"content-type": "application/connect+proto"},
        frame(WatchExecutionRequest(execution_id="hold", after_sequence=1).to_binary()),
    ),
    "grpc-web": request_bytes(
        "POST",
        EXECUTE,
        {"content-type": "application/grpc-web+proto"},
        frame(ExecuteRequest(workflow_id="hold").to_binary()),
    ),
    "rest": request_bytes(
        "POST", "/api/v1/execute", {"content-type": "application/json"}, b'{"workflow_id": "hold"}'
    ),
    "rest stream": request_bytes(
        "GET", "/api/v1/executions/hold/events?after_sequence=1", {"accept": "text/event-stream"}
    ),
}
FLOOD = {
    "connect": request_bytes(
        "POST",
        WATCH,
        {"content-type": "application/connect+proto"},
        frame(WatchExecutionRequest(execution_id="flood").to_binary()),
    ),
    "grpc-web": request_bytes(
        "POST",
        WATCH,
        {"content-type": "application/grpc-web+proto"},
        frame(WatchExecutionRequest(execution_id="flood").to_binary()),
    ),
    "rest": request_bytes("GET", "/api/v1/executions/flood/events", {"accept": "text/event-stream"}),
}


@pytest_asyncio.fixture(loop_scope="module")
async def connection(doors: Doors) -> AsyncIterator[Http1]:
    async with connect(doors.http_port) as opened:
        yield opened


def get_path(page_size: int) -> str:
    """Connect's GET for a list that answers so many characters."""
    return f"{LIST}?connect=v1&encoding=json&message={quote(json.dumps({'pageSize': page_size}))}"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (EXECUTE, "content-type,connect-protocol-version,connect-timeout-ms,authorization,x-tenant-id"),
        (EXECUTE, "content-type,x-grpc-web,x-user-agent,grpc-timeout,authorization"),
        ("/api/v1/execute", "content-type,authorization,idempotency-key,x-signature,x-timestamp"),
    ],
    ids=["connect", "grpc-web", "rest"],
)
async def test_a_preflight_allows_what_clients_send(connection: Http1, path: str, headers: str) -> None:
    preflight = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": headers,
    }
    answer = await connection.request("OPTIONS", path, preflight)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN.lower()
    assert "post" in answer.headers["access-control-allow-methods"]
    assert set(headers.split(",")) <= set(answer.headers["access-control-allow-headers"].split(","))
    assert int(answer.headers["access-control-max-age"]) >= 600


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
async def test_a_preflight_allows_the_methods_of_rest(connection: Http1, method: str) -> None:
    preflight = {"origin": ORIGIN, "access-control-request-method": method}
    assert (await connection.request("OPTIONS", "/api/v1/workflows/1", preflight)).status == 200


async def test_a_foreign_origin_is_not_allowed(connection: Http1) -> None:
    preflight = {"origin": "https://evil.example.com", "access-control-request-method": "POST"}
    answer = await connection.request("OPTIONS", EXECUTE, preflight)
    assert answer.status == 400
    assert "access-control-allow-origin" not in answer.headers
    answer = await connection.post(EXECUTE, "application/proto", GOOD, origin="https://evil.example.com")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        (EXECUTE, "application/proto", GOOD),
        (EXECUTE, "application/proto", b"\xff"),
        (EXECUTE, "application/grpc-web+proto", frame(GOOD)),
        (EXECUTE, "application/grpc-web+proto", frame(b"\xff")),
        (WATCH, "application/connect+proto", frame(b"")),
        ("/api/v1/execute", "application/json", b"{}"),
        ("/api/v1/execute", "application/json", b"no json"),
    ],
)
async def test_answers_and_errors_are_exposed_to_the_origin(
    connection: Http1, path: str, content_type: str, body: bytes
) -> None:
    answer = await connection.post(path, content_type, body, origin=ORIGIN)
    assert answer.headers["access-control-allow-origin"] == ORIGIN.lower()
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert {
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "x-request-id",
        "retry-after",
    } <= exposed
    assert answer.headers["x-request-id"]


VARIED = [
    request_bytes("POST", EXECUTE, {"content-type": "application/proto"}, GOOD),
    request_bytes("POST", EXECUTE, {"content-type": "application/proto"}, b"\xff"),
    request_bytes("POST", EXECUTE, {"content-type": "application/grpc-web+proto"}, frame(GOOD)),
    request_bytes("POST", WATCH, {"content-type": "application/connect+proto"}, frame(b"")),
    request_bytes("POST", "/api/v1/execute", {"content-type": "application/json"}, b"{}"),
    request_bytes("POST", "/api/v1/execute", {"content-type": "application/json"}, b"no json"),
    request_bytes("GET", "/api/v1/executions", {"if-none-match": "*"}),
    request_bytes("GET", "/api/v1/executions/1/events", {"accept": "text/event-stream"}),
    request_bytes("GET", "/api/v1/executions/1/events", {"accept": "image/png"}),
    request_bytes("GET", "/nothing", {}),
    request_bytes("GET", "/openapi.json", {"if-none-match": "*"}),
    request_bytes("GET", "/docs/nothing", {}),
]


@pytest.mark.parametrize("origin", ["", ORIGIN, "https://evil.example.com"])
@pytest.mark.parametrize("request_", VARIED)
async def test_caches_are_told_that_answers_depend_on_the_origin(
    connection: Http1, request_: bytes, origin: str
) -> None:
    line = f"\r\norigin: {origin}\r\n\r\n".encode() if origin else b"\r\n\r\n"
    connection.writer.write(request_.replace(b"\r\n\r\n", line, 1))
    answer = await connection.answer()
    assert [name.strip() for name in answer.headers["vary"].split(",")].count("origin") == 1


async def test_no_shared_cache_keeps_what_one_caller_got(connection: Http1) -> None:
    answer = await connection.request("GET", "/api/v1/executions", {})
    assert (answer.status, answer.headers["cache-control"]) == (200, "private, no-cache")


async def test_a_connect_get_can_be_cached_and_asked_for_again(connection: Http1) -> None:
    first = await connection.request("GET", get_path(SMALL), {})
    assert first.status == 200
    assert "accept-encoding" in first.headers["vary"]
    again = await connection.request("GET", get_path(SMALL), {"if-none-match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert first.headers["cache-control"] == again.headers["cache-control"] == "private, no-cache"
    other = await connection.request("GET", get_path(SMALL + 1), {"if-none-match": first.headers["etag"]})
    assert other.status == 200


async def test_an_entity_tag_does_not_depend_on_the_coding(connection: Http1) -> None:
    plain = await connection.request("GET", get_path(LARGE), {})
    packed = await connection.request("GET", get_path(LARGE), {"accept-encoding": "gzip"})
    assert packed.headers["etag"] == plain.headers["etag"]


async def test_a_method_with_side_effects_is_not_for_get(doors: Doors, connection: Http1) -> None:
    answer = await connection.request("GET", f"{EXECUTE}?encoding=json&message=%7B%7D", {})
    assert answer.status == 405
    assert answer.headers["allow"] == "post"
    assert doors.service.calls == []


@pytest.mark.parametrize("path", [get_path(SMALL), "/api/v1/health/live", "/api/v1/executions"])
async def test_head_answers_as_get_does_without_a_body(connection: Http1, path: str) -> None:
    get = await connection.request("GET", path, {})
    head = await connection.request("HEAD", path, {})
    assert head.status == get.status == 200
    assert head.headers["content-length"] == get.headers["content-length"]
    assert head.headers["content-type"] == get.headers["content-type"]
    assert (await connection.request("GET", path, {})).body == get.body


@pytest.mark.parametrize(("size", "coding"), [(SMALL, None), (LARGE, "gzip")])
async def test_only_large_answers_are_compressed(connection: Http1, size: int, coding: str | None) -> None:
    request = json.dumps({"pageSize": size}).encode()
    answer = await connection.post(LIST, "application/json", request, accept_encoding="gzip, deflate, br")
    assert answer.headers.get("content-encoding") == coding
    body = gzip.decompress(answer.body) if coding else answer.body
    assert len(json.loads(body)["nextPageToken"]) == size


@pytest.mark.parametrize("accept", ["", "identity", "gzip;q=0", "br"])
async def test_who_does_not_take_gzip_gets_none(connection: Http1, accept: str) -> None:
    request = json.dumps({"pageSize": LARGE}).encode()
    answer = await connection.post(LIST, "application/json", request, accept_encoding=accept)
    assert "content-encoding" not in answer.headers
    assert len(json.loads(answer.body)["nextPageToken"]) == LARGE


@pytest.mark.parametrize("protocol", ["grpc", "connect"])
async def test_only_large_messages_of_a_stream_are_compressed(connection: Http1, protocol: str) -> None:
    content_type = {"grpc": "application/grpc-web+proto", "connect": "application/connect+proto"}[protocol]
    accept = {f"{protocol}-accept-encoding": "br, gzip", "content-type": content_type}
    watch = frame(WatchExecutionRequest(after_sequence=2).to_binary())
    answer = await connection.request("POST", WATCH, accept, watch)
    assert answer.headers[f"{protocol}-{'content-' * (protocol == 'connect')}encoding"] == "gzip"
    *events, (end, _) = frames(answer.body)
    assert [flags for flags, _ in events] == [1, 1]
    assert ExecutionEvent.from_binary(gzip.decompress(events[1][1])).sequence == 2
    assert end in (0x02, 0x80)
    if protocol == "grpc":
        small = await connection.request("POST", EXECUTE, accept, frame(GOOD))
        assert [flags for flags, _ in frames(small.body)] == [0, 0x80]


async def test_one_connection_serves_every_door_in_turn(connection: Http1) -> None:
    for _ in range(2):
        assert (await connection.post(EXECUTE, "application/proto", GOOD)).status == 200
        assert (await connection.post(EXECUTE, "application/grpc-web", frame(GOOD))).status == 200
        assert (await connection.post(WATCH, "application/connect+proto", frame(b""))).status == 200
        assert (await connection.post("/api/v1/execute", "application/json", b"{}")).status == 200
        assert (await connection.post("/api/v1/nothing", "application/json", b"{}")).status == 404


async def test_requests_sent_at_once_are_answered_in_turn(connection: Http1) -> None:
    for size in (1, 2, 3):
        connection.writer.write(request_bytes("GET", get_path(size), {}))
    for size in (1, 2, 3):
        assert len(json.loads((await connection.answer()).body)["nextPageToken"]) == size


@pytest.mark.parametrize("door", HOLD)
async def test_a_caller_that_goes_away_ends_its_call(doors: Doors, door: str) -> None:
    async with connect(doors.http_port) as connection:
        connection.writer.write(HOLD[door])
        async with asyncio.timeout(SECONDS):
            await doors.service.called.wait()
    async with asyncio.timeout(SECONDS):
        await doors.service.ended.wait()
        await doors.observed.wait()
    assert isinstance(doors.outcomes[0], Cancelled)


@pytest.mark.parametrize("door", HOLD)
async def test_a_caller_that_goes_away_ends_its_call_though_another_request_waits(
    doors: Doors, door: str
) -> None:
    """Whether that one came with the first or after it, and in whatever parts."""
    async with connect(doors.http_port) as connection:
        waiting = HOLD["rest"]
        connection.writer.write(HOLD[door] + waiting[:9])
        async with asyncio.timeout(SECONDS):
            await doors.service.called.wait()
        connection.writer.write(waiting[9:])
        await connection.writer.drain()
    async with asyncio.timeout(SECONDS):
        await doors.service.ended.wait()
        await doors.observed.wait()
    assert isinstance(doors.outcomes[0], Cancelled)


@pytest.mark.parametrize("door", FLOOD)
async def test_a_reader_that_goes_away_ends_its_stream_though_another_request_waits(
    doors: Doors, door: str
) -> None:
    async with connect(doors.http_port) as connection:
        connection.writer.write(FLOOD[door] + request_bytes("GET", "/health/live", {}))
        await connection.reader.readexactly(1024)
        connection.writer.transport.abort()
        async with asyncio.timeout(SECONDS):
            await doors.service.ended.wait()
            await doors.observed.wait()
    assert isinstance(doors.outcomes[0], Cancelled)


@pytest.mark.parametrize("door", FLOOD)
async def test_a_reader_that_stops_reading_stops_the_stream(doors: Doors, door: str) -> None:
    async with connect(doors.http_port) as connection:
        connection.writer.write(FLOOD[door])
        await connection.reader.readexactly(1024)
        before = -1
        async with asyncio.timeout(SECONDS):
            while doors.service.produced != before:
                before = doors.service.produced
                await asyncio.sleep(0.1)
        assert before * 1024 < 16 << 20
    async with asyncio.timeout(SECONDS):
        await doors.service.ended.wait()


@pytest.mark.parametrize("suffix", ["", "+proto"])
async def test_grpc_web_in_text_answers_in_text(connection: Http1, suffix: str) -> None:
    content_type = f"application/grpc-web-text{suffix}"
    answer = await connection.post(EXECUTE, content_type, b64encode(frame(GOOD)))
    assert answer.headers["content-type"].startswith("application/grpc-web-text")
    (_, message), (end, trailers) = frames(_text(answer.body))
    assert ExecuteResponse.from_binary(message).status == "echo"
    assert (end, b"grpc-status: 0" in trailers) == (0x80, True)


async def test_grpc_web_in_text_streams(connection: Http1) -> None:
    watch = frame(WatchExecutionRequest(after_sequence=3).to_binary())
    body = b"".join(b64encode(watch[index : index + 2]) for index in range(0, len(watch), 2))
    answer = await connection.post(WATCH, "application/grpc-web-text+proto", body)
    *events, (_, trailers) = frames(_text(answer.body))
    assert [ExecutionEvent.from_binary(event).sequence for _, event in events] == [1, 2, 3]
    assert b"grpc-status: 0" in trailers


@pytest.mark.parametrize("body", [b"!!!!", b64encode(frame(GOOD))[:-3], b"\xff\xff\xff\xff"])
async def test_grpc_web_in_text_that_is_no_base64_is_refused(connection: Http1, body: bytes) -> None:
    answer = await connection.post(EXECUTE, "application/grpc-web-text", body)
    trailers = _text(answer.body) or str(answer.headers).encode()
    assert b"grpc-status: 3" in trailers or b"'grpc-status': '3'" in trailers
    assert (await connection.post(EXECUTE, "application/proto", GOOD)).status == 200


async def test_grpc_web_answers_a_list(connection: Http1) -> None:
    answer = await connection.post(LIST, "application/grpc-web+json", frame(b'{"pageSize": 3}'))
    (_, message), _ = frames(answer.body)
    assert ListExecutionsResponse.from_json(message).next_page_token == "xxx"


def _text(body: bytes) -> bytes:
    """The bytes of base64 that is padded at each of its parts."""
    return b"".join(b64decode(body[index : index + 4]) for index in range(0, len(body), 4))


@pytest.mark.parametrize("path", ["/api/v1/health/live", "/docs", "/api/v1/nothing", EXECUTE])
async def test_every_answer_tells_browsers_to_keep_to_what_it_is(connection: Http1, path: str) -> None:
    answer = await connection.request("GET", path, {})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "deny"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert ("content-security-policy" in answer.headers) == (path == "/docs")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/?from=somewhere"])
async def test_the_root_leads_to_the_documentation(connection: Http1, method: str, path: str) -> None:
    answer = await connection.request(method, path, {})
    assert (answer.status, answer.headers["location"]) == (307, "docs")
    assert (b"/openapi.json" in answer.body) == (method == "GET")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_the_root_is_only_read(connection: Http1, method: str) -> None:
    answer = await connection.request(method, "/", {"content-length": "0"})
    assert (answer.status, answer.headers["allow"]) == (405, "get, head")


@pytest.mark.parametrize("path", ["//", "/.", "/api", "/nothing"])
async def test_what_is_nothing_is_not_the_root(connection: Http1, path: str) -> None:
    assert (await connection.request("GET", path, {})).status == 404
