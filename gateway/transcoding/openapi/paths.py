"""Path templates of google.api.http as the paths of OpenAPI, of which each parameter is one segment.

A variable of several segments becomes one parameter with a pattern. OpenAPI
takes paths that differ in the names of their parameters only as one, and then
has no place for two operations of one method: where two bindings would come to
the same place, their variables are spelled out, a parameter for each wildcard.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.transcoding.binding import Binding
from gateway.transcoding.fields import ResolvedField
from gateway.transcoding.template import REST, STAR, Template, Variable

_NAME: Final = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class PathParameter:
    """A parameter of a path: the field whose value it is, or is a part of.

    `pattern` is an ECMA expression for the whole value, empty for one segment;
    `part` says of which template the parameter is one wildcard.
    """

    name: str
    field: ResolvedField | None
    pattern: str = ""
    part: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a binding is found in the document."""

    binding: Binding
    path: str
    parameters: tuple[PathParameter, ...]


def places(bindings: Iterable[Binding]) -> list[Place]:
    """A place of its own for each binding, in their order.

    The parameters of paths that differ in names only get the names of the first.
    """
    plain = [_place(binding, spelled_out=False) for binding in bindings]
    counted = Counter(_slot(place) for place in plain)
    crowded = {_shape(place.path) for place in plain if counted[_slot(place)] > 1}
    spelled = [
        _place(place.binding, spelled_out=True) if _shape(place.path) in crowded else place for place in plain
    ]
    return list(_distinct(_renamed(spelled)))


def _slot(place: Place) -> tuple[str, str]:
    return place.binding.http_method, _shape(place.path)


def _shape(path: str) -> str:
    return _NAME.sub("{}", path)


def _renamed(found: Iterable[Place]) -> Iterator[Place]:
    firsts: dict[str, Place] = {}
    for place in found:
        first = firsts.setdefault(_shape(place.path), place)
        if first.path == place.path:
            yield place
            continue
        parameters = tuple(
            PathParameter(named.name, parameter.field, parameter.pattern, parameter.part)
            for named, parameter in zip(first.parameters, place.parameters, strict=True)
        )
        yield Place(place.binding, first.path, parameters)


def _distinct(found: Iterable[Place]) -> Iterator[Place]:
    """Tell what is left of equal places apart by a fragment, which no request has."""
    counted: Counter[tuple[str, str]] = Counter()
    for place in found:
        slot = _slot(place)
        counted[slot] += 1
        if counted[slot] == 1:
            yield place
        else:
            fragment = f"#{place.binding.method.name}-{counted[slot]}"
            yield Place(place.binding, place.path + fragment, place.parameters)


def _place(binding: Binding, *, spelled_out: bool) -> Place:
    template = binding.template
    variables = {variable.start: variable for variable in template.variables}
    fields = {resolved.path: resolved for resolved in binding.path_fields}
    parts: list[str] = []
    parameters: list[PathParameter] = []
    index = 0
    while index < len(template.segments):
        variable = variables.get(index)
        end = _end(template, variable, index)
        segments = template.segments[index:end]
        if variable is None or (spelled_out and len(segments) > 1):
            field = None if variable is None else fields[variable.field_path]
            for segment in segments:
                if segment in (STAR, REST):
                    parameters.append(_wildcard(len(parameters) + 1, field, segment, segments))
                    segment = f"{{{parameters[-1].name}}}"  # noqa: PLW2901
                parts.append(segment)
        else:
            parameters.append(
                PathParameter(variable.field_path, fields[variable.field_path], _pattern(segments))
            )
            parts.append(f"{{{variable.field_path}}}")
        index = end
    verb = f":{template.verb}" if template.verb else ""
    return Place(binding, f"/{'/'.join(parts)}{verb}", tuple(parameters))


def _end(template: Template, variable: Variable | None, start: int) -> int:
    if variable is None:
        return start + 1
    return len(template.segments) if variable.end is None else variable.end


def _wildcard(
    number: int, field: ResolvedField | None, segment: str, segments: tuple[str, ...]
) -> PathParameter:
    name = f"segment{number}" if field is None else f"{field.path}.{number}"
    return PathParameter(name, field, _pattern((segment,)), "/".join(segments))


def _pattern(segments: tuple[str, ...]) -> str:
    """An expression for the value; a single segment may hold anything, as slashes are escaped in it."""
    if segments == (STAR,):
        return ""
    *fixed, last = segments
    written = "/".join("[^/]+" if segment == STAR else re.escape(segment) for segment in fixed)
    if last != REST:
        last = "[^/]+" if last == STAR else re.escape(last)
        return f"^{written}/{last}$" if fixed else f"^{last}$"
    return f"^{written}(/.*)?$" if fixed else ""
