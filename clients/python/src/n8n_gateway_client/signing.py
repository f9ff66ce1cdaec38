"""Signatures (version 2) of requests by an API key's client secret, on gRPC channels and for HTTP clients.

A message is serialized once, and the bytes that are signed are those that are sent: protobuf's serialization
is not canonical, so that to serialize again could give others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from n8n_gateway_client.call_details import CallDetails, Pair

_ALGORITHM = "GW2-HMAC-SHA256"
_Request = TypeVar("_Request")
_Call = TypeVar("_Call")


@dataclass(frozen=True, slots=True, repr=False)
class RequestSigner:
    """Signs requests with an API key's client secret."""

    api_key: str
    client_secret: str

    def headers(
        self,
        *,
        http_method: str,
        target: str,
        content_type: str,
        message: bytes,
        tenant: str = "",
        timestamp: str | None = None,
        nonce: str | None = None,
    ) -> dict[str, str]:
        """Return the headers of a signed request, x-api-key and x-tenant-id among them.

        `target` is path and query as sent over REST, `/package.Service/Method` elsewhere; `content_type` and
        `tenant` are as sent, empty where there is none; `message` is the body, before it is compressed. Time
        and chance give `timestamp` and `nonce`.
        """
        timestamp = timestamp or str(int(time.time()))
        nonce = nonce or secrets.token_urlsafe(16)
        lines = (
            _ALGORITHM,
            timestamp,
            nonce,
            tenant,
            self.api_key.rpartition("_")[0],
            http_method,
            target,
            content_type,
            hashlib.sha256(message).hexdigest(),
        )
        signature = hmac.digest(self.client_secret.encode(), "\n".join(lines).encode(), "sha256").hex()
        headers = {
            "x-api-key": self.api_key,
            "x-timestamp": timestamp,
            "x-nonce": nonce,
            "x-signature": f"v2={signature}",
        }
        return headers | {"x-tenant-id": tenant} if tenant else headers

    def metadata(self, method: str, own: Iterable[Pair] | None, message: bytes) -> tuple[Pair, ...]:
        """Return a gRPC call's own metadata with the signature; what is signed already stays as it is."""
        metadata = tuple(own or ())
        given = {name.lower(): value for name, value in metadata}
        if "x-signature" in given:
            return metadata
        headers = self.headers(
            http_method="POST",
            target=method,
            content_type="application/grpc",
            message=message,
            tenant=str(given.get("x-tenant-id", "")),
        )
        return (*metadata, *((name, value) for name, value in headers.items() if name not in given))


class SigningInterceptor(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Signs every call of a grpc.Channel. It is the last interceptor, on a channel of `BytesChannel`."""

    def __init__(self, signer: RequestSigner) -> None:
        self._signer = signer

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, bytes], _Call],
        client_call_details: grpc.ClientCallDetails,
        request: _Request,
    ) -> _Call:
        """Make the call with the signature, and with the bytes that are signed."""
        return self._make(continuation, client_call_details, request)

    def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.ClientCallDetails, bytes], _Call],
        client_call_details: grpc.ClientCallDetails,
        request: _Request,
    ) -> _Call:
        """Make the call with the signature, and with the bytes that are signed."""
        return self._make(continuation, client_call_details, request)

    def _make(
        self,
        continuation: Callable[[grpc.ClientCallDetails, bytes], _Call],
        details: grpc.ClientCallDetails,
        request: object,
    ) -> _Call:
        message = cast("Message", request).SerializeToString()
        metadata = self._signer.metadata(details.method, details.metadata, message)
        return continuation(dataclasses.replace(CallDetails.of(details), metadata=metadata), message)


class AsyncUnarySigningInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """Signs every unary call of a grpc.aio.Channel, which is used through `AsyncBytesChannel`."""

    def __init__(self, signer: RequestSigner) -> None:
        self._signer = signer

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, bytes], Awaitable[_Call]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> _Call:
        """Make the call with the signature, and with the bytes that are signed."""
        return await continuation(*_signed(self._signer, client_call_details, request))


class AsyncStreamSigningInterceptor(grpc.aio.UnaryStreamClientInterceptor):
    """Signs every server stream of a grpc.aio.Channel: one class cannot be both there."""

    def __init__(self, signer: RequestSigner) -> None:
        self._signer = signer

    async def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, bytes], Awaitable[_Call]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> _Call:
        """Make the call with the signature, and with the bytes that are signed."""
        return await continuation(*_signed(self._signer, client_call_details, request))


def _signed(
    signer: RequestSigner, details: grpc.aio.ClientCallDetails, request: object
) -> tuple[grpc.aio.ClientCallDetails, bytes]:
    message = cast("Message", request).SerializeToString()
    method = details.method if isinstance(details.method, str) else details.method.decode()
    metadata = signer.metadata(method, cast("Iterable[Pair] | None", details.metadata), message)
    signed = grpc.aio.ClientCallDetails(
        method=details.method,
        timeout=details.timeout,
        metadata=grpc.aio.Metadata(*metadata),
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )
    return signed, message
