"""Names of the schemas in an OpenAPI document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from protobuf import (
    DescEnum,
    DescField,
    DescFieldValueEnum,
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescMessage,
    DescMethod,
)

from gateway.transcoding.fields import WELL_KNOWN


class Role(Enum):
    """What a message is in a call: its rules and required fields are those of requests.

    A PATCH names only what it changes, so nothing in its resource is required.
    """

    OUTPUT = ""
    INPUT = "Input"
    PATCH = "Patch"


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write messages as JSON.

    `proto_names` says which spelling names have, `defaults` that fields which
    are not set are printed; `prefix` keeps the schemas of two forms apart.
    """

    role: Role
    proto_names: bool
    defaults: bool
    prefix: str = ""

    def name_of(self, field: DescField) -> str:
        """The field's name in this form."""
        return field.name if self.proto_names else field.json_name


_SUFFIXES: Final = tuple(role.value for role in Role)


class Names:
    """Names each type by what is unique of its full name, and tells requests from responses."""

    def __init__(self, methods: Iterable[DescMethod], others: Iterable[DescMessage] = ()) -> None:
        methods = list(methods)
        outputs = _closure([*(method.output for method in methods), *others])
        types = outputs | _closure(method.input for method in methods)
        self._outputs = frozenset(outputs)
        short = {name: _short(found) for name, found in types.items()}
        # With its suffix, a short name must not be the name of another type either.
        counted = Counter(f"{name}{suffix}" for name in short.values() for suffix in _SUFFIXES)
        taken = set(short.values())
        self._names = {
            full: full if _ambiguous(name, counted, taken) else name for full, name in short.items()
        }

    def message(self, message: DescMessage, form: Form) -> str:
        """The name of a message's schema in this form."""
        suffix = form.role.value
        if form.role is Role.INPUT and message.type_name not in self._outputs:
            suffix = ""
        return f"{form.prefix}{self._names[message.type_name]}{suffix}"

    def enum(self, enum: DescEnum) -> str:
        """The name of an enum's schema."""
        return self._names[enum.type_name]


def _ambiguous(name: str, counted: Counter[str], taken: set[str]) -> bool:
    return counted[name] > 1 or any(f"{name}{suffix}" in taken for suffix in _SUFFIXES if suffix)


def _short(found: DescMessage | DescEnum) -> str:
    package = found.file.proto.package
    return found.type_name.removeprefix(f"{package}.")


def _closure(messages: Iterable[DescMessage]) -> dict[str, DescMessage | DescEnum]:
    """These types and all that are inside of them, well-known ones left out."""
    found: dict[str, DescMessage | DescEnum] = {}
    left: list[DescMessage | DescEnum] = list(messages)
    while left:
        current = left.pop()
        if current.type_name in found or current.type_name in WELL_KNOWN:
            continue
        found[current.type_name] = current
        if isinstance(current, DescMessage):
            left += [inner for field in current.fields for inner in _types(field)]
    return found


def _types(field: DescField) -> Iterator[DescMessage | DescEnum]:
    match field.value:
        case DescFieldValueMessage(message=message):
            yield message
        case DescFieldValueEnum(enum=enum):
            yield enum
        case DescFieldValueList(element=DescMessage() | DescEnum() as element):
            yield element
        case DescFieldValueMap(value=DescMessage() | DescEnum() as element):
            yield element
        case _:
            return
