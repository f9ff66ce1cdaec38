"""The comments of proto files, found again by the element that they stand at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from protobuf.wkt.google.protobuf.descriptor_pb import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

_Named: TypeAlias = Iterator[tuple[tuple[int, ...], str]]

# Field numbers of descriptor.proto, of which the paths of SourceCodeInfo are made.
_FILE_MESSAGES, _FILE_ENUMS, _FILE_SERVICES = 4, 5, 6
_MESSAGE_FIELDS, _MESSAGE_MESSAGES, _MESSAGE_ENUMS, _MESSAGE_ONEOFS = 2, 3, 4, 8
_ENUM_VALUES = _SERVICE_METHODS = 2

_SUMMARY_END = re.compile(r"[.;:!?](?:\s|$)")


class Comments:
    """The comment of each element of a set of files, by full name; empty for one without.

    Names are ``package.Message.field``, ``package.Service.Method`` and, for the
    values of an enum, ``package.Enum.VALUE``.
    """

    def __init__(self, texts: Mapping[str, str] | None = None) -> None:
        self._texts = dict(texts or {})

    @classmethod
    def from_descriptor_set(cls, serialized: bytes) -> Comments:
        """The comments of a serialized FileDescriptorSet (``protoc --include_source_info``)."""
        texts: dict[str, str] = {}
        for file in FileDescriptorSet.from_binary(serialized).file:
            texts.update(_file_comments(file))
        return cls(texts)

    def of(self, name: str) -> str:
        """The comment at the element with this full name, without comment signs."""
        return self._texts.get(name, "")


def summary(comment: str) -> str:
    """The first clause of a comment, without its full stop."""
    end = _SUMMARY_END.search(comment)
    return " ".join((comment if end is None else comment[: end.start()]).split())


def _file_comments(file: FileDescriptorProto) -> dict[str, str]:
    info = file.source_code_info
    if info is None:
        return {}
    names = dict(_file_names(file))
    texts = {}
    for location in info.location:
        name = names.get(tuple(location.path))
        text = _plain(location.leading_comments or location.trailing_comments)
        if name and text:
            texts[name] = text
    return texts


def _plain(comment: str) -> str:
    """A comment's text: each line without the space that follows the comment sign."""
    return "\n".join(line.removeprefix(" ").rstrip() for line in comment.splitlines()).strip()


def _file_names(file: FileDescriptorProto) -> _Named:
    scope = f"{file.package}." if file.package else ""
    yield from _messages((_FILE_MESSAGES,), scope, file.message_type)
    yield from _enums((_FILE_ENUMS,), scope, file.enum_type)
    yield from _services((_FILE_SERVICES,), scope, file.service)


def _messages(path: tuple[int, ...], scope: str, messages: Iterable[DescriptorProto]) -> _Named:
    for index, message in enumerate(messages):
        here, name = (*path, index), f"{scope}{message.name}"
        yield here, name
        for number, field in enumerate(message.field):
            yield (*here, _MESSAGE_FIELDS, number), f"{name}.{field.name}"
        for number, oneof in enumerate(message.oneof_decl):
            yield (*here, _MESSAGE_ONEOFS, number), f"{name}.{oneof.name}"
        yield from _messages((*here, _MESSAGE_MESSAGES), f"{name}.", message.nested_type)
        yield from _enums((*here, _MESSAGE_ENUMS), f"{name}.", message.enum_type)


def _enums(path: tuple[int, ...], scope: str, enums: Iterable[EnumDescriptorProto]) -> _Named:
    for index, enum in enumerate(enums):
        here, name = (*path, index), f"{scope}{enum.name}"
        yield here, name
        for number, value in enumerate(enum.value):
            yield (*here, _ENUM_VALUES, number), f"{name}.{value.name}"


def _services(path: tuple[int, ...], scope: str, services: Iterable[ServiceDescriptorProto]) -> _Named:
    for index, service in enumerate(services):
        here, name = (*path, index), f"{scope}{service.name}"
        yield here, name
        for number, method in enumerate(service.method):
            yield (*here, _SERVICE_METHODS, number), f"{name}.{method.name}"
