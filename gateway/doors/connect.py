"""The Connect and gRPC-Web door, on connectrpc.

Its codecs leave requests undecoded, so that the chain can look at a call before
anything of it is decoded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from connectrpc.code import Code as ConnectCode
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc._server_shared import EndpointServerStream, EndpointUnary
from connectrpc.server import ConnectASGIApplication, Endpoint

from gateway.rpc.call import Call
from gateway.rpc.decode import decode_binary
from gateway.rpc.errors import Code, InvalidArgument, RpcError
from gateway.rpc.status import DETAIL_TYPES, details_of
from gateway.transcoding import Options, json_encoder
from gateway.transcoding.json_check import JsonError
from gateway.transcoding.json_decoder import JsonDecoder

if TYPE_CHECKING:
    from connectrpc.request import RequestContext
    from protobuf import Message

    from gateway.rpc.chain import Chain
    from gateway.rpc.methods import Method, MethodTable

    Decode = Callable[[type[Message], bytes], Message]
    Encode = Callable[[Message], bytes]

_CODES: dict[Code, ConnectCode] = {
    code: ConnectCode[code.name.replace("CANCELLED", "CANCELED")] for code in Code if code is not Code.OK
}


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A request's message bytes, and how they are to be decoded."""

    body: bytes
    decode: Decode


class RawCodec:
    """A codec that keeps a request's bytes as they are, and encodes responses."""

    def __init__(self, name: str, decode: Decode, encode: Encode) -> None:
        self._name = name
        self._decode = decode
        self._encode = encode

    def name(self) -> str:
        """The codec's part of the content type."""
        return self._name

    def encode(self, message: Message) -> bytes:
        """The message in this codec's form."""
        return self._encode(message)

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> RawMessage:  # noqa: ARG002
        """The bytes as they came."""
        return RawMessage(bytes(data), self._decode)


class ConnectDoor(ConnectASGIApplication[None]):
    """An ASGI application that serves a table of methods at `/package.Service/Method`.

    `max_message_bytes` bounds a request message, compressed and uncompressed.
    """

    def __init__(
        self,
        methods: MethodTable,
        chain: Chain,
        *,
        max_message_bytes: int,
    ) -> None:
        self._chain = chain
        endpoints = {method.path: self._endpoint(method) for method in methods}
        super().__init__(
            service=None,
            endpoints=lambda _: endpoints,
            read_max_bytes=max_message_bytes,
            codecs=[
                RawCodec("proto", decode_binary, lambda message: message.to_binary()),
                _json_codec(methods),
            ],
        )

    @property
    def path(self) -> str:
        """Where the application is mounted: every path names its service."""
        return "/"

    def _endpoint(self, method: Method) -> EndpointUnary[Any, Any] | EndpointServerStream[Any, Any]:
        stream_type = StreamType.SERVER_STREAM if method.server_streaming else StreamType.UNARY
        info: MethodInfo[Any, Any] = MethodInfo(
            name=method.name,
            service_name=method.service,
            input=RawMessage,
            output=method.output,
            idempotency_level=_IDEMPOTENCY.get(method.descriptor.idempotency.name, IdempotencyLevel.UNKNOWN),
            stream_type=stream_type,
        )
        if method.server_streaming:
            return Endpoint.server_stream(info, partial(self._stream, method))
        return Endpoint.unary(info, partial(self._unary, method))

    async def _unary(self, method: Method, request: RawMessage, context: RequestContext[Any, Any]) -> Message:
        call = _call(method, request, context)
        try:
            return await self._chain.unary(call)
        except RpcError as error:
            raise _connect_error(error, call) from None
        finally:
            _respond(call, context)

    async def _stream(
        self,
        method: Method,
        request: RawMessage,
        context: RequestContext[Any, Any],
    ) -> AsyncIterator[Message]:
        call = _call(method, request, context)
        try:
            async with aclosing(self._chain.stream(call)) as messages:
                async for message in messages:
                    _respond(call, context)
                    yield message
        except RpcError as error:
            raise _connect_error(error, call) from None
        finally:
            _respond(call, context)


def _json_codec(methods: MethodTable) -> RawCodec:
    """ProtoJSON in lowerCamel, as strict as over REST; compiled for the types of the table."""
    options = Options(proto_names=False, emit_defaults=False, registry=DETAIL_TYPES)
    decoders = {method.input: JsonDecoder(method.input.desc()) for method in methods}
    encoders = {method.output: json_encoder(method.output.desc(), options) for method in methods}

    def decode(message_type: type[Message], body: bytes) -> Message:
        try:
            return decoders[message_type].decode(body)
        except JsonError as error:
            fields = {error.field: error.problem} if error.field else {}
            raise InvalidArgument(str(error), reason="MALFORMED_REQUEST", fields=fields) from None

    return RawCodec("json", decode, lambda message: encoders[type(message)](message))


_IDEMPOTENCY: Mapping[str, IdempotencyLevel] = {level.name: level for level in IdempotencyLevel}


def _call(method: Method, request: RawMessage, context: RequestContext[Any, Any]) -> Call:
    timeout_ms = context.timeout_ms
    return Call(
        method=method,
        metadata=context.request_headers,
        body=request.body,
        decode=partial(request.decode, method.input, request.body),
        http_method=context.http_method,
        target=method.path,
        peer=context.client_address,
        timeout=None if timeout_ms is None else timeout_ms / 1000,
    )


def _respond(call: Call, context: RequestContext[Any, Any]) -> None:
    """Hand over response headers; those set after a stream's first message come too late, as HTTP has it."""
    for name, value in call.response_metadata:
        context.response_headers[name] = value


def _connect_error(error: RpcError, call: Call) -> ConnectError:
    return ConnectError(_CODES[error.code], error.message, details_of(error, call.request_id))
