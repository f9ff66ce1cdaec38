"""What is measured: groups of rows that do the same work, the gateway's own first."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from bench.v1.bench_pb import CreateTaskRequest, ListLinesRequest, Schedule

PROJECT = "0190a5b2-7c3d-7e4f-8a1b-2c3d4e5f6a7b"
TITLE = "Write the report for the third quarter"
LINES, LINE_BYTES = 100, 1024

SIGNED_BODIES = tuple(b'{"data": "%s"}' % (b"x" * (size - 12)) for size in (256, 64 * 1024))
"""What is signed: messages of 256 bytes and of 64 KiB."""

_TASK = CreateTaskRequest(
    project=PROJECT,
    title=TITLE,
    priority=3,
    tags=["report", "quarter", "finance"],
    labels={"team": "operations", "region": "eu-west"},
    schedule=Schedule(time_zone="Europe/Berlin", hour=9, minute=30, weekdays=True),
)
_LINES = ListLinesRequest(count=LINES, size=LINE_BYTES)

_CREATE = "/bench.v1.BenchService/CreateTask"
_LIST = "/bench.v1.BenchService/ListLines"


@dataclass(frozen=True)
class Row:
    """One request to one server. `http2` is gRPC with prior knowledge; everything else is HTTP/1.1.

    `tenants` names the workflow of those who call in turns; a row without them has one caller. Calls of a
    row that takes at least `seconds` are counted by their bytes, with the parts of those that do not end.
    Those of a row that `is_timed` are timed one by one: in turn, or at this `share` of what a server can do.
    """

    group: str
    name: str
    server: str
    port: str
    path: str
    content_type: str
    body: bytes
    accept: str = "*/*"
    http2: bool = False
    tenants: str = ""
    connections: int = 16
    seconds: float = 0.0
    is_timed: bool = False
    share: float = 0.0

    @property
    def is_loaded(self) -> bool:
        """Whether what is measured is how many calls the server can take."""
        return not (self.is_held or self.is_timed)

    @property
    def is_held(self) -> bool:
        """Whether its streams do not end: what is measured is the memory that they take."""
        return self.tenants == "held"

    @property
    def method(self) -> str:
        """POST, unless there is nothing to send."""
        return "POST" if self.body else "GET"

    @property
    def key(self) -> str:
        """What the row is called on the command line and in results."""
        return f"{self.group}: {self.name}"


@dataclass(frozen=True)
class Aim:
    """How many times the first row's rate is to be the second one's, at least."""

    row: str
    peer: str
    ratio: float


def _json(message: CreateTaskRequest | ListLinesRequest, *, without: str = "") -> bytes:
    fields = json.loads(message.to_json(use_proto_field_name=True))
    fields.pop(without, None)
    return json.dumps(fields).encode()


def _framed(message: CreateTaskRequest | ListLinesRequest) -> bytes:
    data = message.to_binary()
    return b"\0" + len(data).to_bytes(4, "big") + data


def _rest(group: str, name: str, server: str, port: str = "http", prefix: str = "/v1") -> Row:
    body = _json(_TASK, without="project")
    return Row(group, name, server, port, f"{prefix}/projects/{PROJECT}/tasks", "application/json", body)


def _lines(group: str, name: str, server: str, port: str = "http", accept: str = "*/*") -> Row:
    return Row(group, name, server, port, "/v1/lines", "application/json", _json(_LINES), accept)


def _connect(name: str, server: str, codec: str) -> Row:
    body = _TASK.to_json().encode() if codec == "json" else _TASK.to_binary()
    return Row(f"Connect {codec}", name, server, "http", _CREATE, f"application/{codec}", body)


def _web(name: str, server: str, port: str = "http") -> Row:
    return Row("gRPC-Web", name, server, port, _CREATE, "application/grpc-web+proto", _framed(_TASK))


def _grpc(name: str, server: str) -> Row:
    return Row("gRPC", name, server, "grpc", _CREATE, "application/grpc", _framed(_TASK), http2=True)


def _stream(group: str, name: str, server: str, kind: str, port: str = "http") -> Row:
    return Row(group, name, server, port, _LIST, kind, _framed(_LINES), http2=port == "grpc")


def _execute(group: str, name: str, server: str, connections: int = 16) -> Row:
    body = json.dumps({"data": {"question": "x" * 100, "language": "en"}}).encode()
    return Row(
        *(group, name, server, "http", "/api/v1/execute", "application/json", body),
        tenants="answer",
        connections=connections,
    )


def _limited(name: str, port: str) -> Row:
    return Row("limiter", name, "limiter", port, "/", "application/json", b"{}")


def _authenticated(name: str, port: str) -> Row:
    return Row("authentication", name, "authentication", port, "/", "application/json", b"{}")


def _signed_by_key() -> Row:
    return replace(
        _signed("an API key that is known, and its signature", "key", SIGNED_BODIES[0]),
        group="authentication",
    )


def _signed(name: str, port: str, body: bytes) -> Row:
    group = f"signature, {len(body) // 1024} KiB" if len(body) >= 1024 else f"signature, {len(body)} B"
    return Row(group, name, "signature", port, "/", "application/json", body)


def _read(name: str, server: str) -> Row:
    return Row("read", name, server, "http", "/api/v1/workflows", "application/json", b"", tenants="answer")


def _relay(
    group: str,
    name: str,
    server: str,
    tenants: str = "stream",
    *,
    connections: int = 16,
    seconds: float = 0.0,
) -> Row:
    body = b'{"data": {"question": "all of it"}}'
    path = "/api/v1/execute/stream"
    return Row(
        *(group, name, server, "http", path, "application/json", body, _NDJSON),
        tenants=tenants,
        connections=connections,
        seconds=seconds,
    )


def _dripped(name: str, server: str) -> Row:
    group = "execute, stream of a chunk each 10 ms"
    return _relay(group, name, server, "dripped", connections=32, seconds=3.0)


def _timed(group: str, row: Row, share: float = 0.0) -> Row:
    return replace(row, group=f"latency, {group}", is_timed=True, share=share)


def _n8n_itself(webhook: str) -> Row:
    row = _execute("", "n8n itself", "parts")
    return replace(
        row, port="n8n", path=f"/webhook/{webhook}", tenants="" if webhook == "answer" else webhook
    )


_CONNECT_STREAM = "application/connect+proto"
_WEB_STREAM = "application/grpc-web+proto"
_NDJSON = "application/x-ndjson"
_OURS, _FASTAPI, _STARLETTE = "n8n-gateway", "FastAPI + pydantic", "Starlette, no rules"
_OVER_REST, _USUAL = "the same over Supabase REST", "FastAPI, SlowAPI, supabase-py, httpx"
_UNGUARDED = "the same without limits and fingerprints"
_BARE = "the least: plain ASGI, asyncpg, aiohttp"
_CONNECT_ALONE, _GRPC_ALONE, _ENVOY = "connectrpc alone", "grpc.aio alone", "Envoy > grpc.aio"

ROWS: tuple[Row, ...] = (
    _rest("REST", _OURS, "gateway_doors"),
    _rest("REST", _FASTAPI, "fastapi_pydantic"),
    _rest("REST", _STARLETTE, "starlette_json"),
    _rest("REST", _ENVOY, "envoy", "json"),
    _connect(_OURS, "gateway_doors", "json"),
    _connect(_CONNECT_ALONE, "connect_alone", "json"),
    _connect(_OURS, "gateway_doors", "proto"),
    _connect(_CONNECT_ALONE, "connect_alone", "proto"),
    _web(_OURS, "gateway_doors"),
    _web(_CONNECT_ALONE, "connect_alone"),
    _web(_ENVOY, "envoy", "web"),
    _grpc(_OURS, "gateway_doors"),
    _grpc(_GRPC_ALONE, "grpc_alone"),
    _rest("transcoder", "transcoder, 10 routes", "transcoder", "10", "/v1/group5"),
    _rest("transcoder", "transcoder, 500 routes", "transcoder", "500", "/v1/group250"),
    _rest("transcoder", f"{_FASTAPI}, 10 routes", "fastapi_pydantic", "10", "/v1/group5"),
    _rest("transcoder", f"{_FASTAPI}, 500 routes", "fastapi_pydantic", "500", "/v1/group250"),
    _lines("stream, REST NDJSON", _OURS, "gateway_doors", accept=_NDJSON),
    _lines("stream, REST NDJSON", _FASTAPI, "fastapi_pydantic"),
    _lines("stream, REST NDJSON", _STARLETTE, "starlette_json"),
    _lines("stream, REST NDJSON", f"{_ENVOY}, array", "envoy", "json"),
    _lines("stream, REST SSE", _OURS, "gateway_doors", accept="text/event-stream"),
    _stream("stream, Connect proto", _OURS, "gateway_doors", _CONNECT_STREAM),
    _stream("stream, Connect proto", _CONNECT_ALONE, "connect_alone", _CONNECT_STREAM),
    _stream("stream, gRPC-Web", _OURS, "gateway_doors", _WEB_STREAM),
    _stream("stream, gRPC-Web", _CONNECT_ALONE, "connect_alone", _WEB_STREAM),
    _stream("stream, gRPC-Web", _ENVOY, "envoy", _WEB_STREAM, "web"),
    _stream("stream, gRPC", _OURS, "gateway_doors", "application/grpc", "grpc"),
    _stream("stream, gRPC", _GRPC_ALONE, "grpc_alone", "application/grpc", "grpc"),
    _limited("three quotas a call", "limited"),
    _limited("the same without Redis", "alone"),
    _limited("nothing", "open"),
    _authenticated("a session token that is known", "known"),
    _authenticated("a session token that is new", "unknown"),
    _authenticated("an API key that is known", "key"),
    _signed_by_key(),
    _authenticated("nothing", "open"),
    *(
        _signed(name, port, body)
        for body in SIGNED_BODIES
        for name, port in (("check and nonce", "once"), ("check alone", "held"), ("nothing", "open"))
    ),
    _read(_OURS, "gateway"),
    _read(_OVER_REST, "gateway_over_rest"),
    _read(_USUAL, "fastapi_supabase"),
    _read(_UNGUARDED, "gateway_unguarded"),
    _read(_BARE, "bare_parts"),
    _execute("execute", _OURS, "gateway"),
    _execute("execute", _OVER_REST, "gateway_over_rest"),
    _execute("execute", _USUAL, "fastapi_supabase"),
    _execute("execute", _UNGUARDED, "gateway_unguarded"),
    _execute("execute", _BARE, "bare_parts"),
    _execute("execute, one at a time", _OURS, "gateway", 1),
    _execute("execute, one at a time", _USUAL, "fastapi_supabase", 1),
    _relay("execute, stream", _OURS, "gateway"),
    _relay("execute, stream", _OVER_REST, "gateway_over_rest"),
    _relay("execute, stream", _USUAL, "fastapi_supabase"),
    _relay("execute, stream", _BARE, "bare_parts"),
    _dripped(_OURS, "gateway"),
    _dripped(_USUAL, "fastapi_supabase"),
    *(
        _timed(group, row, share)
        for group, share in (("execute, one at a time", 0.0), ("execute, at half of what each can do", 0.5))
        for row in (
            _execute("", _OURS, "gateway"),
            _execute("", _USUAL, "fastapi_supabase"),
            _execute("", _BARE, "bare_parts"),
            _n8n_itself("answer"),
        )
    ),
    *(
        _timed("from n8n's first chunk to the caller's", row)
        for row in (
            _relay("", _OURS, "gateway", "stamped"),
            _relay("", _USUAL, "fastapi_supabase", "stamped"),
            _relay("", _BARE, "bare_parts", "stamped"),
            _n8n_itself("stamped"),
        )
    ),
    _relay("open streams", _OURS, "gateway", "held"),
    _relay("open streams", _USUAL, "fastapi_supabase", "held"),
)

AIMS: tuple[Aim, ...] = (
    Aim(f"REST: {_OURS}", f"REST: {_FASTAPI}", 2.0),
    Aim(f"REST: {_OURS}", f"REST: {_ENVOY}", 8.0),
    Aim(f"Connect json: {_OURS}", f"Connect json: {_CONNECT_ALONE}", 0.75),
    Aim(f"Connect proto: {_OURS}", f"Connect proto: {_CONNECT_ALONE}", 0.75),
    Aim(f"gRPC: {_OURS}", f"gRPC: {_GRPC_ALONE}", 0.85),
    Aim("transcoder: transcoder, 10 routes", f"transcoder: {_FASTAPI}, 10 routes", 2.0),
    Aim("transcoder: transcoder, 500 routes", f"transcoder: {_FASTAPI}, 500 routes", 2.0),
    Aim("transcoder: transcoder, 500 routes", "transcoder: transcoder, 10 routes", 0.95),
    Aim("transcoder: transcoder, 10 routes", f"REST: {_ENVOY}", 8.0),
    Aim(f"read: {_OVER_REST}", f"read: {_USUAL}", 3.0),
    Aim(f"read: {_OURS}", f"read: {_BARE}", 0.72),
    Aim(f"execute: {_OURS}", f"execute: {_BARE}", 0.73),
    Aim(f"execute, stream: {_OURS}", f"execute, stream: {_BARE}", 0.53),
    Aim(f"execute: {_OURS}", f"execute: {_USUAL}", 11.0),
    Aim(f"execute: {_OVER_REST}", f"execute: {_USUAL}", 3.0),
)


_ANSWERS = {"authentication": b"known", "limiter": b"admitted", "signature": b"held"}


def holds(row: Row, answer: bytes) -> bool:
    """Whether an answer is what the row is measured for."""
    if row.server in _ANSWERS:
        return answer == _ANSWERS[row.server]
    if not row.body:
        return [workflow["webhook_path"] for workflow in json.loads(answer)["workflows"]] == [row.tenants]
    if row.tenants or row.server == "parts":
        return _is_run(row, answer)
    if row.path in (_LIST, "/v1/lines"):
        return answer.count(b"x" * LINE_BYTES) == LINES
    return TITLE.encode() in answer and b"Europe/Berlin" in answer


def _is_run(row: Row, answer: bytes) -> bool:
    if row.tenants == "stamped":
        return answer.count(b"@") == 2
    if row.tenants in ("stream", "dripped"):
        # Where a secret of this run begins with an x, the ends of chunks are in the events behind theirs.
        return answer.count(b"x") >= LINES * LINE_BYTES and b"credits_used" in answer
    told = json.loads(answer)
    data = told if row.server == "parts" else told["data"]
    return data["answer"] == 42 and told.get("credits_used") == (None if row.server == "parts" else 1)
