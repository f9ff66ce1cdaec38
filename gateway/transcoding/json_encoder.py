"""ProtoJSON encoding, compiled per message type.

The runtime prints every number inside google.protobuf.Struct, Value and
ListValue as a float (``1.0``), while JSON clients expect what they sent
(``1``). Whole numbers inside those types are printed without a fraction here;
double and float fields are left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, cast

import orjson
from protobuf import (
    DescField,
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescMessage,
    Message,
    Registry,
    message_to_json_value,
)

from gateway.transcoding.fields import STRUCT_TYPES, Json
from gateway.transcoding.outgoing import Outgoing

JsonEncoder: TypeAlias = Callable[[Outgoing], bytes]
_Walk: TypeAlias = Callable[[Json], Json]

_WHOLE_FLOAT = re.compile(r"\.0[,\]}]|\.0$")
_EXACT = 2.0**53
"""Up to here each whole double has exactly one integer."""


class EncoderOptions(Protocol):
    """The part of the options that printing depends on."""

    @property
    def emit_defaults(self) -> bool:
        """Whether fields that are not set are printed."""

    @property
    def proto_names(self) -> bool:
        """Whether names are those of the proto file."""

    @property
    def enums_as_numbers(self) -> bool:
        """Whether enums are printed as numbers."""

    @property
    def registry(self) -> Registry | None:
        """The types that google.protobuf.Any may hold."""


def json_encoder(descriptor: DescMessage, options: EncoderOptions) -> JsonEncoder:
    """A function that prints messages of one type as compact UTF-8 JSON.

    The function raises ValueError for a message that JSON cannot carry: an Any
    whose type the registry does not know, a Value without a kind or with NaN.
    """
    emit, names = options.emit_defaults, options.proto_names
    numbers, registry = options.enums_as_numbers, options.registry

    def encode(message: Outgoing) -> bytes:
        return message.to_json(
            always_emit_implicit=emit,
            use_proto_field_name=names,
            print_enums_as_ints=numbers,
            registry=registry,
        ).encode()

    walk = _Walks(proto_names=names).of(descriptor)
    if walk is None:
        return encode

    def encode_with_numbers(message: Outgoing) -> bytes:
        text = message.to_json(
            always_emit_implicit=emit,
            use_proto_field_name=names,
            print_enums_as_ints=numbers,
            registry=registry,
        )
        if not isinstance(message, Message) or _WHOLE_FLOAT.search(text) is None:
            return text.encode()
        return orjson.dumps(walk(cast("Json", orjson.loads(text))))

    return encode_with_numbers


def json_value_encoder(field: DescField, options: EncoderOptions) -> JsonEncoder:
    """A function that prints one field of a message; null for a message field that is not set."""
    owner = field.parent
    key = field.name if options.proto_names else field.json_name
    walk = _Walks(proto_names=options.proto_names).of_field(field)

    def members(message: Message, *, emit: bool) -> dict[str, Json]:
        tree = message_to_json_value(
            message,
            always_emit_implicit=emit,
            use_proto_field_name=options.proto_names,
            print_enums_as_ints=options.enums_as_numbers,
            registry=options.registry,
        )
        return cast("dict[str, Json]", tree)

    def encode(message: Any) -> bytes:
        if isinstance(field.value, DescFieldValueMessage) and field not in message:
            return b"null"
        alone = owner.type()
        alone[field] = message[field]
        printed = members(alone, emit=options.emit_defaults)
        if key not in printed:
            printed = members(alone, emit=True)
        value = printed[key]
        return orjson.dumps(value if walk is None else walk(value))

    return encode


class _Walks:
    """Compiles what walks the JSON of a message type to the numbers inside its Structs."""

    def __init__(self, *, proto_names: bool) -> None:
        self._proto_names = proto_names
        self._known: dict[str, _MessageWalk] = {}

    def of(self, desc: DescMessage) -> _Walk | None:
        """The walk of a type; None when it has no Struct inside."""
        if desc.type_name in STRUCT_TYPES:
            return _whole_numbers
        walk = self._known.get(desc.type_name)
        if walk is None:
            walk = self._known[desc.type_name] = _MessageWalk()
            for field in desc.fields:
                member = self.of_field(field)
                if member is not None:
                    walk.members[field.name if self._proto_names else field.json_name] = member
            walk.trivial = not walk.reaches_struct(set())
        return None if walk.trivial else walk

    def of_field(self, field: DescField) -> _Walk | None:
        """The walk of one field's value."""
        match field.value:
            case DescFieldValueMessage(message=message):
                return self.of(message)
            case DescFieldValueList(element=DescMessage() as message):
                item = self.of(message)
                return None if item is None else _ListWalk(item)
            case DescFieldValueMap(value=DescMessage() as message):
                item = self.of(message)
                return None if item is None else _DictWalk(item)
            case _:
                return None


class _MessageWalk:
    def __init__(self) -> None:
        self.members: dict[str, _Walk] = {}
        self.trivial = False

    def reaches_struct(self, seen: set[int]) -> bool:
        """Whether a Struct can be inside; a type that only holds itself has none."""
        if id(self) in seen:
            return False
        seen.add(id(self))
        return any(_reaches_struct(walk, seen) for walk in self.members.values())

    def __call__(self, value: Json) -> Json:
        members = cast("dict[str, Json]", value)
        for key, walk in self.members.items():
            if key in members:
                members[key] = walk(members[key])
        return value


class _ListWalk:
    def __init__(self, item: _Walk) -> None:
        self.item = item

    def __call__(self, value: Json) -> Json:
        return [self.item(element) for element in cast("list[Json]", value)]


class _DictWalk:
    def __init__(self, item: _Walk) -> None:
        self.item = item

    def __call__(self, value: Json) -> Json:
        return {key: self.item(element) for key, element in cast("dict[str, Json]", value).items()}


def _reaches_struct(walk: _Walk, seen: set[int]) -> bool:
    if isinstance(walk, _ListWalk | _DictWalk):
        return _reaches_struct(walk.item, seen)
    return walk.reaches_struct(seen) if isinstance(walk, _MessageWalk) else True


def _whole_numbers(value: Json) -> Json:
    kind = type(value)
    if kind is float:
        number = cast("float", value)
        return int(number) if number.is_integer() and -_EXACT <= number <= _EXACT else number
    if kind is dict:
        members = cast("dict[str, Json]", value)
        return {key: _whole_numbers(item) for key, item in members.items()}
    if kind is list:
        return [_whole_numbers(item) for item in cast("list[Json]", value)]
    return value
