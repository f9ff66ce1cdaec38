"""Calls over Connect and gRPC-Web, by connectrpc's client."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus
from typing import Any

from connectrpc.client import ConnectClient, ResponseMetadata
from connectrpc.code import Code as ConnectCode
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from protobuf import Message
from pyqwest import Client, HTTPTransport, Response, Transport
from pyqwest import Request as HTTPRequest

from gateway.client.answer import printer
from gateway.client.caller import CONNECT_SECONDS, MOST_BYTES, TOO_LARGE, Part, Request, shown
from gateway.client.failure import CallError
from gateway.client.unreachable import unreachable
from gateway.rpc.errors import Code
from gateway.rpc.methods import path_of
from gateway.rpc.status import DETAIL_TYPES

_STREAMS = ("application/connect+", "application/grpc-web")


class _Sent:
    """A codec that sends a message as the bytes that are signed, and reads binary protobuf."""

    def name(self) -> str:
        """Of the codec, as its part of the content type."""
        return "proto"

    def encode(self, message: bytes) -> bytes:
        """The bytes as they are."""
        return message

    def decode(self, data: bytes | bytearray, message_class: type[Message]) -> Message:
        """A message of the answer."""
        return message_class.from_binary(bytes(data))


class _Bounded:
    """A transport that ends an answer where it is larger than a message may be.

    connectrpc bounds a stream's messages as they come, but reads any other answer whole before it looks.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def execute(self, request: HTTPRequest) -> Response:
        """The answer as it comes. Its content raises ConnectError where it is too large."""
        answer = await self._transport.execute(request)
        kind = answer.headers.get("content-type", "")
        if answer.status == HTTPStatus.OK and kind.startswith(_STREAMS):
            return answer
        return Response(
            status=answer.status,
            http_version=answer.http_version,
            headers=answer.headers,
            content=_bounded(answer),
            trailers=answer.trailers,
        )


async def _bounded(answer: Response) -> AsyncIterator[bytes]:
    size = 0
    async with answer:
        async for chunk in answer.content:
            size += len(chunk)
            if size > MOST_BYTES:
                raise ConnectError(ConnectCode.RESOURCE_EXHAUSTED, TOO_LARGE)
            yield bytes(chunk)


async def call(request: Request, *, web: bool) -> AsyncGenerator[bytes, None]:
    """The answer's messages as JSON, as they come; of a google.api.HttpBody its bytes. Raises CallError.

    Over gRPC-Web where `web` says so.
    """
    protocol = ProtocolType.GRPC_WEB if web else ProtocolType.CONNECT
    show = printer(request.method)
    with ResponseMetadata() as about:
        told = False
        try:
            async for message in _messages(request, protocol):
                if not told:
                    request.trace("<", f"HTTP {about.http_status}", about.headers.items())
                    told = True
                yield show(message)
        except ConnectError as error:
            if not told and about.http_status is not None:
                request.trace("<", f"HTTP {about.http_status}", about.headers.items())
            if isinstance(error.__cause__, CancelledError):
                raise error.__cause__ from None
            if error.code.name == "UNAVAILABLE" and error.__cause__ is not None:  # told by no server
                raise await unreachable(request.endpoint) from None
            code = Code[error.code.name.replace("CANCELED", "CANCELLED")]
            raise CallError(code, error.message, map(_fact, error.details)) from None
        except OSError:
            raise await unreachable(request.endpoint) from None


def _fact(detail: ErrorDetail) -> Message | None:
    try:
        return detail.value(DETAIL_TYPES)
    except ValueError:
        return None  # of a server that is no gateway


async def _messages(request: Request, protocol: ProtocolType) -> AsyncGenerator[Message, None]:
    method, body = request.method, request.message.to_binary()
    info: MethodInfo[Any, Any] = MethodInfo(
        name=method.name,
        service_name=method.parent.type_name,
        input=bytes,
        output=method.output.type,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.UNARY if method.method_kind == "unary" else StreamType.SERVER_STREAM,
    )
    part = Part("POST", path_of(method), _content_type(protocol, info.stream_type), body)
    headers = request.caller.identify(part)
    sent = shown({"content-type": part.content_type, **headers})
    request.trace(">", f"POST {request.endpoint.url}{part.target}", sent)
    timeout_ms = None if request.timeout is None else int(request.timeout * 1000)
    ca, certificate, key = request.endpoint.pem()
    transport = HTTPTransport(
        tls_ca_cert=ca,
        tls_include_system_certs=ca is None,
        tls_cert=certificate,
        tls_key=key,
        connect_timeout=CONNECT_SECONDS,
        follow_redirects=False,
    )
    client = ConnectClient(
        request.endpoint.url,
        codec=_Sent(),
        protocol=protocol,
        send_compression=None,
        read_max_bytes=MOST_BYTES,
        http_client=Client(_Bounded(transport)),
    )
    async with transport, client:
        if info.stream_type is StreamType.UNARY:
            yield await client.execute_unary(
                request=body, method=info, headers=headers, timeout_ms=timeout_ms
            )
            return
        stream = client.execute_server_stream(
            request=body, method=info, headers=headers, timeout_ms=timeout_ms
        )
        async for message in stream:
            yield message


def _content_type(protocol: ProtocolType, stream_type: StreamType) -> str:
    if protocol is ProtocolType.GRPC_WEB:
        return "application/grpc-web+proto"
    return "application/proto" if stream_type is StreamType.UNARY else "application/connect+proto"
