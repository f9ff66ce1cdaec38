"""The Connect and gRPC-Web door, on connectrpc.

Its codecs leave requests undecoded, so that the chain can look at a call before
anything of it is decoded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from connectrpc._server_shared import EndpointServerStream, EndpointUnary
from connectrpc.code import Code as ConnectCode
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.server import ConnectASGIApplication, Endpoint
from protobuf.wkt.google.protobuf.descriptor_pb import MethodOptions

from gateway.doors.asgi import Receive, Scope, Send
from gateway.doors.connect.encodings import RawCodec, RawMessage, binary, protojson
from gateway.doors.connect.grpc_web_text import GrpcWebText
from gateway.doors.connect.gzip import RequestGzip
from gateway.doors.connect.http import ConnectHttp, in_envelopes
from gateway.doors.connect.unary import ConnectUnary
from gateway.rpc.call import Call
from gateway.rpc.errors import Code, RpcError
from gateway.rpc.metadata import joined
from gateway.rpc.status import details_of

if TYPE_CHECKING:
    from connectrpc.request import RequestContext

    from gateway.rpc.chain import Chain
    from gateway.rpc.methods import Method, MethodTable
    from gateway.transcoding import Response, WholeRequest

_WEB = "application/grpc-web"
_CODES: dict[Code, ConnectCode] = {
    code: ConnectCode[code.name.replace("CANCELLED", "CANCELED")] for code in Code if code is not Code.OK
}


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
        encodings = [binary(), protojson(methods)]
        super().__init__(
            service=None,
            endpoints=lambda _: endpoints,
            read_max_bytes=max_message_bytes,
            codecs=[RawCodec(encoding) for encoding in encodings],
            compressions=[RequestGzip()],
        )
        self._front = ConnectUnary(
            GrpcWebText(ConnectHttp(super().__call__, methods)),
            methods,
            chain,
            encodings,
            _connect_error,
            max_message_bytes=max_message_bytes,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._front(scope, receive, send)

    def answer(self, request: WholeRequest) -> Awaitable[Response] | None:
        """The whole answer to a plain unary call."""
        return self._front.answer(request)

    @property
    def path(self) -> str:
        """Where the application is mounted: every path names its service."""
        return "/"

    def _endpoint(self, method: Method) -> EndpointUnary[Any, Any] | EndpointServerStream[Any, Any]:
        safe = method.descriptor.idempotency == MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS
        stream_type = StreamType.SERVER_STREAM if method.server_streaming else StreamType.UNARY
        info: MethodInfo[Any, Any] = MethodInfo(
            name=method.name,
            service_name=method.service,
            input=RawMessage,
            output=method.output,
            idempotency_level=IdempotencyLevel.NO_SIDE_EFFECTS if safe else IdempotencyLevel.UNKNOWN,
            stream_type=stream_type,
        )
        if method.server_streaming:
            return Endpoint.server_stream(info, partial(self._stream, method))
        return Endpoint.unary(info, partial(self._unary, method))

    async def _unary(self, method: Method, request: RawMessage, context: RequestContext[Any, Any]) -> bytes:
        call = _call(method, request, context)
        try:
            return await self._chain.unary(call, request.encoding.encode)
        except RpcError as error:
            raise _connect_error(error, call) from None
        finally:
            _respond(call, context)

    async def _stream(
        self,
        method: Method,
        request: RawMessage,
        context: RequestContext[Any, Any],
    ) -> AsyncIterator[bytes]:
        call = _call(method, request, context)
        encode = request.encoding.encode
        enveloped = self._chain.stream(call, lambda messages: in_envelopes(map(encode, messages)))
        try:
            async with aclosing(enveloped) as batches:
                first = True
                async for envelopes in batches:
                    if first:
                        _respond(call, context)
                        first = False
                    yield envelopes
        except RpcError as error:
            raise _connect_error(error, call) from None
        finally:
            _respond(call, context)


def _call(method: Method, request: RawMessage, context: RequestContext[Any, Any]) -> Call:
    timeout_ms = context.timeout_ms
    return Call(
        method=method,
        metadata=joined(context.request_headers.allitems()),
        body=request.body,
        decode=partial(request.encoding.decode, method.input, request.body),
        http_method=context.http_method,
        target=method.path,
        peer=context.client_address,
        timeout=None if timeout_ms is None else timeout_ms / 1000,
        door="grpc-web" if context.request_headers.get("content-type", "").startswith(_WEB) else "connect",
    )


def _respond(call: Call, context: RequestContext[Any, Any]) -> None:
    """Hand over headers and trailers; headers come too late after a stream's first message."""
    headers, trailers = context.response_headers, context.response_trailers
    headers.clear()
    for name, value in (*call.response_metadata, *call.leading_metadata):
        headers.add(name, value)
    trailers.clear()
    for name, value in call.trailing_metadata:
        trailers.add(name, value)


def _connect_error(error: RpcError, call: Call) -> ConnectError:
    if error.retry_after_seconds is not None:
        call.response_metadata.append(("retry-after", str(error.retry_after_seconds)))
    return ConnectError(_CODES[error.code], error.message, details_of(error, call.request_id))
