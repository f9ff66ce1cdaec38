"""Message bytes to messages, for the doors that carry binary protobuf."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from protobuf import DescFieldValueList, DescFieldValueMap, DescFieldValueMessage, DescMessage

from gateway.rpc.errors import InvalidArgument

if TYPE_CHECKING:
    from protobuf import Message

    Outer = DescMessage | DescFieldValueMap

MAX_MESSAGES = 250_000
"""Messages within one message. Each costs many times its bytes to make, and nothing else runs meanwhile."""

_SMALLEST_MESSAGE = 2
_DEEPEST = 100
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _TooManyError(Exception):
    """More messages than are let in."""


def decode_binary(message_type: type[Message], body: bytes) -> Message:
    """Parse binary protobuf; unknown fields are kept, as protobuf has it.

    Raises InvalidArgument, without a word of the bytes.
    """
    try:
        if len(body) > MAX_MESSAGES * _SMALLEST_MESSAGE:
            _count(body, 0, len(body), message_type.desc(), 0)
        return message_type.from_binary(body)
    except UnicodeDecodeError:
        problem = "a string in it is not valid UTF-8"
    except _TooManyError:
        problem = f"it holds more than {MAX_MESSAGES} values"
    except (ValueError, OverflowError, RecursionError, IndexError):
        problem = "its bytes are not valid protobuf"
    name = message_type.desc().type_name
    raise InvalidArgument(f"The message is no {name}: {problem}.", reason="MALFORMED_MESSAGE")


def _count(data: bytes, at: int, end: int, outer: Outer, found: int, depth: int = 0) -> int:
    """How many messages there are within `data[at:end]`, added to `found`.

    Reads the wire format alone: tags, lengths, and the bytes of fields that are messages.
    Raises _TooManyError; ValueError and IndexError for what is no protobuf.
    """
    inner = _inner(outer)
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            length, at = _varint(data, at)
            if tag >> 3 in inner and depth < _DEEPEST:
                found += 1
                if found > MAX_MESSAGES:
                    raise _TooManyError
                found = _count(data, at, min(at + length, end), inner[tag >> 3], found, depth + 1)
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            msg = "a group"
            raise ValueError(msg)
    return found


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
