"""The REST door: the transcoder in front of the chain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from protobuf import Registry

from gateway.doors.asgi import CACHE_CONTROL
from gateway.rpc.call import Call
from gateway.rpc.errors import BY_CODE, Code, RpcError
from gateway.rpc.status import DETAIL_TYPES, details_of
from gateway.transcoding import LazyRequest, Options, RequestMetadata, StatusError, Transcoder
from gateway.transcoding.gen.google.rpc.error_details_pb import BadRequest

if TYPE_CHECKING:
    from protobuf import DescMethod, Message

    from gateway.rpc.chain import Chain
    from gateway.rpc.methods import MethodTable
    from gateway.transcoding import Outgoing

Sent = TypeVar("Sent")

HTTP_STATUS_BY_REASON = {
    "INSUFFICIENT_CREDITS": 402,
    "WORKFLOW_FAILED": 502,
    "N8N_MALFORMED_RESPONSE": 502,
}
"""Where a reason says more to an HTTP client than its code's own status."""


class RestDoor:
    """Builds the ASGI application that serves a table of methods by their `google.api.http` rules."""

    def __init__(self, methods: MethodTable, chain: Chain, *, max_message_bytes: int) -> None:
        self._methods = methods
        self._chain = chain
        files = {service.file.name: service.file for service in methods.services}.values()
        options = Options(
            max_body=max_message_bytes,
            registry=Registry(DETAIL_TYPES, *files),
            cache_control=CACHE_CONTROL,
        )
        self.application = Transcoder(methods.services, self._handle, options, lazy=True)

    async def _handle(
        self,
        descriptor: DescMethod,
        request: LazyRequest,
        metadata: RequestMetadata,
    ) -> Message | AsyncIterator[list[Outgoing]]:
        method = self._methods.of(descriptor)
        call = Call(
            method=method,
            metadata=metadata.headers.by_name(),
            body=request.body,
            decode=partial(_decode, request),
            http_method=metadata.http_method,
            target=metadata.raw_target,
            peer=f"{metadata.client[0]}:{metadata.client[1]}" if metadata.client else None,
            timeout=metadata.timeout,
            door="rest",
            response_metadata=metadata.response_headers,
            leading_metadata=metadata.response_headers,
            trailing_metadata=metadata.trailers,
        )
        if method.server_streaming:
            return self._stream(call)
        try:
            return await self._chain.unary(call, _unencoded)
        except RpcError as error:
            raise _status_error(error, call) from None

    async def _stream(self, call: Call) -> AsyncIterator[list[Outgoing]]:
        try:
            async with aclosing(self._chain.stream(call, list)) as batches:
                async for messages in batches:
                    yield messages
        except RpcError as error:
            raise _status_error(error, call) from None


def _unencoded(message: Sent) -> Sent:
    """The transcoder encodes."""
    return message


def _decode(request: LazyRequest) -> Message:
    """Decode with the transcoder; its refusals become the gateway's own."""
    try:
        return request.decode()
    except StatusError as error:
        fields = {
            violation.field: violation.description
            for detail in error.details
            if isinstance(detail, BadRequest)
            for violation in detail.field_violations
            if violation.field
        }
        raise BY_CODE[Code(error.code)](error.message, reason="MALFORMED_REQUEST", fields=fields) from None


def _status_error(error: RpcError, call: Call) -> StatusError:
    headers = dict(call.response_metadata)
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    return StatusError(
        int(error.code),
        error.message,
        details_of(error, call.request_id),
        headers,
        http_status=HTTP_STATUS_BY_REASON.get(error.reason),
    )
