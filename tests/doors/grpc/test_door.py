"""The gRPC port as operators know it from other servers."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from gateway.doors.grpc import Connections
from gateway.gen.n8ngateway.v1.execution_service_pb import (
    ExecuteRequest,
    ListExecutionsRequest,
    ListExecutionsResponse,
    WatchExecutionRequest,
)
from gateway.rpc.errors import Cancelled
from tests.doors.conftest import EXECUTIONS, HEALTH, Doors, serve
from tests.doors.wire import SECONDS, Http2, connect_http2, frame

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXECUTE = f"/{EXECUTIONS.type_name}/Execute"
WATCH = f"/{EXECUTIONS.type_name}/WatchExecution"
LIST = f"/{EXECUTIONS.type_name}/ListExecutions"
SERVING = health_pb2.HealthCheckResponse.SERVING
WINDOW_BYTES = 65_535
"""What HTTP/2 lets a sender send before its reader has said more (RFC 9113, 6.9.2)."""
SERVED = [EXECUTIONS.type_name, HEALTH.type_name]


@pytest_asyncio.fixture(loop_scope="module")
async def channel(doors: Doors) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(doors.grpc_address) as opened:
        yield opened


@pytest.mark.parametrize("service", ["", *SERVED])
async def test_each_service_is_checked_by_its_name(channel: grpc.aio.Channel, service: str) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING


async def test_an_unknown_service_has_no_health(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watcher_is_told_when_the_server_stops() -> None:
    watched = health_pb2.HealthCheckRequest(service=EXECUTIONS.type_name)
    async with (
        serve(Connections()) as doors,
        grpc.aio.insecure_channel(doors.grpc_address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(watched)
        assert (await watch.read()).status == SERVING
        stopping = asyncio.create_task(doors.grpc.stop(SECONDS))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await stopping


@pytest.mark.parametrize("service", ["", *SERVED])
async def test_health_follows_readiness(service: str) -> None:
    ready = True

    async def is_ready() -> bool:
        return ready

    request = health_pb2.HealthCheckRequest(service=service)
    async with (
        serve(Connections(), is_ready=is_ready) as doors,
        grpc.aio.insecure_channel(doors.grpc_address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(request)
        for ready in (True, False, True):
            expected = SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
            assert (await health.Check(request)).status == expected
            assert (await watch.read()).status == expected
        watch.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_every_service_with_its_files(channel: grpc.aio.Channel, version: str) -> None:
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await ask.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = [service.name for service in (await ask.read()).list_services_response.service]
    assert {*SERVED, "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"} < set(names)
    for name in names:
        await ask.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name))
        pool = DescriptorPool()
        files = (await ask.read()).file_descriptor_response.file_descriptor_proto
        _add(pool, {file.name: file for file in map(FileDescriptorProto.FromString, files)})
        assert pool.FindServiceByName(name).methods
    await ask.done_writing()


async def test_channelz_counts_calls(channel: grpc.aio.Channel) -> None:
    await channel.unary_unary(EXECUTE)(b"")
    servers = await channelz_pb2_grpc.ChannelzStub(channel).GetServers(channelz_pb2.GetServersRequest())
    assert sum(server.data.calls_succeeded for server in servers.server) >= 1


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await channel.unary_unary(f"/{EXECUTIONS.type_name}/Nothing")(b"")
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_requests_may_be_in_gzip(channel: grpc.aio.Channel) -> None:
    request = ExecuteRequest(workflow_id="echo" * 1000).to_binary()
    assert b"echo" * 1000 in await channel.unary_unary(EXECUTE)(request, compression=grpc.Compression.Gzip)


@pytest.mark.parametrize(
    ("size", "accepts", "shrinks"),
    [(500, True, False), (100_000, True, True), (100_000, False, False)],
    ids=["small", "large", "large for a caller without gzip"],
)
async def test_large_answers_are_in_gzip_for_those_who_take_it(
    doors: Doors, size: int, *, accepts: bool, shrinks: bool
) -> None:
    request = ListExecutionsRequest(page_size=size).to_binary()
    options = [] if accepts else [("grpc.compression_enabled_algorithms_bitset", 1)]
    async with (
        _counted(doors.grpc_port) as (port, count),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
    ):
        call = channel.unary_unary(LIST)
        await call(b"")
        before = count[0]
        answer = ListExecutionsResponse.from_binary(await call(request))
        assert len(answer.next_page_token) == size
        assert (count[0] - before < size) is shrinks


async def test_a_reader_that_stops_reading_stops_the_stream(doors: Doors) -> None:
    request = WatchExecutionRequest(execution_id="flood").to_binary()
    async with connect_http2(doors.grpc_port) as connection:
        connection.start(1, WATCH)
        connection.send(1, frame(request))
        assert await connection.until(connection.DATA)
        assert await _settled(doors) * 1024 < 4 * WINDOW_BYTES
    async with asyncio.timeout(SECONDS):
        await doors.service.ended.wait()
    assert isinstance(doors.outcomes[-1], Cancelled)


async def test_an_old_connection_is_asked_to_go_and_its_calls_go_on() -> None:
    async with serve(Connections(max_age=0.1)) as doors, connect_http2(doors.grpc_port) as connection:
        connection.start(1, EXECUTE)
        assert await connection.until(connection.GOAWAY)
        connection.send(1, b"\x00\x00\x00\x00\x06\x0a\x04echo")
        assert b"echo" in await connection.ended(1)


async def test_a_silent_connection_is_pinged() -> None:
    async with serve(Connections(keepalive=0.1)) as doors, connect_http2(doors.grpc_port) as connection:
        assert await connection.until(connection.PING)


async def test_callers_are_told_how_many_streams_they_may_open() -> None:
    async with (
        serve(Connections(max_concurrent_streams=7)) as doors,
        connect_http2(doors.grpc_port) as connection,
    ):
        settings = await connection.until(connection.SETTINGS)
        assert (3, 7) in struct.iter_unpack(">HI", settings)


def _add(pool: DescriptorPool, files: dict[str, FileDescriptorProto]) -> None:
    """Add files behind those that they import; all of them must be there."""
    added: set[str] = set()

    def add(name: str) -> None:
        if name not in added:
            added.add(name)
            for dependency in files[name].dependency:
                add(dependency)
            pool.Add(files[name])

    for name in files:
        add(name)


async def _settled(doors: Doors) -> int:
    """How many messages the service has produced when it comes to rest."""
    async with asyncio.timeout(SECONDS):
        while True:
            before = doors.service.produced
            await asyncio.sleep(0.1)
            if doors.service.produced == before:
                return before


@asynccontextmanager
async def _counted(port: int) -> AsyncIterator[tuple[int, list[int]]]:
    """A port in front of another one, and the count of bytes that came back from it."""
    count = [0]

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, up_writer, [0]), _pump(up_reader, writer, count))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], count


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: list[int]) -> None:
    while data := await reader.read(65536):
        count[0] += len(data)
        writer.write(data)
    writer.close()


async def test_more_connections_than_there_may_be_are_closed() -> None:
    async with serve(Connections(max_connections=1)) as doors, connect_http2(doors.grpc_port) as first:
        await first.until(Http2.SETTINGS)
        async with connect_http2(doors.grpc_port) as second:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await second.until(Http2.SETTINGS)
        first.start(1, EXECUTE)
        first.send(1, frame(ExecuteRequest(workflow_id="echo").to_binary()))
        assert b"echo" in await first.ended(1)
