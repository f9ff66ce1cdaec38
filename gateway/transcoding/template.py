"""Path templates of google.api.http: parsed, printed, expanded.

The grammar and the escaping rules are the comment of ``HttpRule`` in
google/api/http.proto.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from gateway.transcoding.errors import TemplateError

STAR: Final = "*"
"""Matches exactly one segment."""
REST: Final = "**"
"""Matches the remaining segments, also none."""

_IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LITERAL = re.compile(r"(?:[A-Za-z0-9\-._~]|%[0-9A-Fa-f]{2})+")
_SLASH = re.compile(r"(%2[Ff])")


@dataclass(frozen=True, slots=True)
class Variable:
    """The part of a path that is bound to a field: segments `start` to `end`, `end` excluded.

    `end` is None when the variable ends in ``**`` and so takes what is left.
    """

    field_path: str
    start: int
    end: int | None

    @property
    def multi_segment(self) -> bool:
        """Whether ``%2F`` stays encoded in the value."""
        return self.end is None or self.end - self.start != 1


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed path template.

    `segments` are ``*``, ``**`` or literals as they were written, `verb` is
    empty when there is none.
    """

    segments: tuple[str, ...]
    verb: str
    variables: tuple[Variable, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse a template; ``/`` alone is accepted too. Raises TemplateError."""
        return _Parser(text).template()

    def __str__(self) -> str:
        starts = {variable.start: variable for variable in self.variables}
        parts: list[str] = []
        index = 0
        while index < len(self.segments):
            variable = starts.get(index)
            end = index + 1 if variable is None else variable.end or len(self.segments)
            inner = "/".join(self.segments[index:end])
            if variable is None:
                parts.append(inner)
            elif inner == STAR:
                parts.append(f"{{{variable.field_path}}}")
            else:
                parts.append(f"{{{variable.field_path}={inner}}}")
            index = end
        verb = f":{self.verb}" if self.verb else ""
        return f"/{'/'.join(parts)}{verb}"

    def expand(self, values: Mapping[str, str]) -> str:
        """The path for `values` (field path -> text), percent-encoded as the specification says.

        Raises KeyError for a variable without a value, and ValueError for a
        value that its variable cannot carry, or for a wildcard outside of any
        variable.
        """
        starts = {variable.start: variable for variable in self.variables}
        parts: list[str] = []
        index = 0
        while index < len(self.segments):
            variable = starts.get(index)
            if variable is None:
                if self.segments[index] in (STAR, REST):
                    message = f"{self} has a wildcard without a variable"
                    raise ValueError(message)
                parts.append(self.segments[index])
                index += 1
                continue
            end = variable.end or len(self.segments)
            parts += self._expand_variable(variable, self.segments[index:end], values[variable.field_path])
            index = end
        verb = f":{self.verb}" if self.verb else ""
        return f"/{'/'.join(parts)}{verb}"

    def _expand_variable(self, variable: Variable, pattern: tuple[str, ...], value: str) -> list[str]:
        if not variable.multi_segment:
            encoded = [quote(value, safe="")] if pattern != (REST,) else []
        else:
            encoded = []
        if variable.multi_segment:
            pieces = _SLASH.split(value)
            pieces[::2] = [quote(piece, safe="/") for piece in pieces[::2]]
            pieces[1::2] = ["%2F"] * (len(pieces) // 2)
            encoded = "".join(pieces).split("/")
        if not _fits(pattern, encoded):
            message = f"the value of {variable.field_path} does not fit {'/'.join(pattern)}"
            raise ValueError(message)
        return encoded


def _fits(pattern: tuple[str, ...], segments: list[str]) -> bool:
    if pattern[-1] == REST:
        fixed = len(pattern) - 1
        if len(segments) < fixed:
            return False
        pattern, segments = pattern[:fixed], segments[:fixed]
    if len(pattern) != len(segments):
        return False
    return all(want == have or (want == STAR and have) for want, have in zip(pattern, segments, strict=True))


class _Parser:
    """Recursive descent, one method per production."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.segments_seen: list[str] = []
        self.variables: list[Variable] = []

    def template(self) -> Template:
        """``Template = "/" Segments [ Verb ] ;``."""
        self.expect("/")
        if self.position == len(self.text):
            return Template((), "", ())
        self.segments(inside_variable=False)
        verb = self.verb() if self.peek() == ":" else ""
        if self.position != len(self.text):
            raise self.error(f"unexpected {self.peek()!r}")
        return Template(tuple(self.segments_seen), verb, tuple(self.variables))

    def segments(self, *, inside_variable: bool) -> None:
        """``Segments = Segment { "/" Segment } ;``."""
        self.segment(inside_variable=inside_variable)
        while self.peek() == "/":
            self.position += 1
            self.segment(inside_variable=inside_variable)

    def segment(self, *, inside_variable: bool) -> None:
        """``Segment = "*" | "**" | LITERAL | Variable ;``."""
        if REST in self.segments_seen:
            raise self.error("'**' must be the last segment, but another one follows")
        character = self.peek()
        if character == "{":
            if inside_variable:
                raise self.error("a variable must not contain another variable")
            self.variable()
        elif character == "*":
            wildcard = REST if self.text.startswith(REST, self.position) else STAR
            self.position += len(wildcard)
            self.segments_seen.append(wildcard)
        else:
            self.segments_seen.append(self.literal("a segment"))

    def variable(self) -> None:
        """``Variable = "{" FieldPath [ "=" Segments ] "}" ;``."""
        opening = self.position
        self.expect("{")
        field_path = self.field_path()
        start = len(self.segments_seen)
        if self.peek() == "=":
            self.position += 1
            self.segments(inside_variable=True)
        else:
            self.segments_seen.append(STAR)
        self.expect("}")
        if any(variable.field_path == field_path for variable in self.variables):
            self.position = opening
            raise self.error(f"field {field_path!r} is bound twice")
        end = None if self.segments_seen[-1] == REST else len(self.segments_seen)
        self.variables.append(Variable(field_path, start, end))

    def field_path(self) -> str:
        """``FieldPath = IDENT { "." IDENT } ;``."""
        start = self.position
        self.ident()
        while self.peek() == ".":
            self.position += 1
            self.ident()
        return self.text[start : self.position]

    def verb(self) -> str:
        """``Verb = ":" LITERAL ;``."""
        self.expect(":")
        return self.literal("a verb")

    def ident(self) -> None:
        """``IDENT`` is a protobuf identifier."""
        match = _IDENT.match(self.text, self.position)
        if match is None:
            raise self.error(f"expected a field name, found {self.peek() or 'the end'!r}")
        self.position = match.end()

    def literal(self, what: str) -> str:
        """``LITERAL`` is unreserved characters of RFC 3986 and percent-encoded octets."""
        match = _LITERAL.match(self.text, self.position)
        if match is None:
            raise self.error(f"expected {what}, found {self.peek() or 'the end'!r}")
        self.position = match.end()
        return match.group()

    def peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def expect(self, character: str) -> None:
        if self.peek() != character:
            raise self.error(f"expected {character!r}, found {self.peek() or 'the end'!r}")
        self.position += 1

    def error(self, problem: str) -> TemplateError:
        return TemplateError(problem, self.text, self.position + 1)
