"""Query parameters as request fields, looked up in tables that are compiled per message type."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protobuf import DescField, DescFieldValueMessage, DescMessage

from gateway.transcoding.fields import WELL_KNOWN, Json, Reader, is_repeated, text_reader, unknown
from gateway.transcoding.json_check import JsonError, plain


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    repeated: bool
    reader: Reader | None
    message: DescMessage | None


class QueryTable:
    """The fields of a request type by the names that a query string may give them.

    `excluded` are top-level fields that come from the body. Message types are
    compiled when they are first met, at most once each.
    """

    def __init__(
        self,
        message: DescMessage,
        excluded: Iterable[str] = (),
        *,
        ignore_unknown: bool = False,
        max_depth: int = 100,
    ) -> None:
        self._types: dict[str, dict[str, _Parameter]] = {}
        self._root = _parameters(message, frozenset(excluded))
        self._ignore_unknown = ignore_unknown
        self._max_depth = max_depth
        self._compile(self._root)

    def _compile(self, table: dict[str, _Parameter]) -> None:
        for parameter in table.values():
            message = parameter.message
            if message is not None and message.type_name not in self._types:
                self._types[message.type_name] = inner = _parameters(message, frozenset())
                self._compile(inner)

    def read(self, pairs: list[tuple[str, str]], tree: dict[str, Json]) -> None:
        """Put each parameter into `tree`, under proto field names, in its JSON form.

        Raises JsonError naming the parameter: unknown, given twice for a
        singular field, of the wrong form, or not expressible in a query string.
        """
        for name, text in pairs:
            parameter = self._root.get(name)
            if parameter is not None and parameter.reader is not None:
                _store(tree, parameter, name, text)
            else:
                self._read_nested(name, text, tree)

    def _read_nested(self, name: str, text: str, tree: dict[str, Json]) -> None:
        table, node = self._root, tree
        parts = name.split(".", self._max_depth)
        for index, part in enumerate(parts):
            parameter = table.get(part)
            if parameter is None:
                break
            if index == len(parts) - 1:
                if parameter.reader is None:
                    raise JsonError(name, "a message or map cannot be given as one query parameter")
                return _store(node, parameter, name, text)
            if parameter.message is None:
                if parameter.reader is None:
                    raise JsonError(name, "repeated messages and maps cannot be given as query parameters")
                break
            table = self._types[parameter.message.type_name]
            child = node.setdefault(parameter.name, {})
            node = child if isinstance(child, dict) else {}
        if not self._ignore_unknown:
            outer = "".join(f"{part}." for part in parts[:index])
            known = dict.fromkeys(f"{outer}{parameter.name}" for parameter in table.values())
            raise JsonError(plain(name), unknown("unknown query parameter", name, known))
        return None


def _parameters(message: DescMessage, excluded: frozenset[str]) -> dict[str, _Parameter]:
    table: dict[str, _Parameter] = {}
    for field in message.fields:
        if field.name not in excluded:
            table[field.name] = table[field.json_name] = _parameter(field)
    return table


def _parameter(field: DescField) -> _Parameter:
    nested = None
    if isinstance(field.value, DescFieldValueMessage) and field.value.message.type_name not in WELL_KNOWN:
        nested = field.value.message
    return _Parameter(field.name, is_repeated(field), text_reader(field), nested)


def _store(node: dict[str, Json], parameter: _Parameter, name: str, text: str) -> None:
    assert parameter.reader is not None  # noqa: S101 (looked at by the callers)
    try:
        value = parameter.reader(text)
    except ValueError as error:
        raise JsonError(name, f"expected {error}") from None
    if parameter.repeated:
        values = node.setdefault(parameter.name, [])
        if isinstance(values, list):
            values.append(value)
    elif parameter.name in node:
        raise JsonError(name, "is given more than once")
    else:
        node[parameter.name] = value
