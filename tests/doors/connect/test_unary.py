"""What takes the short way through the Connect door, and what is left to the application behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from protobuf import Message

from gateway.doors.asgi import Application, Event, Receive, Scope, Send
from gateway.doors.connect import ConnectDoor
from gateway.doors.connect.encodings import Encoding
from gateway.doors.connect.unary import ConnectUnary
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest, ExecuteResponse
from gateway.rpc import chain
from gateway.rpc.call import Call
from gateway.rpc.chain import Chain
from gateway.rpc.decode import decode_binary
from gateway.rpc.errors import NotFound, RpcError
from gateway.rpc.methods import MethodTable
from gateway.transcoding import Headers, WholeRequest
from tests.calls import EXECUTIONS
from tests.doors.wire import frame

PATH = f"/{EXECUTIONS.type_name}/Execute"
LIMIT = 10_000
SECONDS = 60.0
WEB = "application/grpc-web+proto"


class Service:
    """Answers with the workflow that it is asked for, fails for `missing`, and waits for `hang`."""

    def __init__(self) -> None:
        self.called, self.cancelled = asyncio.Event(), asyncio.Event()

    async def execute(self, request: ExecuteRequest, call: Call) -> ExecuteResponse:
        self.called.set()
        call.response_metadata.append(("x-request-id", "r-1"))
        call.trailing_metadata.append(("x-cost", "1"))
        if request.workflow_id == "hang":
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        if request.workflow_id == "missing":
            raise NotFound("No such workflow.")
        return ExecuteResponse(status=request.workflow_id)


class Door:
    """The short way, in front of an application that keeps the bodies of what is left to it."""

    def __init__(self) -> None:
        self.service = Service()
        self.left: list[bytes] = []
        methods = MethodTable([(EXECUTIONS, self.service)])
        chain = Chain(decode, [], [], timeout=60.0)
        self.application = ConnectUnary(
            self._behind, methods, chain, ENCODINGS, shown, max_message_bytes=LIMIT
        )

    async def _behind(self, _scope: Scope, receive: Receive, _send: Send) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event.get("body", b"")
            more = event.get("more_body", False)
        self.left.append(body)

    async def serve(self, request: Scope, *events: Event) -> list[Event]:
        """What is sent for a request that comes in these events, after which the client is silent."""
        return await _exchange(self.application, request, *events)


async def _exchange(application: Application, request: Scope, *events: Event) -> list[Event]:
    coming, sent = list(events), list[Event]()

    async def receive() -> Event:
        return coming.pop(0) if coming else await asyncio.Future()

    async def send(event: Event) -> None:
        sent.append(event)

    async with asyncio.timeout(SECONDS):
        await application(request, receive, send)
    return sent


async def decode(call: Call) -> None:
    call.request = call.decode()


def shown(error: RpcError, _call: Call) -> ConnectError:
    return ConnectError(Code[error.code.name], error.message)


def from_json(message_type: type[Message], body: bytes) -> Message:
    return message_type.from_json(body.decode())


ENCODINGS = [
    Encoding("proto", decode_binary, lambda message: message.to_binary()),
    Encoding("json", from_json, lambda message: message.to_json().encode()),
]


def scope(path: str = PATH, method: str = "POST", **headers: str) -> Scope:
    fields = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    return {"type": "http", "method": method, "path": path, "headers": raw, "client": ("192.0.2.1", 5)}


def twice() -> Scope:
    request = scope()
    request["headers"] += [(b"x-tenant-id", b"a"), (b"x-tenant-id", b"b")]
    return request


def body(data: bytes, *, more: bool = False) -> Event:
    return {"type": "http.request", "body": data, "more_body": more}


def asking(workflow_id: str) -> Event:
    return body(ExecuteRequest(workflow_id=workflow_id).to_json().encode())


DISCONNECT: Event = {"type": "http.disconnect"}


async def test_a_plain_call_is_answered() -> None:
    door = Door()
    start, end = await door.serve(scope(), asking("w-1"))
    assert start["status"] == 200
    assert start["headers"] == [
        (b"content-type", b"application/json"),
        (b"vary", b"Accept-Encoding"),
        (b"x-request-id", b"r-1"),
        (b"trailer-x-cost", b"1"),
        (b"content-length", b"16"),
    ]
    assert json.loads(end["body"]) == {"status": "w-1"}
    assert door.left == []


async def test_binary_is_answered_in_binary() -> None:
    message = body(ExecuteRequest(workflow_id="w-1").to_binary())
    start, end = await Door().serve(scope(content_type="application/proto"), message)
    assert dict(start["headers"])[b"content-type"] == b"application/proto"
    assert ExecuteResponse.from_binary(end["body"]).status == "w-1"


async def test_an_error_is_connects_own_json_in_every_encoding() -> None:
    message = body(ExecuteRequest(workflow_id="missing").to_binary())
    start, end = await Door().serve(scope(content_type="application/proto"), message)
    assert start["status"] == 404
    assert json.loads(end["body"]) == {"code": "not_found", "message": "No such workflow."}
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-request-id"] == b"r-1"


@pytest.mark.parametrize(
    ("accepted", "size", "coding"),
    [("gzip", 2000, b"gzip"), ("gzip", 20, None), ("br", 2000, None), ("gzip;q=0", 2000, None)],
)
async def test_large_answers_are_compressed_for_those_who_take_it(
    accepted: str, size: int, coding: bytes | None
) -> None:
    start, end = await Door().serve(scope(accept_encoding=accepted), asking("w" * size))
    headers = dict(start["headers"])
    assert headers.get(b"content-encoding") == coding
    assert headers[b"content-length"] == str(len(end["body"])).encode()


async def test_a_callers_deadline_holds() -> None:
    start, end = await Door().serve(scope(connect_timeout_ms="30"), asking("hang"))
    assert start["status"] == 504
    assert json.loads(end["body"])["code"] == "deadline_exceeded"


LEFT: dict[str, Callable[[], Scope]] = {
    "stream": lambda: scope(f"/{EXECUTIONS.type_name}/ExecuteStream"),
    "unknown method": lambda: scope(f"{PATH}d"),
    "GET": lambda: scope(method="GET"),
    "compressed": lambda: scope(content_encoding="gzip"),
    "version": lambda: scope(connect_protocol_version="2"),
    "timeout is no number": lambda: scope(connect_timeout_ms="soon"),
    "timeout is too long": lambda: scope(connect_timeout_ms="9" * 11),
    "timeout is empty": lambda: scope(connect_timeout_ms=""),
    "header twice": twice,
    "header not ASCII": lambda: scope(x_name="\xe9"),
    "other encoding": lambda: scope(content_type="application/xml"),
    "parameter": lambda: scope(content_type="application/json; charset=utf-8"),
    "gRPC-Web in text": lambda: scope(content_type="application/grpc-web-text"),
    "gRPC-Web of another encoding": lambda: scope(content_type="application/grpc-web+xml"),
    "gRPC-Web, compressed": lambda: scope(content_type=WEB, grpc_encoding="gzip"),
    "gRPC-Web, timeout without unit": lambda: scope(content_type=WEB, grpc_timeout="100"),
    "gRPC-Web, timeout is too long": lambda: scope(content_type=WEB, grpc_timeout="123456789m"),
    "gRPC-Web, timeout is empty": lambda: scope(content_type=WEB, grpc_timeout=""),
}


@pytest.mark.parametrize("case", LEFT)
async def test_what_is_not_plain_is_left_to_the_application_behind(case: str) -> None:
    door = Door()
    assert await door.serve(LEFT[case](), body(b"one, ", more=True), body(b"two")) == []
    assert door.left == [b"one, two"]


@pytest.mark.parametrize(
    "parts", [[b"one, ", b"two, ", b"three"], [b"x" * (LIMIT + 1)]], ids=["in parts", "too large"]
)
async def test_a_message_that_is_in_parts_or_too_large_is_left_whole(parts: list[bytes]) -> None:
    door = Door()
    await door.serve(scope(), *(body(part, more=True) for part in parts[:-1]), body(parts[-1]))
    assert door.left == [b"".join(parts)]


@pytest.mark.parametrize(
    "message",
    [b"", b"\0\0\0", frame(b"cut", length=4), frame(b"", flags=1), frame(b"") * 2, frame(b"", flags=0x80)],
    ids=["none", "half a head", "cut", "compressed", "two", "trailers"],
)
async def test_what_is_no_plain_message_of_grpc_web_is_left_as_it_came(message: bytes) -> None:
    door = Door()
    assert await door.serve(scope(content_type=WEB), body(message)) == []
    assert door.left == [message]


ALIKE = {
    "well": ("w-1", {}),
    "an error": ("missing", {}),
    "large": ("w" * 2000, {}),
    "large, in gzip": ("w" * 2000, {"grpc_accept_encoding": "br, gzip", "accept_encoding": "gzip"}),
    "small, with gzip": ("w", {"grpc_accept_encoding": "gzip", "accept_encoding": "gzip"}),
    "an error, with gzip": ("missing", {"grpc_accept_encoding": "gzip"}),
    "in time": ("w-1", {"grpc_timeout": "600S", "connect_timeout_ms": "600000"}),
    "late": ("hang", {"grpc_timeout": "60S", "connect_timeout_ms": "60000"}),
}
HEADROOM = 59.9
"""In seconds: the application behind ends what is late, too, and on a busy machine could be first."""


@pytest.mark.parametrize("case", ALIKE)
@pytest.mark.parametrize(
    "content_type", ["application/proto", "application/json", WEB, "application/grpc-web+json"]
)
async def test_an_answer_is_what_the_application_behind_would_have_sent(
    monkeypatch: pytest.MonkeyPatch, content_type: str, case: str
) -> None:
    """Which serves what comes in two parts."""
    for name in ("_LEAST", "_MOST"):
        monkeypatch.setattr(chain, name, HEADROOM)
    workflow_id, headers = ALIKE[case]
    message = ExecuteRequest(workflow_id=workflow_id)
    data = message.to_json().encode() if content_type.endswith("json") else message.to_binary()
    data = frame(data) if "grpc" in content_type else data
    request = scope(content_type=content_type, **headers)
    (start, end), (behind, *parts) = await asyncio.gather(
        _served(request, body(data)), _served(request, body(data[:3], more=True), body(data[3:]))
    )
    more = {(b"content-length", b"%d" % len(end["body"])), (b"vary", b"Accept-Encoding")}
    assert start["status"] == behind["status"]
    assert len(start["headers"]) == len(set(start["headers"]))
    assert set(start["headers"]) | more == {*behind["headers"], *more}
    assert end["body"] == b"".join(part["body"] for part in parts)


async def _served(request: Scope, *events: Event) -> list[Event]:
    methods = MethodTable([(EXECUTIONS, Service())])
    door = ConnectDoor(methods, Chain(decode, [], [], timeout=900.0), max_message_bytes=LIMIT)
    return await _exchange(door, {"root_path": "", "query_string": b"", **request}, *events)


async def test_a_client_that_goes_before_its_message_calls_nothing() -> None:
    door = Door()
    assert await door.serve(scope(), DISCONNECT) == []
    assert not door.service.called.is_set()


async def test_the_call_of_a_client_that_goes_away_is_ended() -> None:
    door = Door()
    assert await door.serve(scope(), asking("hang"), DISCONNECT) == []
    assert door.service.cancelled.is_set()


async def test_a_cancellation_from_elsewhere_passes() -> None:
    door = Door()
    serving = asyncio.create_task(door.serve(scope(), asking("hang")))
    await door.service.called.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


def whole(request: Scope, data: bytes) -> WholeRequest:
    path = request["path"].encode()
    return WholeRequest(request["method"], path, b"", Headers(request["headers"]), request["client"], data)


@pytest.mark.parametrize("workflow_id", ["w-1", "missing"])
async def test_a_whole_request_is_answered_whole(workflow_id: str) -> None:
    data = ExecuteRequest(workflow_id=workflow_id).to_json().encode()
    start, end = await Door().serve(scope(), body(data))
    answering = Door().application.answer(whole(scope(), data))
    assert answering is not None
    status, headers, sent, _ = await answering
    assert (status, headers, sent) == (start["status"], start["headers"], end["body"])


@pytest.mark.parametrize("case", LEFT)
def test_a_whole_request_that_is_not_plain_is_to_be_served_as_usual(case: str) -> None:
    door = Door()
    assert door.application.answer(whole(LEFT[case](), b"{}")) is None
    assert door.application.answer(whole(scope(), b" " * (LIMIT + 1))) is None
    assert not door.service.called.is_set()
