"""The gRPC door, on grpc.aio.

Requests arrive as bytes (no request deserializer), so that the chain can look at
a call before anything of it is decoded. They are read here, as if callers streamed
them: grpcio never answers a unary call whose request does not come whole.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from gateway.doors.grpc.operations import Operations
from gateway.doors.listening import listen
from gateway.rpc.call import Call
from gateway.rpc.decode import decode_binary
from gateway.rpc.errors import RpcError
from gateway.rpc.metadata import joined
from gateway.rpc.status import status_of

if TYPE_CHECKING:
    from gateway.doors.grpc.operations import IsReady
    from gateway.rpc.chain import Chain
    from gateway.rpc.methods import Method, MethodTable
    from gateway.transcoding import Outgoing

    Context = grpc.aio.ServicerContext[bytes, bytes]

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_GZIP_WORTHWHILE = 8 * 1024
"""Bytes below which a message within a data centre is not worth compressing."""
_COMPRESSION_LEVEL = 1
"""Low: by the best of the codings that the caller accepts."""
_PING_INTERVAL_SECONDS = 10
_PING_TIMEOUT_SECONDS = 20
_HANDSHAKE_SECONDS = 20
"""For TLS and the beginning of HTTP/2."""
_METADATA_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True)
class _Status(grpc.Status):
    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """What a gRPC server asks of its connections; times in seconds.

    A connection that is silent for `keepalive` is pinged, and closed if nothing comes
    back; callers may ping every ten seconds. After `max_age` a connection takes no new
    calls, so that callers connect anew and a balancer can spread them; its running calls
    go on. One connection carries `max_concurrent_streams` calls at once; more wait. There are at most
    `max_connections`; more are closed.
    """

    keepalive: float = 60
    max_age: float | None = None
    max_concurrent_streams: int = 1000
    max_connections: int = 10_000

    def options(self) -> list[tuple[str, int]]:
        """The same as channel arguments of gRPC core."""
        options = [
            ("grpc.keepalive_time_ms", round(self.keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_SECONDS * 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_SECONDS * 1000),
            ("grpc.max_concurrent_streams", self.max_concurrent_streams),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
        ]
        if self.max_age is not None:
            options.append(("grpc.max_connection_age_ms", round(self.max_age * 1000)))
        return options


class GrpcDoor:
    """A gRPC server for a table of methods, with the services that operators expect.

    `max_message_bytes` bounds a request message; a larger one, and metadata of more than
    32 KiB, is RESOURCE_EXHAUSTED before it is read. `is_ready` tells what health checks are answered.
    """

    def __init__(
        self,
        methods: MethodTable,
        chain: Chain,
        *,
        max_message_bytes: int,
        connections: Connections | None = None,
        is_ready: IsReady | None = None,
        channelz: bool = False,
        shares_port: bool = False,
    ) -> None:
        self._chain = chain
        self._shares_port = shares_port
        options = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_metadata_size", _METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
            ("grpc.default_compression_level", _COMPRESSION_LEVEL),
            ("grpc.so_reuseport", int(shares_port)),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_SECONDS * 1000),
            *(connections or Connections()).options(),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers([_Handlers(self._handler(m) for m in methods)])
        self._operations = Operations(self._server, methods, is_ready=is_ready or _always, channelz=channelz)

    async def start(self, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listen on a host (an address or a name) and return the port; 0 is a free one. Raises OSError.

        Without `credentials` the port speaks HTTP/2 in the clear.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        # gRPC core says nothing of what is wrong but to standard error.
        listen("gRPC", host, port, shared=self._shares_port).close()
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            msg = f"cannot listen for gRPC on {address}: is the port in use?"
            raise OSError(msg) from error
        await self._server.start()
        return port

    async def stop(self, grace: float) -> None:
        """Refuse new calls, let running ones finish for `grace` seconds, then end them."""
        await self._operations.close()
        await self._server.stop(grace)

    def _handler(self, method: Method) -> tuple[str, grpc.RpcMethodHandler[bytes, bytes]]:
        if method.server_streaming:
            return method.path, grpc.stream_stream_rpc_method_handler(partial(self._stream, method))
        return method.path, grpc.stream_unary_rpc_method_handler(partial(self._unary, method))

    async def _unary(self, method: Method, _requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Answer the first request message; to look for a second one would cost a quarter of the call."""
        call = _call(method, await _read(context), context)
        try:
            response = await self._chain.unary(call, _encode)
        except RpcError as error:
            await _abort(context, call, error)
        if call.leading_metadata:
            await context.send_initial_metadata(_wire(call.leading_metadata))
        context.set_trailing_metadata(_trailers(call))
        if len(response) < _GZIP_WORTHWHILE:
            context.disable_next_message_compression()
        return response

    async def _stream(self, method: Method, _requests: AsyncIterator[bytes], context: Context) -> None:
        body = await _read(context)
        if isinstance(await context.read(), bytes):
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "The call has more than one request message.")
        call = _call(method, body, context)
        try:
            async with aclosing(self._chain.stream(call, _encode_all)) as batches:
                async for messages in batches:
                    if call.leading_metadata:
                        await context.send_initial_metadata(_wire(call.leading_metadata))
                        call.leading_metadata.clear()
                    for message in messages:
                        if len(message) < _GZIP_WORTHWHILE:
                            context.disable_next_message_compression()
                        await context.write(message)
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


async def _always() -> bool:
    return True


async def _read(context: Context) -> bytes:
    """The request message as sent."""
    body = await context.read()
    if isinstance(body, bytes):
        return body
    return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "The request message is missing, or cut short.")


def _call(method: Method, body: bytes, context: Context) -> Call:
    return Call(
        method=method,
        metadata=_metadata(tuple(context.invocation_metadata() or ())),
        body=body,
        decode=partial(decode_binary, method.input, body),
        http_method="POST",
        target=method.path,
        peer=context.peer(),
        timeout=context.time_remaining(),
        door="grpc",
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


def _encode(message: Outgoing) -> bytes:
    return message.to_binary()


def _encode_all(messages: Iterable[Outgoing]) -> list[bytes]:
    return [message.to_binary() for message in messages]


def _metadata(pairs: Sequence[tuple[str, str | bytes]]) -> dict[str, str]:
    """Metadata as the chain reads it: values of `-bin` names in base64, as they are on the wire."""
    metadata: dict[str, Any] = dict(pairs)
    if len(metadata) < len(pairs) or bytes in map(type, metadata.values()):
        metadata = joined((name, v if isinstance(v, str) else b64encode(v).decode()) for name, v in pairs)
    # gRPC core keeps it to itself; there is one encoding alone here.
    metadata["content-type"] = "application/grpc"
    return metadata


def _wire(metadata: Iterable[tuple[str, str]]) -> tuple[tuple[str, str | bytes], ...]:
    """Metadata as grpcio wants it: values of `-bin` names in bytes."""
    return tuple(
        [(name, b64decode(value + "==") if name.endswith("-bin") else value) for name, value in metadata]
    )


def _trailers(call: Call) -> tuple[tuple[str, str | bytes], ...]:
    return _wire((*call.response_metadata, *call.trailing_metadata))
