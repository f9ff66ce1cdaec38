"""What a parsed JSON request must keep to before the runtime decodes it, compiled per message type.

Types with nothing to check compile to None and cost nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias, cast

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

from gateway.transcoding.fields import (
    FIELD_MASK,
    INT32_MAX,
    INT32_MIN,
    INTEGER,
    INTEGERS,
    WELL_KNOWN,
    Json,
    camel_mask,
    expected,
)

MAX_VALUE_DEPTH = 30
"""Levels of objects and arrays within a google.protobuf.Value, Struct or ListValue.

An object is three messages within one another there (a Value, a Struct, an entry of its map), and the
runtimes of protobuf read a hundred: each of them reads this, also some messages further down.
"""

VALUE_TOO_DEEP = f"is JSON nested deeper than {MAX_VALUE_DEPTH} levels"

_SHOWN = 64
_PLAIN = re.compile(r"[A-Za-z0-9_.@$-]{1,64}")

_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "google.protobuf.Value": (dict, list),
    "google.protobuf.Struct": (dict,),
    "google.protobuf.ListValue": (list,),
}
_OBJECT: tuple[type, ...] = (dict,)

ValueCheck: TypeAlias = Callable[[Json], Json]
"""Gives the value to decode in place of the one given; raises JsonError."""


class JsonError(ValueError):
    """JSON that is refused. `field` is the dotted path, empty for the whole text."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem

    def inside(self, parent: str) -> JsonError:
        """The same refusal, seen from the message or list that holds the field."""
        return JsonError(join_path(parent, self.field), self.problem)


def join_path(parent: str, child: str) -> str:
    """``a`` and ``b`` give ``a.b``; ``a`` and ``[0]`` give ``a[0]``."""
    if not parent or not child or child.startswith("["):
        return f"{parent}{child}"
    return f"{parent}.{child}"


def shown(key: str) -> str:
    """A key as an error may show it: quoted, short, and without control characters."""
    return json.dumps(key if len(key) <= _SHOWN else f"{key[:_SHOWN]}...", ensure_ascii=False)


def plain(name: str) -> str:
    """A name from the request as a part of a field path: as it is, or else quoted."""
    return name if _PLAIN.fullmatch(name) else shown(name)


class _Check(NamedTuple):
    """What is done with values of some JSON types; those of others are left to the decoder to refuse."""

    kinds: tuple[type, ...]
    run: ValueCheck


class _Choice(NamedTuple):
    """A member of a oneof."""

    field: str
    oneof: str
    null_is_set: bool


class MessageCheck:
    """Checks the JSON object of one message type."""

    def __init__(self) -> None:
        self._json_names: dict[str, str] = {}
        """Proto names by the names that they have in JSON, where the two differ."""
        self._choices: dict[str, _Choice] = {}
        self._members: dict[str, tuple[str, tuple[type, ...], ValueCheck]] = {}
        self.trivial = False

    def fill(self, desc: DescMessage, checks: dict[str, MessageCheck]) -> None:
        """Compile the members; apart from construction because types can be recursive."""
        for field in desc.fields:
            oneof = _oneof_of(field)
            check = _field_check(field, checks)
            for name in {field.name, field.json_name}:
                if oneof:
                    self._choices[name] = _Choice(field.name, oneof, _null_is_set(field))
                if check is not None:
                    self._members[name] = (field.name, check.kinds, check.run)
            if field.name != field.json_name:
                self._json_names[field.json_name] = field.name
        self.trivial = not (self._json_names or self._choices or self._members)

    def __call__(self, value: Json) -> Json:
        """Check one object; what is no object is left to the decoder to refuse."""
        if type(value) is not dict:
            return value
        given = value.keys()
        if not given.isdisjoint(self._json_names):
            self._check_names(value)
        if not given.isdisjoint(self._choices):
            self._check_choices(value)
        members = self._members
        for key, item in value.items():
            member = members.get(key)
            if member is not None:
                field, kinds, check = member
                if type(item) in kinds:
                    try:
                        value[key] = check(item)
                    except JsonError as error:
                        raise error.inside(field) from None
        return value

    def _check_names(self, value: dict[str, Json]) -> None:
        for json_name, name in self._json_names.items():
            if json_name in value and name in value:
                raise JsonError(name, "is given twice, under both of its names")

    def _check_choices(self, value: dict[str, Json]) -> None:
        chosen: set[str] = set()
        for key, item in value.items():
            choice = self._choices.get(key)
            if choice is not None and (item is not None or choice.null_is_set):
                if choice.oneof in chosen:
                    problem = f"another member of the oneof {choice.oneof!r} is given too"
                    raise JsonError(choice.field, problem)
                chosen.add(choice.oneof)


def message_check(desc: DescMessage, checks: dict[str, MessageCheck]) -> ValueCheck | None:
    """The check of a type, or None when there is nothing to check. `checks` caches by type name."""
    if desc.type_name in _JSON_TYPES:
        return _check_nesting
    if desc.type_name in WELL_KNOWN:
        return None
    check = checks.get(desc.type_name)
    if check is None:
        check = checks[desc.type_name] = MessageCheck()
        check.fill(desc, checks)
    return None if check.trivial else check


def _oneof_of(field: DescField) -> str:
    match field.value:
        case (
            DescFieldValueScalar(oneof=oneof)
            | DescFieldValueEnum(oneof=oneof)
            | DescFieldValueMessage(oneof=oneof)
        ):
            return oneof.name if oneof is not None else ""
        case _:
            return ""


def _null_is_set(field: DescField) -> bool:
    match field.value:
        case DescFieldValueMessage(message=message):
            return message.type_name == "google.protobuf.Value"
        case DescFieldValueEnum(enum=enum):
            return enum.type_name == "google.protobuf.NullValue"
        case _:
            return False


def _field_check(field: DescField, checks: dict[str, MessageCheck]) -> _Check | None:
    match field.value:
        case DescFieldValueScalar(scalar=kind):
            return _kind_check(kind, checks)
        case DescFieldValueEnum(enum=enum):
            return _kind_check(enum, checks)
        case DescFieldValueMessage(message=message):
            return _kind_check(message, checks)
        case DescFieldValueList(element=element):
            check = _kind_check(element, checks)
            return None if check is None else _Check((list,), _list_check(check))
        case DescFieldValueMap(value=element):
            check = _kind_check(element, checks)
            return None if check is None else _Check(_OBJECT, _dict_check(check))


def _kind_check(kind: ScalarType | DescEnum | DescMessage, checks: dict[str, MessageCheck]) -> _Check | None:
    if isinstance(kind, DescMessage):
        if kind.type_name == FIELD_MASK:
            return _Check((str,), _check_mask)
        check = message_check(kind, checks)
        return None if check is None else _Check(_JSON_TYPES.get(kind.type_name, _OBJECT), check)
    if isinstance(kind, DescEnum):
        return _Check((int,), _enum_check(kind))
    return _Check((str,), _integer_check(kind)) if kind in INTEGERS else None


def _integer_check(kind: ScalarType) -> ValueCheck:
    def check(value: Json) -> Json:
        if INTEGER.fullmatch(cast("str", value)) is None:
            raise JsonError("", f"expected {expected(kind)}")
        return value

    return check


def _enum_check(enum: DescEnum) -> ValueCheck:
    def check(value: Json) -> Json:
        # The runtime keeps any number of an open enum, which then fails to be written.
        if not INT32_MIN <= cast("int", value) <= INT32_MAX:
            raise JsonError("", f"expected {expected(enum)}")
        return value

    return check


def _check_mask(value: Json) -> Json:
    return camel_mask(cast("str", value))


def _check_nesting(value: Json) -> Json:
    layer: list[Json] = [[value]]
    for _ in range(MAX_VALUE_DEPTH + 1):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if type(outer) is dict else cast("list[Json]", outer))
            if type(inner) is dict or type(inner) is list
        ]
        if not layer:
            return value
    raise JsonError("", VALUE_TOO_DEEP)


def _list_check(check: _Check) -> ValueCheck:
    kinds, run = check

    def check_items(value: Json) -> Json:
        items = cast("list[Json]", value)
        for index, item in enumerate(items):
            if type(item) in kinds:
                try:
                    items[index] = run(item)
                except JsonError as error:
                    raise error.inside(f"[{index}]") from None
        return value

    return check_items


def _dict_check(check: _Check) -> ValueCheck:
    kinds, run = check

    def check_values(value: Json) -> Json:
        values = cast("dict[str, Json]", value)
        for key, item in values.items():
            if type(item) in kinds:
                try:
                    values[key] = run(item)
                except JsonError as error:
                    raise error.inside(f"[{shown(key)}]") from None
        return value

    return check_values
