"""The Python client's retries and resumed streams, against a real gRPC server that fails as it is told."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from n8n_gateway_client import AsyncClient, Break, Client, RetryPolicy, error_info, follow, follow_async
from n8n_gateway_client.retries import RetryInterceptor
from n8n_gateway_client.v1.execution_event_pb2 import (
    ExecutionChunk,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
)
from n8n_gateway_client.v1.execution_service_pb2 import (
    CancelExecutionRequest,
    CancelExecutionResponse,
    ExecuteRequest,
    ExecuteResponse,
    ExecuteStreamRequest,
    GetExecutionRequest,
    GetExecutionResponse,
    StartExecutionRequest,
    StartExecutionResponse,
    WatchExecutionRequest,
)
from n8n_gateway_client.v1.execution_service_pb2_grpc import (
    ExecutionServiceServicer,
    ExecutionServiceStub,
    add_ExecutionServiceServicer_to_server,
)
from n8n_gateway_client.v1.organization_service_pb2 import (
    CreateOrganizationRequest,
    CreateOrganizationResponse,
)
from n8n_gateway_client.v1.organization_service_pb2_grpc import (
    OrganizationServiceServicer,
    add_OrganizationServiceServicer_to_server,
)

FAST = RetryPolicy(initial_delay=0.001, max_delay=0.02)
PAUSING = RetryPolicy(initial_delay=3600, max_delay=3600)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Failure(Exception):
    """How the server ends a call."""

    def __init__(self, code: grpc.StatusCode, message: str, *details: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details

    def end(self, context: grpc.ServicerContext) -> None:
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(self.code, self.message)


AWAY = Failure(UNAVAILABLE, "away")
CUT = Failure(UNAVAILABLE, "cut")


def retry_after(seconds: float) -> Failure:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    return Failure(UNAVAILABLE, "busy", error_details_pb2.RetryInfo(retry_delay=delay))


def unary(answer: type[Message]) -> Callable[[Server, Message, grpc.ServicerContext], Message]:
    """An RPC that fails as the server's `failures` say, one a call, then answers."""

    def handle(server: Server, _request: Message, context: grpc.ServicerContext) -> Message:
        server.calls += 1
        metadata = context.invocation_metadata()
        server.tokens += [str(value) for name, value in metadata if name == "authorization"]
        failure = next(server.failures, None)
        if failure is not None:
            failure.end(context)
        return answer()

    return handle


class Server(ExecutionServiceServicer, OrganizationServiceServicer):
    """Fails and streams as a test says."""

    def __init__(self) -> None:
        self.target = ""
        self.failures: Iterator[Failure] = iter(())
        self.calls = 0
        self.tokens: list[str] = []
        self.ended = threading.Event()
        self.stream: Callable[[], Iterable[ExecutionEvent]] = list
        self.watch: Callable[[WatchExecutionRequest], Iterable[ExecutionEvent]] = list

    Execute = unary(ExecuteResponse)
    StartExecution = unary(StartExecutionResponse)
    GetExecution = unary(GetExecutionResponse)
    CancelExecution = unary(CancelExecutionResponse)
    CreateOrganization = unary(CreateOrganizationResponse)

    def ExecuteStream(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 (the RPC's name)
        assert isinstance(request, ExecuteStreamRequest)
        context.add_callback(self.ended.set)
        return sent(self.stream(), context)

    def WatchExecution(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 (the RPC's name)
        return sent(self.watch(request), context)


def sent(events: Iterable[ExecutionEvent], context: grpc.ServicerContext) -> Iterator[ExecutionEvent]:
    try:
        yield from events
    except Failure as failure:
        failure.end(context)


@pytest.fixture
def server() -> Iterator[Server]:
    grpc_server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    service = Server()
    add_ExecutionServiceServicer_to_server(service, grpc_server)
    add_OrganizationServiceServicer_to_server(service, grpc_server)
    service.target = f"127.0.0.1:{grpc_server.add_insecure_port('127.0.0.1:0')}"
    grpc_server.start()
    yield service
    grpc_server.stop(None).wait()


Call = Callable[[Any], Any]

KEY_IN_METADATA = (("idempotency-key", "k"),)

SAFE: dict[str, Call] = {
    "without side effects": lambda client: client.executions.GetExecution(GetExecutionRequest()),
    "idempotent": lambda client: client.executions.CancelExecution(CancelExecutionRequest()),
    "Execute with a key": lambda client: client.executions.Execute(ExecuteRequest(idempotency_key="k")),
    "Execute with a key in the metadata": lambda client: client.executions.Execute(
        ExecuteRequest(), metadata=KEY_IN_METADATA
    ),
    "StartExecution with a key": lambda client: client.executions.StartExecution(
        StartExecutionRequest(idempotency_key="k")
    ),
}
UNSAFE: dict[str, Call] = {
    "Execute without a key": lambda client: client.executions.Execute(ExecuteRequest()),
    "a key in the metadata of a method that knows none": lambda client: (
        client.organizations.CreateOrganization(CreateOrganizationRequest(), metadata=KEY_IN_METADATA)
    ),
}


async def call_both(
    server: Server, call: Call, failures: Callable[[], Iterable[Failure]], **options: Any
) -> list[tuple[int, grpc.StatusCode | None]]:
    """Make a call with either client; return how often the server was called, and the code at the end."""
    ends: list[tuple[int, grpc.StatusCode | None]] = []
    server.calls, server.failures = 0, iter(failures())
    with Client(server.target, secure=False, **options) as client:
        try:
            call(client)
            ends.append((server.calls, None))
        except grpc.RpcError as error:
            ends.append((server.calls, error_info(error).code))
    server.calls, server.failures = 0, iter(failures())
    async with AsyncClient(server.target, secure=False, **options) as async_client:
        try:
            await call(async_client)
            ends.append((server.calls, None))
        except grpc.RpcError as error:
            ends.append((server.calls, error_info(error).code))
    return ends


@pytest.mark.parametrize("name", SAFE)
async def test_safe_calls_are_repeated(server: Server, name: str) -> None:
    assert await call_both(server, SAFE[name], lambda: [AWAY, AWAY], retry=FAST) == [(3, None)] * 2


@pytest.mark.parametrize("name", UNSAFE)
async def test_other_calls_are_not_repeated(server: Server, name: str) -> None:
    assert await call_both(server, UNSAFE[name], lambda: [AWAY], retry=FAST) == [(1, UNAVAILABLE)] * 2


GET = SAFE["without side effects"]


@pytest.mark.parametrize(
    ("failure", "calls"),
    [
        (AWAY, 4),
        (Failure(grpc.StatusCode.INTERNAL, "wrong"), 1),
        (retry_after(3600), 1),
        (retry_after(0.001), 4),
    ],
    ids=["attempts have an end", "another code", "a delay beyond the longest", "a delay within it"],
)
async def test_repeating_ends(server: Server, failure: Failure, calls: int) -> None:
    ends = await call_both(server, GET, lambda: itertools.repeat(failure), retry=FAST)
    assert ends == [(calls, failure.code)] * 2


async def test_the_gateways_own_delay_is_waited_for(server: Server) -> None:
    assert await call_both(server, GET, lambda: [retry_after(0.015)], retry=PAUSING) == [(2, None)] * 2


async def test_no_pause_goes_beyond_the_timeout(server: Server) -> None:
    def get(client: Any) -> Any:
        return client.executions.GetExecution(GetExecutionRequest(), timeout=60)

    assert await call_both(server, get, lambda: [AWAY], retry=PAUSING) == [(1, UNAVAILABLE)] * 2


async def test_each_attempt_asks_for_a_token(server: Server) -> None:
    numbers = itertools.count(1)
    await call_both(server, GET, lambda: [AWAY], retry=FAST, token_provider=lambda: f"t{next(numbers)}")
    assert server.tokens == ["Bearer t1", "Bearer t2", "Bearer t3", "Bearer t4"]


def test_a_future_is_not_repeated(server: Server) -> None:
    server.failures = iter([AWAY])
    with Client(server.target, secure=False, retry=FAST) as client:
        future: Any = client.executions.GetExecution.future(GetExecutionRequest())
        assert future.exception() is not None
    assert server.calls == 1


def test_a_future_that_fails_at_once_is_not_repeated(server: Server) -> None:
    class Waiting(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            call = continuation(details, request)
            assert call.exception() is not None
            return call

    server.failures = iter([AWAY])
    with grpc.insecure_channel(server.target) as channel:
        intercepted = grpc.intercept_channel(channel, RetryInterceptor(FAST), Waiting())
        future: Any = ExecutionServiceStub(intercepted).GetExecution.future(GetExecutionRequest())
        assert future.exception() is not None
    assert server.calls == 1


def chunk(sequence: int) -> ExecutionEvent:
    return ExecutionEvent(execution_id="e", sequence=sequence, chunk=ExecutionChunk())


def completed(sequence: int) -> ExecutionEvent:
    return ExecutionEvent(execution_id="e", sequence=sequence, completed=ExecutionCompleted())


def failed(sequence: int) -> ExecutionEvent:
    return ExecutionEvent(execution_id="e", sequence=sequence, failed=ExecutionFailed())


def ending(end: Failure, *events: ExecutionEvent) -> Callable[..., Iterator[ExecutionEvent]]:
    def stream(*_: object) -> Iterator[ExecutionEvent]:
        yield from events
        raise end

    return stream


BROKEN = ending(CUT, chunk(1), chunk(2))


@dataclass
class Read:
    """What a reader saw."""

    sequences: list[int] = field(default_factory=list)
    breaks: list[Break] = field(default_factory=list)
    error: grpc.RpcError | None = None

    @property
    def attempts(self) -> list[int]:
        return [where.attempt for where in self.breaks]

    @property
    def code(self) -> grpc.StatusCode | None:
        return None if self.error is None else error_info(self.error).code


def watched(where: Break) -> WatchExecutionRequest:
    return WatchExecutionRequest(execution_id=where.execution_id, after_sequence=where.last_sequence)


def read(server: Server, most: int = 3) -> Read:
    result = Read()

    def on_break(where: Break) -> Iterable[ExecutionEvent] | None:
        result.breaks.append(where)
        return None if where.attempt > most else client.executions.WatchExecution(watched(where))

    with Client(server.target, secure=False) as client:
        try:
            for event in follow(client.executions, ExecuteStreamRequest(), on_break=on_break):
                result.sequences.append(event.sequence)
        except grpc.RpcError as error:
            result.error = error
    return result


async def read_async(server: Server, most: int = 3) -> Read:
    result = Read()

    async def on_break(where: Break) -> AsyncIterable[ExecutionEvent] | None:
        result.breaks.append(where)
        return None if where.attempt > most else client.executions.WatchExecution(watched(where))

    async with AsyncClient(server.target, secure=False) as client:
        try:
            async for event in follow_async(client.executions, ExecuteStreamRequest(), on_break=on_break):
                result.sequences.append(event.sequence)
        except grpc.RpcError as error:
            result.error = error
    return result


def rest(request: WatchExecutionRequest) -> list[ExecutionEvent]:
    assert (request.execution_id, request.after_sequence) == ("e", 2)
    return [chunk(2), chunk(3), completed(4)]


GONE = Failure(grpc.StatusCode.NOT_FOUND, "gone", error_details_pb2.ErrorInfo(reason="EXECUTION_NOT_FOUND"))
NODE_FAILED = Failure(grpc.StatusCode.ABORTED, "a node failed")


@pytest.mark.parametrize(
    ("stream", "watch", "sequences", "attempts", "code"),
    [
        (lambda: [chunk(1), completed(2)], list, [1, 2], [], None),
        (BROKEN, rest, [1, 2, 3, 4], [1], None),
        (lambda: [chunk(1), chunk(2)], rest, [1, 2, 3, 4], [1], None),
        (BROKEN, ending(GONE), [1, 2], [1], grpc.StatusCode.NOT_FOUND),
        (ending(NODE_FAILED), list, [], [], grpc.StatusCode.ABORTED),
        (ending(NODE_FAILED, chunk(1), failed(2)), list, [1, 2], [], grpc.StatusCode.ABORTED),
    ],
    ids=[
        "a whole stream",
        "a break is resumed, each event once",
        "an early end is a break",
        "a refused resumption is no break",
        "an error before the first event",
        "the error of a failed run",
    ],
)
async def test_follow(
    server: Server,
    stream: Any,
    watch: Any,
    sequences: list[int],
    attempts: list[int],
    code: grpc.StatusCode | None,
) -> None:
    server.stream, server.watch = stream, watch
    for result in (read(server), await read_async(server)):
        assert (result.sequences, result.attempts, result.code) == (sequences, attempts, code)


async def test_attempts_count_breaks_without_a_new_event(server: Server) -> None:
    server.stream = BROKEN
    for reader in (read, read_async):
        server.watch = one_a_call(ending(CUT), ending(CUT, chunk(3)), ending(CUT), ending(CUT))
        result = reader(server, 2)
        seen = result if isinstance(result, Read) else await result
        assert (seen.sequences, seen.attempts, seen.code) == ([1, 2, 3], [1, 2, 1, 2, 3], UNAVAILABLE)


def one_a_call(*watches: Callable[..., Iterator[ExecutionEvent]]) -> Callable[..., Iterator[ExecutionEvent]]:
    left = iter(watches)

    def watch(request: WatchExecutionRequest) -> Iterator[ExecutionEvent]:
        return next(left)(request)

    return watch


async def test_without_a_hook_the_break_is_raised(server: Server) -> None:
    server.stream = BROKEN
    with Client(server.target, secure=False) as client, pytest.raises(grpc.RpcError, match="cut"):
        list(follow(client.executions, ExecuteStreamRequest()))
    async with AsyncClient(server.target, secure=False) as async_client:
        with pytest.raises(grpc.RpcError, match="cut"):
            _ = [event async for event in follow_async(async_client.executions, ExecuteStreamRequest())]


def test_an_early_end_without_a_hook_is_told(server: Server) -> None:
    server.stream = lambda: [chunk(1)]
    with (
        Client(server.target, secure=False) as client,
        pytest.raises(grpc.RpcError, match="before the run did"),
    ):
        list(follow(client.executions, ExecuteStreamRequest()))


async def test_closing_the_iterator_ends_the_call(server: Server) -> None:
    def endless() -> Iterator[ExecutionEvent]:
        yield chunk(1)
        server.ended.wait()

    server.stream = endless
    with Client(server.target, secure=False) as client:
        for _ in follow(client.executions, ExecuteStreamRequest()):
            break
        assert await asyncio.to_thread(server.ended.wait, 30)
    server.ended.clear()
    async with AsyncClient(server.target, secure=False) as async_client:
        events = follow_async(async_client.executions, ExecuteStreamRequest())
        await anext(events)
        await events.aclose()
        assert await asyncio.to_thread(server.ended.wait, 30)
