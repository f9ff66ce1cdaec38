"""What a parsed JSON request must keep to before the runtime decodes it, compiled per message type.

Types with nothing to check compile to None and cost nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

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

_SHOWN = 64
_PLAIN = re.compile(r"[A-Za-z0-9_.@$-]{1,64}")

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


class _Member(NamedTuple):
    field: str
    two_names: bool
    oneof: str
    null_is_set: bool
    check: ValueCheck | None


class MessageCheck:
    """Checks the JSON object of one message type."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self.trivial = False

    def fill(self, desc: DescMessage, checks: dict[str, MessageCheck]) -> None:
        """Compile the members; apart from construction because types can be recursive."""
        for field in desc.fields:
            oneof = _oneof_of(field)
            check = _field_check(field, checks)
            two_names = field.name != field.json_name
            if oneof or check is not None or two_names:
                member = _Member(field.name, two_names, oneof, _null_is_set(field), check)
                self._members[field.json_name] = self._members[field.name] = member
        self.trivial = not self._members

    def __call__(self, value: Json) -> Json:
        """Check one object; what is no object is left to the decoder to refuse."""
        if type(value) is not dict:
            return value
        seen: set[str] = set()
        members = self._members
        for key, item in value.items():
            member = members.get(key)
            if member is not None:
                if member.two_names or member.oneof:
                    _note(member, item, seen)
                if member.check is not None:
                    try:
                        value[key] = member.check(item)
                    except JsonError as error:
                        raise error.inside(member.field) from None
        return value


def _note(member: _Member, item: Json, seen: set[str]) -> None:
    if member.two_names:
        if member.field in seen:
            raise JsonError(member.field, "is given twice, under both of its names")
        seen.add(member.field)
    if member.oneof and (item is not None or member.null_is_set):
        if member.oneof in seen:
            problem = f"another member of the oneof {member.oneof[1:]!r} is given too"
            raise JsonError(member.field, problem)
        seen.add(member.oneof)


def message_check(desc: DescMessage, checks: dict[str, MessageCheck]) -> MessageCheck | None:
    """The check of a type, or None when there is nothing to check. `checks` caches by type name."""
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
            # The colon keeps the names of oneofs and fields apart.
            return f":{oneof.name}" if oneof is not None else ""
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


def _field_check(field: DescField, checks: dict[str, MessageCheck]) -> ValueCheck | None:
    match field.value:
        case DescFieldValueScalar(scalar=kind):
            return _kind_check(kind, checks)
        case DescFieldValueEnum(enum=enum):
            return _kind_check(enum, checks)
        case DescFieldValueMessage(message=message):
            return _kind_check(message, checks)
        case DescFieldValueList(element=element):
            return _each(_kind_check(element, checks), list)
        case DescFieldValueMap(value=element):
            return _each(_kind_check(element, checks), dict)


def _kind_check(
    kind: ScalarType | DescEnum | DescMessage, checks: dict[str, MessageCheck]
) -> ValueCheck | None:
    if isinstance(kind, DescMessage):
        return _check_mask if kind.type_name == FIELD_MASK else message_check(kind, checks)
    if isinstance(kind, DescEnum):
        return _enum_check(kind)
    return _integer_check(kind) if kind in INTEGERS else None


def _integer_check(kind: ScalarType) -> ValueCheck:
    def check(value: Json) -> Json:
        if type(value) is str and INTEGER.fullmatch(value) is None:
            raise JsonError("", f"expected {expected(kind)}")
        return value

    return check


def _enum_check(enum: DescEnum) -> ValueCheck:
    def check(value: Json) -> Json:
        # The runtime keeps any number of an open enum, which then fails to be written.
        if type(value) is int and not INT32_MIN <= value <= INT32_MAX:
            raise JsonError("", f"expected {expected(enum)}")
        return value

    return check


def _check_mask(value: Json) -> Json:
    return camel_mask(value) if type(value) is str else value


def _each(check: ValueCheck | None, container: type) -> ValueCheck | None:
    if check is None:
        return None
    return _list_check(check) if container is list else _dict_check(check)


def _list_check(check: ValueCheck) -> ValueCheck:
    def check_items(value: Json) -> Json:
        if type(value) is list:
            for index, item in enumerate(value):
                try:
                    value[index] = check(item)
                except JsonError as error:
                    raise error.inside(f"[{index}]") from None
        return value

    return check_items


def _dict_check(check: ValueCheck) -> ValueCheck:
    def check_values(value: Json) -> Json:
        if type(value) is dict:
            for key, item in value.items():
                try:
                    value[key] = check(item)
                except JsonError as error:
                    raise error.inside(f"[{shown(key)}]") from None
        return value

    return check_values
