"""Client interceptors that present an identity on each call, as metadata of the call.

``authorization: Bearer …`` for a session token, ``x-api-key`` for an API key, ``x-tenant-id`` for the
organization. What a caller puts into a call's own metadata under one of these names goes first.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import grpc
import grpc.aio

from n8n_gateway_client.call_details import CallDetails, Pair

TokenProvider: TypeAlias = Callable[[], str]
AsyncTokenProvider: TypeAlias = Callable[[], str | Awaitable[str]]
_Request = TypeVar("_Request")
_Call = TypeVar("_Call")


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """What every call says of its caller; the token is asked for anew for each call."""

    token: AsyncTokenProvider | None = None
    api_key: str | None = None
    tenant: str | None = None

    def pairs(self, own: Iterable[Pair] | None) -> tuple[list[Pair], bool]:
        """Return a call's own metadata with the fixed part, and whether a token is still to be added."""
        metadata = list(own or ())
        given = {name.lower() for name, _ in metadata}
        fixed = (("x-api-key", self.api_key), ("x-tenant-id", self.tenant))
        metadata.extend((name, value) for name, value in fixed if value is not None and name not in given)
        return metadata, self.token is not None and "authorization" not in given


class IdentityInterceptor(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Presents an identity on every call of a grpc.Channel; what its token raises, the call raises."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, _Request], _Call],
        client_call_details: grpc.ClientCallDetails,
        request: _Request,
    ) -> _Call:
        """Make the call with the identity's metadata added."""
        return continuation(self._identified(client_call_details), request)

    def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.ClientCallDetails, _Request], _Call],
        client_call_details: grpc.ClientCallDetails,
        request: _Request,
    ) -> _Call:
        """Make the call with the identity's metadata added."""
        return continuation(self._identified(client_call_details), request)

    def _identified(self, details: grpc.ClientCallDetails) -> grpc.ClientCallDetails:
        metadata, token_is_due = self._identity.pairs(details.metadata)
        if token_is_due and self._identity.token is not None:
            metadata.append(("authorization", f"Bearer {self._identity.token()}"))
        return dataclasses.replace(CallDetails.of(details), metadata=tuple(metadata))


async def _identified(identity: Identity, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
    metadata, token_is_due = identity.pairs(details.metadata)
    if token_is_due and identity.token is not None:
        token = identity.token()
        metadata.append(("authorization", f"Bearer {await token if inspect.isawaitable(token) else token}"))
    return grpc.aio.ClientCallDetails(
        method=details.method,
        timeout=details.timeout,
        metadata=grpc.aio.Metadata(*metadata),
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )


class AsyncUnaryInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """Presents an identity on every unary call of a grpc.aio.Channel."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, _Request], Awaitable[_Call]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> _Call:
        """Make the call with the identity's metadata added."""
        return await continuation(await _identified(self._identity, client_call_details), request)


class AsyncStreamInterceptor(grpc.aio.UnaryStreamClientInterceptor):
    """Presents an identity on every server stream of a grpc.aio.Channel: one class cannot be both there."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    async def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, _Request], Awaitable[_Call]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> _Call:
        """Make the call with the identity's metadata added."""
        return await continuation(await _identified(self._identity, client_call_details), request)
