"""The gRPC door, on grpc.aio.

Requests arrive as bytes (no request deserializer), so that the chain can look at
a call before anything of it is decoded.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from gateway.rpc.call import Call
from gateway.rpc.decode import decode_binary
from gateway.rpc.errors import RpcError
from gateway.rpc.metadata import joined
from gateway.rpc.status import status_of

if TYPE_CHECKING:
    from protobuf import DescFile, Message

    from gateway.rpc.chain import Chain
    from gateway.rpc.methods import Method, MethodTable

    Context = grpc.aio.ServicerContext[bytes, bytes]

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_REFLECTION_V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


@dataclass(frozen=True, slots=True)
class _Status(grpc.Status):
    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


class GrpcDoor:
    """A gRPC server for a table of methods, with health and reflection (v1 and v1alpha).

    `max_message_bytes` bounds a request message; a larger one is RESOURCE_EXHAUSTED
    before it is read.
    """

    def __init__(self, methods: MethodTable, chain: Chain, *, max_message_bytes: int) -> None:
        self._chain = chain
        self._services = [service.type_name for service in methods.services]
        self.health = HealthServicer()
        options = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers([_Handlers(self._handler(m) for m in methods)])
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        _serve_reflection(self._server, methods)

    async def start(self, address: str) -> int:
        """Listen on `host:port` (port 0 for a free one) and return the port. Raises OSError."""
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            msg = f"cannot listen for gRPC on {address}: is the port in use?"
            raise OSError(msg) from error
        for name in self._services:
            await self.health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        return port

    async def stop(self, grace: float) -> None:
        """Refuse new calls, let running ones finish for `grace` seconds, then end them."""
        await self.health.enter_graceful_shutdown()
        await self._server.stop(grace)

    def _handler(self, method: Method) -> tuple[str, grpc.RpcMethodHandler[bytes, bytes]]:
        if method.server_streaming:
            return method.path, grpc.unary_stream_rpc_method_handler(partial(self._stream, method))
        return method.path, grpc.unary_unary_rpc_method_handler(partial(self._unary, method))

    async def _unary(self, method: Method, body: bytes, context: Context) -> bytes:
        call = _call(method, body, context)
        try:
            response = await self._chain.unary(call, _encode)
        except RpcError as error:
            await _abort(context, call, error)
        if call.leading_metadata:
            await context.send_initial_metadata(_wire(call.leading_metadata))
        context.set_trailing_metadata(_trailers(call))
        return response

    async def _stream(self, method: Method, body: bytes, context: Context) -> AsyncIterator[bytes]:
        call = _call(method, body, context)
        try:
            async with aclosing(self._chain.stream(call, _encode)) as messages:
                async for message in messages:
                    if call.leading_metadata:
                        await context.send_initial_metadata(_wire(call.leading_metadata))
                        call.leading_metadata.clear()
                    yield message
        except RpcError as error:
            await _abort(context, call, error)
        if call.leading_metadata:
            await context.send_initial_metadata(_wire(call.leading_metadata))
        context.set_trailing_metadata(_trailers(call))


class _Handlers(grpc.GenericRpcHandler):
    """Finds a handler by the path of the method."""

    def __init__(self, handlers: Iterable[tuple[str, grpc.RpcMethodHandler[bytes, bytes]]]) -> None:
        self._handlers = dict(handlers)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handlers.get(details.method)


def _call(method: Method, body: bytes, context: Context) -> Call:
    return Call(
        method=method,
        metadata=joined(_text(context.invocation_metadata() or ())),
        body=body,
        decode=partial(decode_binary, method.input, body),
        http_method="POST",
        target=method.path,
        peer=context.peer(),
        timeout=context.time_remaining(),
    )


async def _abort(context: Context, call: Call, error: RpcError) -> NoReturn:
    """End the call with the status, its details in `grpc-status-details-bin`."""
    if call.leading_metadata:
        await context.send_initial_metadata(_wire(call.leading_metadata))
    status = status_of(error, call.request_id)
    await context.abort_with_status(
        _Status(
            code=_CODES[status.code],
            details=status.message,
            trailing_metadata=(*_trailers(call), ("grpc-status-details-bin", status.to_binary())),
        )
    )


def _encode(message: Message) -> bytes:
    return message.to_binary()


def _text(metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[tuple[str, str]]:
    """Metadata as it is on the wire: values of `-bin` names in base64."""
    for name, value in metadata:
        yield name, value if isinstance(value, str) else b64encode(value).decode()


def _wire(metadata: Iterable[tuple[str, str]]) -> tuple[tuple[str, str | bytes], ...]:
    """Metadata as grpcio wants it: values of `-bin` names in bytes."""
    return tuple(
        (name, b64decode(value + "==") if name.endswith("-bin") else value) for name, value in metadata
    )


def _trailers(call: Call) -> tuple[tuple[str, str | bytes], ...]:
    return _wire((*call.response_metadata, *call.trailing_metadata))


def _serve_reflection(server: grpc.aio.Server, methods: MethodTable) -> None:
    """Serve both versions of the reflection service: their messages are the same on the wire."""
    pool = DescriptorPool()
    added: set[str] = set()
    for service in methods.services:
        _add_file(pool, service.file, added)
    for serialized in (
        health_pb2.DESCRIPTOR.serialized_pb,
        reflection_pb2.DESCRIPTOR.serialized_pb,
        _reflection_v1(),
    ):
        pool.AddSerializedFile(serialized)
    names = [service.type_name for service in methods.services]
    servicer = ReflectionServicer(
        [*names, "grpc.health.v1.Health", _REFLECTION_V1, _REFLECTION_V1ALPHA], _Symbols(pool)
    )
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
