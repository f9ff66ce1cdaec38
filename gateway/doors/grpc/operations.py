"""What operators ask a gRPC server itself: is it well, what does it serve, who is connected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_channelz.v1._async import ChannelzServicer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

if TYPE_CHECKING:
    from protobuf import DescFile

    from gateway.rpc.methods import MethodTable

    IsReady = Callable[[], Awaitable[bool]]

_REFLECTION_V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
_Status = health_pb2.HealthCheckResponse.ServingStatus
_WATCH_SECONDS = 1.0
"""How often it is asked, for those who watch, whether the gateway is ready."""


class Operations:
    """Health, reflection (v1 and v1alpha), and channelz where it is wanted.

    Each service is serving while `is_ready` says so, and none after `close`. Channelz tells the addresses
    of all who are connected to whoever asks.
    """

    def __init__(
        self, server: grpc.aio.Server, methods: MethodTable, *, is_ready: IsReady, channelz: bool
    ) -> None:
        self._health = _Health([service.type_name for service in methods.services], is_ready)
        generic = _Generic(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, generic)
        if channelz:
            channelz_pb2_grpc.add_ChannelzServicer_to_server(ChannelzServicer(), generic)
        _serve_reflection(server, methods, channelz=channelz)

    async def close(self) -> None:
        """Every service, and the server as a whole, is not serving from now on; watchers are told."""
        await self._health.enter_graceful_shutdown()


class _Health(HealthServicer):  # type: ignore[misc] # grpcio-health-checking has no types
    """Asks whether the gateway is ready when somebody wants to know."""

    def __init__(self, services: Iterable[str], is_ready: IsReady) -> None:
        super().__init__()
        self._server_status.update(dict.fromkeys(services, _Status.SERVING))
        self._is_ready = is_ready

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - as the protocol names it
        await self._look()
        return await super().Check(request, context)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        await self._look()
        looking = asyncio.create_task(self._keep_looking())
        try:
            await super().Watch(request, context)
        finally:
            looking.cancel()

    async def _look(self) -> None:
        status = _Status.SERVING if await self._is_ready() else _Status.NOT_SERVING
        for service, shown in tuple(self._server_status.items()):
            if shown != status:
                await self.set(service, status)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            await self._look()


class _Generic:
    """A server as generated code sees it, which finds all methods by their paths.

    grpc.aio waits for the calls of each method that is registered with gRPC core apart, and looks
    at all that it waits for at every call of any method.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Not done: the same handlers are given as generic ones."""


def _serve_reflection(server: grpc.aio.Server, methods: MethodTable, *, channelz: bool) -> None:
    """Serve both versions of the reflection service: their messages are the same on the wire."""
    pool = DescriptorPool()
    added: set[str] = set()
    for service in methods.services:
        _add_file(pool, service.file, added)
    names = [service.type_name for service in methods.services]
    names += [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, _REFLECTION_V1, _REFLECTION_V1ALPHA]
    files = [health_pb2.DESCRIPTOR.serialized_pb, reflection_pb2.DESCRIPTOR.serialized_pb, _reflection_v1()]
    if channelz:
        names.append(channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name)
        files += _with_dependencies(channelz_pb2.DESCRIPTOR, added)
    for serialized in files:
        pool.AddSerializedFile(serialized)
    servicer = ReflectionServicer(names, _Symbols(pool))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (_REFLECTION_V1, _REFLECTION_V1ALPHA):
        handlers = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])


class _Symbols:
    """A descriptor pool that finds methods too, as `file_containing_symbol` asks."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - the pool's own name
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            return self._pool.FindServiceByName(service).methods_by_name[method].containing_service.file


def _add_file(pool: DescriptorPool, file: DescFile, added: set[str]) -> None:
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add_file(pool, dependency, added)
    pool.AddSerializedFile(file.proto.to_binary())


def _with_dependencies(file: FileDescriptor, added: set[str]) -> list[bytes]:
    """The serialized file behind those that it imports, without those that are there."""
    if file.name in added:
        return []
    added.add(file.name)
    files = [part for dependency in file.dependencies for part in _with_dependencies(dependency, added)]
    return [*files, file.serialized_pb]


def _reflection_v1() -> bytes:
    """The file of grpc.reflection.v1, which differs from v1alpha by its package alone."""
    renamed = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    renamed.name = "grpc/reflection/v1/reflection.proto"
    renamed.package = "grpc.reflection.v1"
    for message in renamed.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for method in renamed.service[0].method:
        method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
        method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    return renamed.SerializeToString()
