"""The doors in front of a service that does as its request says, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from gateway.chain.context import establish_context
from gateway.doors.connect import ConnectDoor
from gateway.doors.grpc import Connections, GrpcDoor
from gateway.doors.http import Bounds, HttpServer, http_application
from gateway.doors.rest import RestDoor
from gateway.doors.tls import Tls
from gateway.gen.n8ngateway.v1 import execution_service_pb, health_service_pb
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteResponse, ListExecutionsResponse
from gateway.gen.n8ngateway.v1.health_service_pb import GetLivenessResponse
from gateway.rpc.call import Call
from gateway.rpc.chain import Chain
from gateway.rpc.errors import InvalidArgument, RpcError
from gateway.rpc.methods import MethodTable

Guard = Callable[[Call], Awaitable[None]]

EXECUTIONS = execution_service_pb.desc().services[0]
HEALTH = health_service_pb.desc().services[0]
MAX_MESSAGE_BYTES = 256 * 1024
ORIGIN = "https://app.example.com"
SECRET = "a-secret-in-an-exception"


@dataclass
class Scripted:
    """ExecutionService: `workflow_id` and `execution_id` say what happens."""

    calls: list[Call] = field(default_factory=list)
    produced: int = 0
    called: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def execute(self, request: Any, call: Call) -> ExecuteResponse:
        self._note(call)
        match request.workflow_id:
            case "raise":
                raise RuntimeError(SECRET)
            case "unsendable":
                return ExecuteResponse(status="\ud800" + SECRET)
            case "unsendable error":
                raise InvalidArgument("\ud800", metadata={"text": "\ud800" + SECRET})
            case "hold":
                await self._hold()
        return ExecuteResponse(success=True, status=request.workflow_id)

    async def list_executions(self, request: Any, call: Call) -> ListExecutionsResponse:
        self._note(call)
        return ListExecutionsResponse(next_page_token="x" * request.page_size)

    async def watch_execution(self, request: Any, call: Call) -> AsyncIterator[list[ExecutionEvent]]:
        """`after_sequence` events of about 1 KiB, and for ever in a "flood"."""
        self._note(call)
        try:
            while self.produced < request.after_sequence or request.execution_id == "flood":
                self.produced += 1
                yield [ExecutionEvent(execution_id="x" * 1024, sequence=self.produced)]
            if request.execution_id == "hold":
                await asyncio.Event().wait()
        finally:
            self.ended.set()

    def forget(self) -> None:
        """Begin anew."""
        self.calls.clear()
        self.produced = 0
        self.called.clear()
        self.ended.clear()

    def _note(self, call: Call) -> None:
        self.calls.append(call)
        self.called.set()

    async def _hold(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


class Alive:
    """HealthService, as far as a REST client asks."""

    async def get_liveness(self, _request: Any, _call: Call) -> GetLivenessResponse:
        return GetLivenessResponse(status="ok")


@dataclass
class Doors:
    """The open doors, and what goes on behind them."""

    http_port: int = 0
    grpc_port: int = 0
    service: Scripted = field(default_factory=Scripted)
    outcomes: list[RpcError | None] = field(default_factory=list)
    observed: asyncio.Event = field(default_factory=asyncio.Event)
    grpc: GrpcDoor = field(init=False)

    def observe(self, _call: Call, outcome: RpcError | None) -> None:
        self.outcomes.append(outcome)
        self.observed.set()

    def forget(self) -> None:
        """Begin anew."""
        self.outcomes.clear()
        self.observed.clear()
        self.service.forget()

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_doors() -> AsyncIterator[Doors]:
    """The doors that the tests of a module share, for they take longer to close than a test takes."""
    async with serve(Connections()) as opened:
        yield opened


@pytest.fixture
def doors(open_doors: Doors) -> Doors:
    """The open doors, with nothing behind them yet."""
    open_doors.forget()
    return open_doors


@asynccontextmanager
async def serve(
    connections: Connections,
    *guards: Guard,
    bounds: Bounds | None = None,
    tls: Tls | None = None,
    is_ready: Callable[[], Awaitable[bool]] | None = None,
) -> AsyncIterator[Doors]:
    """Open the doors in the running event loop, with `guards` before a call is decoded."""
    doors = Doors()
    methods = MethodTable([(EXECUTIONS, doors.service), (HEALTH, Alive())])
    chain = Chain(establish_context, guards=[*guards, _decode], observers=[doors.observe], timeout=20)
    doors.grpc = GrpcDoor(
        methods,
        chain,
        max_message_bytes=MAX_MESSAGE_BYTES,
        connections=connections,
        is_ready=is_ready,
        channelz=True,
    )
    application = http_application(
        ConnectDoor(methods, chain, max_message_bytes=MAX_MESSAGE_BYTES),
        RestDoor(methods, chain, max_message_bytes=MAX_MESSAGE_BYTES).application,
        services=[EXECUTIONS.type_name, HEALTH.type_name],
        cors_origins=[ORIGIN],
    )
    http = HttpServer(application, grace=1, bounds=bounds, tls=tls.http if tls else None)
    async with AsyncExitStack() as stack:
        stack.enter_context(capture_logs())
        doors.grpc_port = await doors.grpc.start("127.0.0.1", 0, tls.grpc() if tls else None)
        stack.push_async_callback(doors.grpc.stop, 0)
        doors.http_port = await http.start("127.0.0.1", 0)
        stack.push_async_callback(http.stop)
        yield doors


async def _decode(call: Call) -> None:
    call.request = call.decode()
