"""Calls over gRPC, by grpcio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from urllib.parse import urlsplit

import grpc
import grpc.aio
from protobuf import DescMethod, Message

from gateway.client.answer import printer
from gateway.client.caller import MOST_BYTES, Endpoint, Part, Request, shown
from gateway.client.failure import CallError
from gateway.client.unreachable import unreachable
from gateway.rpc.errors import Code
from gateway.rpc.methods import path_of
from gateway.transcoding.gen.google.rpc.status_pb import Status

_CONTENT_TYPE = "application/grpc"
_DETAILS = "grpc-status-details-bin"
_OPTIONS = [("grpc.max_receive_message_length", MOST_BYTES)]
# How grpcio begins to say that there is no connection, or none any more.
_UNANSWERED = ("failed to connect to all addresses", "errors resolving ", "Stream removed (", "Socket closed")


async def call(request: Request) -> AsyncGenerator[bytes, None]:
    """The answer's messages as JSON, as they come; of a google.api.HttpBody its bytes. Raises CallError."""
    method, body = request.method, request.message.to_binary()
    path = path_of(method)
    headers = request.caller.identify(Part("POST", path, _CONTENT_TYPE, body))
    request.trace(
        ">", f"POST {request.endpoint.url}{path}", shown({"content-type": _CONTENT_TYPE, **headers})
    )
    show = printer(method)
    try:
        async with _channel(request.endpoint) as channel:
            if method.method_kind == "unary":
                unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
                answer = unary(body, metadata=[*headers.items()], timeout=request.timeout)
                message = await answer
                request.trace("<", "gRPC OK", _text(await answer.trailing_metadata()))
                yield show(_read(method, message))
                return
            streaming: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(path)
            stream = streaming(body, metadata=[*headers.items()], timeout=request.timeout)
            request.trace("<", "gRPC", _text(await stream.initial_metadata()))
            async for message in stream:
                yield show(_read(method, message))
    except grpc.aio.AioRpcError as error:
        request.trace("<", f"gRPC {error.code().name}", _text(error.trailing_metadata()))
        raise _told(error) or await unreachable(request.endpoint) from None
    except OSError:
        raise await unreachable(request.endpoint) from None


def _read(method: DescMethod, message: bytes) -> Message:
    try:
        return method.output.type.from_binary(message)
    except ValueError:
        raise CallError(Code.UNKNOWN, "The answer is no message of a gateway's.") from None


def _channel(endpoint: Endpoint) -> grpc.aio.Channel:
    parts = urlsplit(endpoint.url)
    target = parts.netloc if parts.port else f"{parts.netloc}:{443 if endpoint.is_encrypted else 80}"
    if not endpoint.is_encrypted:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    ca, certificate, key = endpoint.pem()
    return grpc.aio.secure_channel(
        target, grpc.ssl_channel_credentials(ca, key, certificate), options=_OPTIONS
    )


def _text(metadata: Iterable[tuple[str, str | bytes]] | None) -> list[tuple[str, str]]:
    """What of metadata is text: binary details are told by the error."""
    return [(name, value) for name, value in metadata or () if isinstance(value, str)]


def _told(error: grpc.aio.AioRpcError) -> CallError | None:
    """What the server told, or a balancer before it; None where neither was reached, or told nothing."""
    details = dict(error.trailing_metadata()).get(_DETAILS)
    if isinstance(details, bytes):
        with suppress(ValueError):  # of a server that is no gateway
            return CallError.of(Status.from_binary(details))
    text = error.details() or ""
    if error.code() is grpc.StatusCode.UNAVAILABLE and (not text or text.startswith(_UNANSWERED)):
        return None
    return CallError(Code(error.code().value[0]), text)
