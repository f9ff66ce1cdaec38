"""What can go wrong, split by when it does.

::

    TranscodingError(ValueError)   found at start, in what the developer wrote
    ├── TemplateError              a path template outside the grammar; gives the column
    ├── BindingError               a rule that does not fit its method
    └── RouteConflict              two rules for one method and path; names both
    StatusError                    found in a request: a gRPC status with its details
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from protobuf import Message

from gateway.transcoding.gen.google.rpc.code_pb import Code

__all__ = ["BindingError", "Code", "RouteConflict", "StatusError", "TemplateError", "TranscodingError"]


class TranscodingError(ValueError):
    """A template, rule or set of rules that cannot be served."""


class TemplateError(TranscodingError):
    """A path template outside the grammar of google/api/http.proto.

    `column` counts from 1 and points at the first character that does not fit.
    """

    def __init__(self, problem: str, template: str, column: int) -> None:
        super().__init__(f"{problem} at column {column} of template {template!r}")
        self.problem = problem
        self.template = template
        self.column = column


class BindingError(TranscodingError):
    """An HTTP rule that does not fit the method it is written for."""


class RouteConflict(TranscodingError):
    """Two rules that no request could tell apart."""

    def __init__(self, http_method: str, first: object, second: object) -> None:
        super().__init__(f"two rules match the same {http_method} requests: {first} and {second}")
        self.first = first
        self.second = second


class StatusError(Exception):
    """An outcome other than OK, as google.rpc.Status tells it.

    `code` is a google.rpc.Code, `message` is shown to the caller, `details` are
    messages such as google.rpc.BadRequest, `headers` are added to the HTTP
    response, and `http_status` overrules the table from codes to HTTP.
    """

    def __init__(
        self,
        code: int,
        message: str = "",
        details: Sequence[Message] = (),
        headers: Mapping[str, str] | None = None,
        *,
        http_status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = tuple(details)
        self.headers = dict(headers or {})
        self.http_status = http_status
