"""google.rpc.Status as an HTTP response: the table of codes, and the JSON of an error."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

import orjson
from protobuf import Message, message_to_json_value

from gateway.transcoding.errors import Code, StatusError
from gateway.transcoding.fields import WELL_KNOWN, Json
from gateway.transcoding.json_encoder import EncoderOptions

HTTP_STATUS: Final[dict[int, int]] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
"""google.rpc.Code -> HTTP status; a code outside of it is 500."""

_TYPE_PREFIX = "type.googleapis.com/"
_ANY = "google.protobuf.Any"
_RETRY_INFO = "google.rpc.RetryInfo"


def status_json(error: StatusError, options: EncoderOptions) -> bytes:
    """The error as the JSON of google.rpc.Status, each detail with its @type."""
    return orjson.dumps(status_value(error, options))


def status_value(error: StatusError, options: EncoderOptions) -> dict[str, Json]:
    """The error as a JSON object: code, message, details."""
    details: list[Json] = [_detail(detail, options) for detail in error.details]
    return {"code": int(error.code), "message": error.message, "details": details}


def retry_after(details: Sequence[Message]) -> str | None:
    """The Retry-After header (whole seconds, rounded up) that a google.rpc.RetryInfo asks for."""
    for detail in details:
        if detail.desc().type_name == _RETRY_INFO:
            delay = getattr(detail, "retry_delay", None)
            if delay is not None:
                return str(max(0, math.ceil(delay.seconds + delay.nanos / 1e9)))
    return None


def _opaque(detail: Message) -> Json:
    """A detail that JSON cannot show, or whose type is not known here: its bytes in base64."""
    if detail.desc().type_name == _ANY:
        type_url, value = attrgetter("type_url", "value")(detail)
    else:
        type_url, value = _TYPE_PREFIX + detail.desc().type_name, detail.to_binary()
    return {"@type": type_url, "value": b64encode(value).decode()}


def _detail(detail: Message, options: EncoderOptions) -> Json:
    type_name = detail.desc().type_name
    try:
        value: Json = message_to_json_value(
            detail,
            use_proto_field_name=options.proto_names,
            print_enums_as_ints=options.enums_as_numbers,
            registry=options.registry,
        )
    except ValueError:
        return _opaque(detail)
    if type_name == _ANY:
        return value
    if type_name in WELL_KNOWN or not isinstance(value, dict):
        return {"@type": _TYPE_PREFIX + type_name, "value": value}
    return {"@type": _TYPE_PREFIX + type_name, **value}
