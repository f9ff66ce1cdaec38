"""Schemas of errors: google.rpc.Status over REST, and the errors of Connect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from protobuf import DescMessage

from gateway.transcoding.errors import Code
from gateway.transcoding.fields import Json
from gateway.transcoding.gen.google.rpc import error_details_pb
from gateway.transcoding.openapi.names import Form
from gateway.transcoding.openapi.schemas import Schemas
from gateway.transcoding.openapi.values import Schema
from gateway.transcoding.status import HTTP_STATUS

STANDARD_DETAILS: Final[Sequence[DescMessage]] = tuple(error_details_pb.desc().messages)
"""The error details of google/rpc/error_details.proto."""

CONNECT_ERROR: Final = "connectrpc.Error"
_TYPE_PREFIX: Final = "type.googleapis.com/"
_DETAIL_PREFIX: Final = "details."
_CONNECT_NAMES: Final = {Code.CANCELLED: "canceled"}


def status_response(status: str) -> Schema:
    """The response of every REST error; `status` names the schema of google.rpc.Status."""
    codes = sorted((code for code in Code if code != Code.OK), key=_by_status)
    lines = [f"- {HTTP_STATUS[code]}: {code.name}" for code in codes]
    text = "An error, told by google.rpc.Status. The HTTP status follows from the code:\n\n"
    return {
        "description": text + "\n".join(lines),
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{status}"}}},
    }


def connect_response() -> Schema:
    """The response of every unary error of the Connect protocol."""
    return {
        "description": "An error, as the Connect protocol has it.",
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{CONNECT_ERROR}"}}},
    }


def status_schema(details: Sequence[DescMessage], schemas: Schemas, form: Form) -> Schema:
    """google.rpc.Status, whose details are known by their @type. Other types are taken too.

    Details are printed without the fields that are not set, so their schemas are apart from others.
    """
    form = replace(form, defaults=False, prefix=_DETAIL_PREFIX)
    known: list[Json] = [f"{_TYPE_PREFIX}{detail.type_name}" for detail in details]
    typed: list[Json] = []
    for name, detail in zip(known, details, strict=True):
        marked: Json = {"properties": {"@type": {"const": name}}, "required": ["@type"]}
        typed.append({"allOf": [schemas.message(detail, form), marked]})
    other: Schema = {
        "type": "object",
        "properties": {"@type": {"type": "string", "not": {"enum": known}}},
        "required": ["@type"],
    }
    return {
        "description": "An error (google.rpc.Status).",
        "type": "object",
        "properties": {
            "code": {"type": "integer", "format": "int32", "description": "A google.rpc.Code."},
            "message": {"type": "string", "description": "What went wrong, for the developer who called."},
            "details": {
                "type": "array",
                "items": {"anyOf": [*typed, other]},
                "description": "More about it, each of the type that its `@type` names.",
            },
        },
        "required": ["code", "message", "details"],
    }


def connect_error_schema() -> Schema:
    """The JSON of an error of the Connect protocol."""
    names: list[Json] = [_CONNECT_NAMES.get(code, code.name.lower()) for code in Code if code != Code.OK]
    base64: Schema = {"type": "string", "contentEncoding": "base64"}
    detail: Schema = {
        "type": "object",
        "properties": {"type": {"type": "string"}, "value": base64, "debug": {}},
        "required": ["type", "value"],
    }
    return {
        "description": "An error of the Connect protocol.",
        "type": "object",
        "properties": {
            "code": {"type": "string", "enum": names},
            "message": {"type": "string"},
            "details": {"type": "array", "items": detail},
        },
        "required": ["code"],
    }


def _by_status(code: Code) -> tuple[int, int]:
    return HTTP_STATUS[code], int(code)
