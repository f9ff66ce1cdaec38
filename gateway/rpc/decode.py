"""Message bytes to messages, for the doors that carry binary protobuf."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from protobuf import DescFieldValueList, DescFieldValueMap, DescFieldValueMessage, DescMessage
from protobuf.wkt import ListValue, Struct, Value

from gateway.rpc.errors import InvalidArgument
from gateway.transcoding import MAX_VALUE_DEPTH, VALUE_TOO_DEEP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from protobuf import DescField, Message

    Outer = DescMessage | DescFieldValueMap

MAX_MESSAGES = 100_000
"""Messages within one message: JSON of as many values as other doors take is twice as many of them.

Each costs many times its bytes to make, and nothing else runs meanwhile.
"""

_JSON_TYPES = (Value, Struct, ListValue)
_NESTED = ("struct_value", "list_value")
_NESTING_TAGS = b"\x2a\xaa\x32\xb2"
"""What the tags of Value's fields of objects and arrays begin with, each level of nesting with one."""
_SMALLEST_MESSAGE = 2
_DEEPEST = 100
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _TooManyError(Exception):
    """More messages than are let in."""


def decode_binary(message_type: type[Message], body: bytes) -> Message:
    """Parse binary protobuf; unknown fields are kept, as protobuf has it.

    Raises InvalidArgument, without a word of the bytes; it names a field with JSON nested too deeply.
    """
    desc = message_type.desc()
    field = ""
    try:
        if len(body) > MAX_MESSAGES * _SMALLEST_MESSAGE:
            _count(body, 0, len(body), desc, 0)
        message = message_type.from_binary(body)
        if len(body) - len(body.translate(None, _NESTING_TAGS)) > MAX_VALUE_DEPTH:
            field = _deep_field(message)
        if not field:
            return message
    except UnicodeDecodeError:
        problem = "a string in it is not valid UTF-8"
    except _TooManyError:
        problem = f"it holds more than {MAX_MESSAGES} values"
    except RecursionError:
        problem = "it is nested too deeply"
        field = _deep_part(desc, body)
    except (ValueError, OverflowError, IndexError):
        problem = "its bytes are not valid protobuf"
    if field:
        raise InvalidArgument(
            f"{field}: {VALUE_TOO_DEEP}", reason="MALFORMED_MESSAGE", fields={field: VALUE_TOO_DEEP}
        )
    raise InvalidArgument(f"The message is no {desc.type_name}: {problem}.", reason="MALFORMED_MESSAGE")


def _deep_field(message: Message) -> str:
    """The field of a message that holds JSON nested too deeply; empty without one."""
    for field in message.desc().fields:
        if _json_type(field) is not None and field in message and _is_too_deep(message[field]):
            return field.name
    return ""


def _deep_part(desc: DescMessage, body: bytes) -> str:
    """The same of a message that cannot be read as a whole: by its parts."""
    fields = {field.number: field for field in desc.fields}
    with suppress(ValueError, IndexError):
        for number, start, stop in _parts(body, 0, len(body)):
            field = fields.get(number)
            json_type = None if field is None else _json_type(field)
            if field is None or json_type is None:
                continue
            try:
                too_deep = _is_too_deep(json_type.from_binary(body[start:stop]))
            except RecursionError:
                too_deep = True
            if too_deep:
                return field.name
    return ""


def _json_type(field: DescField) -> type[Message] | None:
    """The type of a field that holds JSON."""
    match field.value:
        case DescFieldValueMessage(message=message) if issubclass(message.type, _JSON_TYPES):
            return message.type
        case _:
            return None


def _is_too_deep(value: Message) -> bool:
    """Whether JSON in protobuf's form is nested too deeply; False for other messages."""
    layer: list[object] = [value.kind.value if isinstance(value, Value) and value.kind else value]
    for _ in range(MAX_VALUE_DEPTH):
        layer = [
            inner.kind.value
            for outer in layer
            for inner in _values(outer)
            if inner.kind is not None and inner.kind.field in _NESTED
        ]
    return bool(layer)


def _values(outer: object) -> Iterable[Value]:
    if isinstance(outer, Struct):
        return outer.fields.values()
    return outer.values if isinstance(outer, ListValue) else ()


def _count(data: bytes, at: int, end: int, outer: Outer, found: int, depth: int = 0) -> int:
    """How many messages there are within `data[at:end]`, added to `found`.

    Raises _TooManyError; ValueError and IndexError for what is no protobuf.
    """
    inner = _inner(outer)
    for number, start, stop in _parts(data, at, end):
        if number in inner and depth < _DEEPEST:
            found += 1
            if found > MAX_MESSAGES:
                raise _TooManyError
            found = _count(data, start, stop, inner[number], found, depth + 1)
    return found


def _parts(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields within `data[at:end]` that have a length: their numbers, and where their bytes are.

    Raises ValueError and IndexError for what is no protobuf.
    """
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            length, at = _varint(data, at)
            yield tag >> 3, at, min(at + length, end)
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            msg = "a group"
            raise ValueError(msg)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at
        shift += 7


@cache
def _inner(outer: Outer) -> dict[int, Outer]:
    """The fields that hold messages, by their numbers. Each entry of a map is one, whose value is field 2."""
    if isinstance(outer, DescFieldValueMap):
        return {2: outer.value} if isinstance(outer.value, DescMessage) else {}
    found: dict[int, Outer] = {}
    for field in outer.fields:
        match field.value:
            case (
                DescFieldValueMessage(message=message) | DescFieldValueList(element=DescMessage() as message)
            ):
                found[field.number] = message
            case DescFieldValueMap() as entries:
                found[field.number] = entries
    return found
