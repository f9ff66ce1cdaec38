"""RpcError to google.rpc.Status, with the details of AIP-193."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from protobuf import Registry
from protobuf.wkt import Any, Duration

from gateway.rpc.errors import DOMAIN, RpcError
from gateway.transcoding.gen.google.rpc import error_details_pb
from gateway.transcoding.gen.google.rpc.error_details_pb import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from gateway.transcoding.gen.google.rpc.status_pb import Status

if TYPE_CHECKING:
    from protobuf import Message

log = structlog.get_logger("gateway")

DETAIL_TYPES = Registry(error_details_pb.desc())
"""The messages that Status.details may hold, for those who print them as JSON."""


def details_of(error: RpcError, request_id: str) -> list[Message]:
    """The details that go with an error: what is wrong, where, and when to come back."""
    details: list[Message] = []
    if error.reason:
        details.append(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    if error.fields:
        violations = [BadRequest.FieldViolation(field=f, description=d) for f, d in error.fields.items()]
        details.append(BadRequest(field_violations=violations))
    if error.retry_after is not None:
        details.append(RetryInfo(retry_delay=Duration.from_nanos(int(error.retry_after * 1e9))))
    details += error.details
    if request_id:
        details.append(RequestInfo(request_id=request_id))
    return [detail for detail in details if _can_be_sent(detail)]


def _can_be_sent(detail: Message) -> bool:
    """Whether it has a wire form: text that came from elsewhere may hold halves of surrogate pairs."""
    try:
        detail.to_binary()
    except ValueError:
        log.exception("a detail of an error cannot be sent", type=detail.desc().type_name)
        return False
    return True


def status_of(error: RpcError, request_id: str) -> Status:
    """The error as it goes over the wire."""
    details = [Any.pack(detail) for detail in details_of(error, request_id)]
    return Status(code=int(error.code), message=error.message, details=details)
