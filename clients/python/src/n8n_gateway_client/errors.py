"""What the gateway says about a call that failed: google.rpc.Status with its details (AIP-193)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"
_Detail = TypeVar("_Detail", bound=Message)


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that was refused, by its path, and why."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """A failed call: its status, and what the gateway tells machines about it.

    `reason` refines `code` and is stable, e.g. INSUFFICIENT_CREDITS; it is empty when the error does not
    come from the gateway, such as a connection refused. `retry_after` is in seconds, None when the gateway
    does not say. `request_id` finds the call in the gateway's log.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    field_violations: tuple[FieldViolation, ...] = ()
    retry_after: float | None = None
    request_id: str = ""

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        violations = "".join(f"\n  {each.field}: {each.description}" for each in self.field_violations)
        return f"{self.code.name}{reason}: {self.message}{violations}"


def error_info(error: grpc.RpcError) -> ErrorInfo:
    """Return what `error`, raised by a call of a synchronous or asyncio stub, says.

    Details that are missing or cannot be read leave their fields empty; code and message are always there.
    """
    # Every RpcError that a call raises is also a grpc.Call or an AioRpcError, which share these methods.
    call = cast("Any", error)
    status = _status(call.trailing_metadata() or ())
    info = _detail(status, error_details_pb2.ErrorInfo)
    bad_request = _detail(status, error_details_pb2.BadRequest)
    retry = _detail(status, error_details_pb2.RetryInfo)
    return ErrorInfo(
        code=call.code(),
        message=call.details() or "",
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        field_violations=tuple(
            FieldViolation(each.field, each.description) for each in bad_request.field_violations
        ),
        retry_after=retry.retry_delay.ToMicroseconds() / 1e6 if retry.HasField("retry_delay") else None,
        request_id=_detail(status, error_details_pb2.RequestInfo).request_id,
    )


def _status(metadata: Iterable[tuple[str, Any]]) -> status_pb2.Status:
    for name, value in metadata:
        if name == _DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail:
    """Return the detail of a kind, or an empty one."""
    found = kind()
    for packed in status.details:
        try:
            if packed.Unpack(found):
                break
        except DecodeError:
            found.Clear()
    return found
