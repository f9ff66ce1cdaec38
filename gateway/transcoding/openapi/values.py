"""JSON Schema of the values that are not plain messages: scalars and well-known types (ProtoJSON)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protobuf import ScalarType

from gateway.transcoding.fields import Json

Schema = dict[str, Json]

_INT32: Final[Schema] = {"type": "integer", "format": "int32"}
_UINT32: Final[Schema] = {"type": "integer", "format": "uint32", "minimum": 0, "maximum": 4294967295}
_INT64: Final[Schema] = {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}
_UINT64: Final[Schema] = {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"}
_NOT_FINITE: Final[Schema] = {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}

_SCALARS: Final[Mapping[ScalarType, Schema]] = {
    ScalarType.BOOL: {"type": "boolean"},
    ScalarType.STRING: {"type": "string"},
    ScalarType.BYTES: {"type": "string", "contentEncoding": "base64"},
    ScalarType.DOUBLE: {"anyOf": [{"type": "number", "format": "double"}, _NOT_FINITE]},
    ScalarType.FLOAT: {"anyOf": [{"type": "number", "format": "float"}, _NOT_FINITE]},
    ScalarType.INT32: _INT32,
    ScalarType.SINT32: _INT32,
    ScalarType.SFIXED32: _INT32,
    ScalarType.UINT32: _UINT32,
    ScalarType.FIXED32: _UINT32,
    ScalarType.INT64: _INT64,
    ScalarType.SINT64: _INT64,
    ScalarType.SFIXED64: _INT64,
    ScalarType.UINT64: _UINT64,
    ScalarType.FIXED64: _UINT64,
}

WELL_KNOWN_SCHEMAS: Final[Mapping[str, Schema]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$",
        "examples": ["1.5s"],
    },
    "google.protobuf.FieldMask": {
        "type": "string",
        "pattern": r"^([A-Za-z0-9_.]+(,[A-Za-z0-9_.]+)*)?$",
    },
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
    },
    "google.protobuf.DoubleValue": _SCALARS[ScalarType.DOUBLE],
    "google.protobuf.FloatValue": _SCALARS[ScalarType.FLOAT],
    "google.protobuf.Int64Value": _INT64,
    "google.protobuf.UInt64Value": _UINT64,
    "google.protobuf.Int32Value": _INT32,
    "google.protobuf.UInt32Value": _UINT32,
    "google.protobuf.BoolValue": _SCALARS[ScalarType.BOOL],
    "google.protobuf.StringValue": _SCALARS[ScalarType.STRING],
    "google.protobuf.BytesValue": _SCALARS[ScalarType.BYTES],
}

_KEY_NAMES: Final[Mapping[ScalarType, Schema]] = {
    ScalarType.BOOL: {"enum": ["true", "false"]},
    ScalarType.STRING: {},
}
_UNSIGNED: Final = frozenset(
    {
        ScalarType.UINT32,
        ScalarType.UINT64,
        ScalarType.FIXED32,
        ScalarType.FIXED64,
    }
)


def scalar_schema(scalar: ScalarType) -> Schema:
    """The JSON form of a scalar value; numbers of 64 bits are strings."""
    return dict(_SCALARS[scalar])


def key_schema(key: ScalarType) -> Schema:
    """The JSON form of a map's key as the name of a member; empty when any name will do."""
    integer: Schema = {"pattern": "^[0-9]+$" if key in _UNSIGNED else "^-?[0-9]+$"}
    return dict(_KEY_NAMES.get(key, integer))
