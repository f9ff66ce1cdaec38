"""Field paths of a message, resolved once, and the text forms of their values.

Path variables and query parameters are read into the JSON form of the field
(ProtoJSON), so that one decoder fills the message whatever the source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias

from protobuf import (
    DescEnum,
    DescField,
    DescFieldValueEnum,
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescFieldValueScalar,
    DescMessage,
    ScalarType,
)

from gateway.transcoding.errors import BindingError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Reader: TypeAlias = Callable[[str], Json]
"""Text -> ProtoJSON value; raises ValueError with what is expected, without quoting the text."""

INTEGER = re.compile(r"-?[0-9]{1,40}(?:\.0{1,40})?(?:[eE]\+?[0-9]{1,3})?")
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
_ENUM_NUMBER = re.compile(r"-?[0-9]{1,10}")
_FLOAT = re.compile(r"-?[0-9]{1,400}(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,4})?|NaN|-?Infinity")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}|[A-Za-z0-9_-]*={0,2}")
_SNAKE = re.compile(r"_([a-z])")

FLOATS = frozenset({ScalarType.DOUBLE, ScalarType.FLOAT})
INTEGERS = frozenset(ScalarType) - FLOATS - {ScalarType.BOOL, ScalarType.STRING, ScalarType.BYTES}
_WRAPPERS = {
    "google.protobuf.DoubleValue": ScalarType.DOUBLE,
    "google.protobuf.FloatValue": ScalarType.FLOAT,
    "google.protobuf.Int64Value": ScalarType.INT64,
    "google.protobuf.UInt64Value": ScalarType.UINT64,
    "google.protobuf.Int32Value": ScalarType.INT32,
    "google.protobuf.UInt32Value": ScalarType.UINT32,
    "google.protobuf.BoolValue": ScalarType.BOOL,
    "google.protobuf.StringValue": ScalarType.STRING,
    "google.protobuf.BytesValue": ScalarType.BYTES,
}
_SCALARS = {
    ScalarType.BOOL: "true or false",
    ScalarType.STRING: "a string",
    ScalarType.BYTES: "base64",
    ScalarType.DOUBLE: "a number",
    ScalarType.FLOAT: "a number",
}
FIELD_MASK = "google.protobuf.FieldMask"
STRUCT = "google.protobuf.Struct"
STRUCT_TYPES = frozenset({STRUCT, "google.protobuf.Value", "google.protobuf.ListValue"})
_EXPECTED = {
    "google.protobuf.Timestamp": "an RFC 3339 timestamp",
    "google.protobuf.Duration": "a duration in seconds such as 1.5s",
    FIELD_MASK: "a comma-separated field mask",
    STRUCT: "a JSON object",
    "google.protobuf.Value": "a JSON value",
    "google.protobuf.ListValue": "a JSON array",
    "google.protobuf.Any": "an object with an @type that is known here",
}
WELL_KNOWN = frozenset(_EXPECTED) | frozenset(_WRAPPERS)
"""Message types whose JSON is not the plain object of their fields."""

HTTP_BODY = "google.api.HttpBody"

_LONGEST_NAME = 64
"""Longer names are not compared with others, which takes time by their length."""
_FEW = 12


@dataclass(frozen=True, slots=True)
class Step:
    """One name on a field path, in both spellings."""

    name: str
    json_name: str


@dataclass(frozen=True, slots=True)
class ResolvedField:
    """A field reached from a message through singular message fields."""

    path: str
    steps: tuple[Step, ...]
    field: DescField


def resolve(message: DescMessage, path: str) -> ResolvedField:
    """Follow a dotted path of proto field names. Raises BindingError."""
    steps: list[Step] = []
    found: DescField | None = None
    for name in path.split("."):
        if found is not None:
            if not isinstance(found.value, DescFieldValueMessage):
                problem = f"{found} is not a singular message, so {path!r} leads nowhere"
                raise BindingError(problem)
            message = found.value.message
        found = field_named(message, name)
        if found is None:
            problem = f"{message} has no field {name!r}"
            raise BindingError(problem)
        steps.append(Step(found.name, found.json_name))
    assert found is not None  # noqa: S101 (a split string has at least one part)
    return ResolvedField(path, tuple(steps), found)


def field_named(message: DescMessage, name: str) -> DescField | None:
    """The field with this proto name, or None."""
    return next((field for field in message.fields if field.name == name), None)


def is_http_body(message: DescMessage) -> bool:
    """Whether the type is google.api.HttpBody, generated or dynamic."""
    return message.type_name == HTTP_BODY


def expected(kind: ScalarType | DescEnum | DescMessage) -> str:
    """What JSON a value of this kind is written as, for an error text."""
    if isinstance(kind, DescEnum):
        return " or ".join(value.name for value in kind.values)
    if isinstance(kind, DescMessage):
        wrapped = _WRAPPERS.get(kind.type_name)
        return _EXPECTED.get(kind.type_name, "a JSON object") if wrapped is None else expected(wrapped)
    return _SCALARS.get(kind) or f"an integer in the range of {kind.name.lower()}"


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """What is wrong with a name that is none of those `known`, with the nearest of them, or all of a few."""
    names = list(known)
    near = get_close_matches(name, names, n=1) if len(name) <= _LONGEST_NAME else []
    if near:
        return f"{what}; did you mean {near[0]}?"
    return f"{what}; known here: {', '.join(names)}" if 0 < len(names) <= _FEW else what


def text_reader(field: DescField) -> Reader | None:
    """How the field is read from text; None when it has no text form.

    A repeated field gives the reader of one element. Maps, and messages other
    than those written as one JSON scalar, have none.
    """
    match field.value:
        case DescFieldValueScalar(scalar=scalar):
            return _scalar_reader(scalar)
        case DescFieldValueEnum(enum=enum):
            return _enum_reader(enum)
        case DescFieldValueMessage(message=message):
            return _message_reader(message)
        case DescFieldValueList(element=ScalarType() as scalar):
            return _scalar_reader(scalar)
        case DescFieldValueList(element=DescEnum() as enum):
            return _enum_reader(enum)
        case _:
            return None


def is_repeated(field: DescField) -> bool:
    """Whether the field is a list or a map."""
    return isinstance(field.value, DescFieldValueList | DescFieldValueMap)


def camel_mask(text: str) -> str:
    """A field mask in its JSON spelling, given either spelling."""
    return _SNAKE.sub(lambda match: match.group(1).upper(), text) if "_" in text else text


def _scalar_reader(scalar: ScalarType) -> Reader:
    match scalar:
        case ScalarType.STRING:
            return _as_is
        case ScalarType.BOOL:
            return _read_bool
        case ScalarType.DOUBLE | ScalarType.FLOAT:
            return _pattern_reader(_FLOAT, expected(scalar))
        case ScalarType.BYTES:
            return _pattern_reader(_BASE64, expected(scalar))
        case _:
            return _pattern_reader(INTEGER, expected(scalar))


def _as_is(text: str) -> Json:
    return text


def _read_bool(text: str) -> Json:
    if text == "true":
        return True
    if text == "false":
        return False
    raise ValueError(expected(ScalarType.BOOL))


def _pattern_reader(pattern: re.Pattern[str], description: str) -> Reader:
    def read(text: str) -> Json:
        if pattern.fullmatch(text) is None:
            raise ValueError(description)
        return text

    return read


def _enum_reader(enum: DescEnum) -> Reader:
    names = {value.name for value in enum.values}
    names |= {value.json_name for value in enum.values if value.json_name}
    null = enum.type_name == "google.protobuf.NullValue"

    def read(text: str) -> Json:
        if text in names:
            return text
        if null and text == "null":
            return None
        if _ENUM_NUMBER.fullmatch(text) is None or not INT32_MIN <= int(text) <= INT32_MAX:
            raise ValueError(expected(enum))
        return int(text)

    return read


def _message_reader(message: DescMessage) -> Reader | None:
    if message.type_name in _WRAPPERS:
        return _scalar_reader(_WRAPPERS[message.type_name])
    if message.type_name == FIELD_MASK:
        return camel_mask
    if message.type_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        return _as_is
    return None
