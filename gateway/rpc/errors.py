"""The one tree of errors that a caller can be shown, whichever door it came through.

::

    RpcError                      code, reason, message, details
    ├── InvalidArgument           INVALID_ARGUMENT     a field is wrong; names it
    ├── Unauthenticated           UNAUTHENTICATED      no identity, or one that does not hold
    ├── PermissionDenied          PERMISSION_DENIED    known, but not allowed
    ├── NotFound                  NOT_FOUND            does not exist, or not for this caller
    ├── AlreadyExists             ALREADY_EXISTS
    ├── FailedPrecondition        FAILED_PRECONDITION  right request, wrong state
    ├── Aborted                   ABORTED              lost against a concurrent or earlier request
    ├── OutOfRange                OUT_OF_RANGE
    ├── ResourceExhausted         RESOURCE_EXHAUSTED   a limit; says when to come back
    ├── Cancelled                 CANCELLED            the caller went away
    ├── DeadlineExceeded          DEADLINE_EXCEEDED
    ├── Unimplemented             UNIMPLEMENTED
    ├── Unavailable               UNAVAILABLE          a part is away; says when to come back
    ├── Unknown                   UNKNOWN              the workflow itself failed
    ├── DataLoss                  DATA_LOSS
    └── Internal                  INTERNAL             a fault of the gateway; no text of its own

Codes are those of google.rpc.Code; reasons are UPPER_SNAKE_CASE and stable
(google.rpc.ErrorInfo, AIP-193).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from math import ceil
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from protobuf import Message

DOMAIN = "n8n-gateway"


class Code(IntEnum):
    """google.rpc.Code."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """An outcome other than OK, with all that the caller may know of it.

    `reason` refines the code for machines (empty: no ErrorInfo is sent), `metadata`
    carries its facts (ErrorInfo.metadata: strings), `fields` names wrong fields as
    ``{"path.to.field": "what is wrong"}``, `retry_after` is in seconds, and `details`
    are messages that go along with those made from the rest.
    """

    code: ClassVar[Code]
    default_reason: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        details: Sequence[Message] = (),
    ) -> None:
        super().__init__(message)
        self.message = message.encode(errors="replace").decode()
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})
        self.fields = dict(fields or {})
        self.retry_after = retry_after
        self.details = tuple(details)

    @property
    def retry_after_seconds(self) -> int | None:
        """`retry_after` in whole seconds, as HTTP has it (RFC 9110, 10.2.3): never too early."""
        return None if self.retry_after is None else max(1, ceil(self.retry_after))


class InvalidArgument(RpcError):
    code = Code.INVALID_ARGUMENT
    default_reason = "INVALID_ARGUMENT"


class Unauthenticated(RpcError):
    code = Code.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"


class PermissionDenied(RpcError):
    code = Code.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class NotFound(RpcError):
    code = Code.NOT_FOUND
    default_reason = "NOT_FOUND"


class AlreadyExists(RpcError):
    code = Code.ALREADY_EXISTS
    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(RpcError):
    code = Code.FAILED_PRECONDITION
    default_reason = "FAILED_PRECONDITION"


class Aborted(RpcError):
    code = Code.ABORTED
    default_reason = "ABORTED"


class OutOfRange(RpcError):
    code = Code.OUT_OF_RANGE
    default_reason = "OUT_OF_RANGE"


class ResourceExhausted(RpcError):
    code = Code.RESOURCE_EXHAUSTED
    default_reason = "RESOURCE_EXHAUSTED"


class Cancelled(RpcError):
    code = Code.CANCELLED
    default_reason = "CANCELLED"


class DeadlineExceeded(RpcError):
    code = Code.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class Unimplemented(RpcError):
    code = Code.UNIMPLEMENTED
    default_reason = "UNIMPLEMENTED"


class Unavailable(RpcError):
    code = Code.UNAVAILABLE
    default_reason = "UNAVAILABLE"


class Unknown(RpcError):
    code = Code.UNKNOWN
    default_reason = "UNKNOWN"


class DataLoss(RpcError):
    code = Code.DATA_LOSS
    default_reason = "DATA_LOSS"


class Internal(RpcError):
    code = Code.INTERNAL
    default_reason = "INTERNAL"


BY_CODE: dict[Code, type[RpcError]] = {error.code: error for error in RpcError.__subclasses__()}
