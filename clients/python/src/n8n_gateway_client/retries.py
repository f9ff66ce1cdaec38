"""Client interceptors that repeat unary calls which end as UNAVAILABLE, when that cannot do anything twice.

That holds for methods without side effects, for idempotent ones, and for requests with an idempotency key.
The gateway's own delay (google.rpc.RetryInfo) goes before exponential backoff.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2

from n8n_gateway_client.call_details import CallDetails
from n8n_gateway_client.errors import error_info
from n8n_gateway_client.v1 import (
    api_key_service_pb2,
    credit_service_pb2,
    execution_service_pb2,
    health_service_pb2,
    internal_service_pb2,
    organization_service_pb2,
    webhook_service_pb2,
    workflow_service_pb2,
)

_FILES = (
    api_key_service_pb2,
    credit_service_pb2,
    execution_service_pb2,
    health_service_pb2,
    internal_service_pb2,
    organization_service_pb2,
    webhook_service_pb2,
    workflow_service_pb2,
)
_SAFE_METHODS = frozenset(
    f"/{service.full_name}/{method.name}"
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.GetOptions().idempotency_level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN
)
_Request = TypeVar("_Request")
_Call = TypeVar("_Call")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when a call that is safe to repeat is repeated; delays are in seconds.

    `attempts` counts the first call too. The pause before the second one is `initial_delay`, of which half
    is left to chance; it doubles with each further one up to `max_delay`. A gateway that asks for a longer
    pause than that, or than the call's own timeout leaves, is not called again.
    """

    attempts: int = 4
    initial_delay: float = 0.1
    max_delay: float = 10.0

    def backoff(self, attempt: int) -> float:
        """Return the pause after attempt 1, 2, … has failed."""
        delay: float = min(self.initial_delay * 2 ** (attempt - 1), self.max_delay)
        return delay * random.uniform(0.5, 1)  # noqa: S311 (spreads callers)


class _Attempts:
    """The attempts of one call."""

    def __init__(self, policy: RetryPolicy, method: str | bytes, timeout: float | None) -> None:
        self._policy = policy
        self._method = method.decode() if isinstance(method, bytes) else method
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._made = 0

    def is_safe(self, request: object, metadata: Iterable[tuple[str, Any]] | None) -> bool:
        """Tell whether the call can be repeated; a key in the metadata counts where the method knows keys."""
        if self._method in _SAFE_METHODS:
            return True
        key = getattr(request, "idempotency_key", None)
        if key is None:
            return False
        return bool(key) or any(name == "idempotency-key" and value for name, value in metadata or ())

    def timeout(self) -> float | None:
        """Return the seconds that are left for the next attempt."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0)

    def pause_after(self, error: grpc.RpcError) -> float | None:
        """Return the seconds to wait before the next attempt, or None for no further one."""
        self._made += 1
        info = error_info(error)
        if info.code is not grpc.StatusCode.UNAVAILABLE or self._made >= self._policy.attempts:
            return None
        own = self._policy.backoff(self._made)
        delay = own if info.retry_after is None else info.retry_after
        left = self.timeout()
        return None if delay > self._policy.max_delay or (left is not None and delay >= left) else delay


class RetryInterceptor(grpc.UnaryUnaryClientInterceptor):
    """Repeats the unary calls of a grpc.Channel, but not those made with `future`, which must not wait."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, _Request], _Call],
        client_call_details: grpc.ClientCallDetails,
        request: _Request,
    ) -> _Call:
        """Make the call, and again while that is safe and may help."""
        attempts = _Attempts(self._policy, client_call_details.method, client_call_details.timeout)
        if not attempts.is_safe(request, client_call_details.metadata):
            return continuation(client_call_details, request)
        details = CallDetails.of(client_call_details)
        while True:
            call = continuation(dataclasses.replace(details, timeout=attempts.timeout()), request)
            # What `future` gives may have failed by now, but unlike what was waited for it can be iterated.
            if not isinstance(call, grpc.RpcError) or hasattr(call, "__next__"):
                return call
            pause = attempts.pause_after(call)
            if pause is None:
                return cast("_Call", call)
            time.sleep(pause)


class AsyncRetryInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """Repeats the unary calls of a grpc.aio.Channel."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, _Request], Awaitable[_Call]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> _Call:
        """Make the call, and again while that is safe and may help."""
        details = client_call_details
        attempts = _Attempts(self._policy, details.method, details.timeout)
        if not attempts.is_safe(request, details.metadata):
            return await continuation(details, request)
        while True:
            call = await continuation(_with_timeout(details, attempts.timeout()), request)
            try:
                await cast("Awaitable[object]", call)
            except grpc.aio.AioRpcError as error:
                pause = attempts.pause_after(error)
                if pause is None:
                    return call
                await asyncio.sleep(pause)
            else:
                return call


def _with_timeout(details: grpc.aio.ClientCallDetails, timeout: float | None) -> grpc.aio.ClientCallDetails:
    return grpc.aio.ClientCallDetails(
        method=details.method,
        timeout=timeout,
        metadata=details.metadata,
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )
