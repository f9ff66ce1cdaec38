"""Which rule serves a request: a trie of path segments that does not depend on the order of rules.

At every segment a literal is tried before ``*`` and ``*`` before ``**``; a
branch that does not end in a rule for the HTTP method is left again. Each node
is entered at most once for a request, so the cost is bounded by the rules that
share the path, whatever the path is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from gateway.transcoding.errors import RouteConflict
from gateway.transcoding.template import REST, STAR, Template
from gateway.transcoding.uri import ascii_path, comparable_segment, decode_segment, decode_segments

ANY_METHOD = "*"

_HEAD = ("HEAD", "GET", ANY_METHOD)
_REST = -1

T = TypeVar("T")
OnConflict = Literal["error", "first", "last"]


@dataclass(slots=True)
class Match(Generic[T]):
    """A rule for a request, with the decoded text of each variable by field path."""

    target: T
    variables: dict[str, str]


class _Route(Generic[T]):
    __slots__ = ("target", "template", "variables")

    def __init__(self, template: Template, target: T) -> None:
        self.template = template
        self.target = target
        self.variables = [
            (variable.field_path, variable.start, variable.end, variable.multi_segment)
            for variable in template.variables
        ]

    def values(self, segments: list[str]) -> dict[str, str]:
        """The text of each variable."""
        values: dict[str, str] = {}
        for name, start, end, multi_segment in self.variables:
            if multi_segment:
                values[name] = decode_segments("/".join(segments[start:end]))
            else:
                text = segments[start]
                values[name] = decode_segment(text) if "%" in text else text
        return values


_Ends = dict[str, dict[str, _Route[T]]]
"""Verb -> HTTP method -> route."""


class _Node(Generic[T]):
    __slots__ = ("ends", "literals", "rest", "star")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.star: _Node[T] | None = None
        self.rest: _Ends[T] = {}
        self.ends: _Ends[T] = {}


class Router(Generic[T]):
    """Targets by HTTP method and path template.

    `on_conflict` says what a second rule for the same HTTP method and pattern
    does: raise RouteConflict, or be ignored ("first"), or take over ("last").
    """

    def __init__(self, *, on_conflict: OnConflict = "error") -> None:
        self._root: _Node[T] = _Node()
        self._verbs: set[str] = set()
        self._static: dict[tuple[str, str], Match[T]] = {}
        self._on_conflict = on_conflict

    def add(self, http_method: str, template: Template | str, target: T) -> None:
        """Serve `http_method` (``*`` for every one) on `template` with `target`.

        Raises TemplateError, and RouteConflict naming both targets.
        """
        if isinstance(template, str):
            template = Template.parse(template)
        node = self._root
        for segment in template.segments:
            if segment == STAR:
                node.star = node.star or _Node()
                node = node.star
            elif segment != REST:
                node = node.literals.setdefault(comparable_segment(segment), _Node())
        verb = comparable_segment(template.verb)
        ends = node.rest if REST in template.segments else node.ends
        routes = ends.setdefault(verb, {})
        if http_method in routes:
            if self._on_conflict == "error":
                raise RouteConflict(http_method, routes[http_method].target, target)
            if self._on_conflict == "first":
                return
        routes[http_method] = _Route(template, target)
        if verb:
            self._verbs.add(verb)
        if STAR not in template.segments and REST not in template.segments and not template.variables:
            self._static[http_method, str(template)] = Match(target, {})

    def match(self, http_method: str, raw_path: bytes | str) -> Match[T] | tuple[str, ...]:
        """The rule for a request, or the sorted HTTP methods that the path does have.

        `raw_path` is percent-encoded, without query string. The tuple is empty
        when no rule has the path; else it includes HEAD where GET is, and
        OPTIONS. HEAD is served by a rule for GET when it has none of its own.
        Raises UriError for a malformed path.
        """
        path = ascii_path(raw_path)
        static = self._static.get((http_method, path))
        if static is not None:
            return static
        wanted = _HEAD if http_method == "HEAD" else (http_method, ANY_METHOD)
        for verb, segments, keys in self._readings(path):
            route = _find(self._root, keys, verb, wanted)
            if route is not None:
                return Match(route.target, route.values(segments))
        return self._allowed(path)

    def _readings(self, path: str) -> list[tuple[str, list[str], list[str]]]:
        """The ways to read a path: with its verb if some rule has that verb, then as plain text.

        Each is the verb, the segments as sent, and the segments to compare.
        """
        if not path.startswith("/"):
            return []
        segments = path[1:].split("/") if path != "/" else []
        keys = [comparable_segment(segment) for segment in segments] if "%" in path else segments
        plain = ("", segments, keys)
        if self._verbs and segments and ":" in segments[-1]:
            head, _, verb = segments[-1].rpartition(":")
            verb = comparable_segment(verb)
            if verb in self._verbs:
                return [(verb, [*segments[:-1], head], [*keys[:-1], comparable_segment(head)]), plain]
        return [plain]

    def _allowed(self, path: str) -> tuple[str, ...]:
        methods: set[str] = set()
        for verb, _, keys in self._readings(path):
            for routes in _ends(self._root, keys, 0, verb):
                methods.update(routes)
        if methods:
            methods.add("OPTIONS")
        if "GET" in methods:
            methods.add("HEAD")
        return tuple(sorted(methods))


def _find(root: _Node[T], keys: list[str], verb: str, wanted: tuple[str, ...]) -> _Route[T] | None:
    """The first route in the order of precedence."""
    node, index = root, 0
    left: list[tuple[_Node[T], int]] = []
    """Branches that were passed by, the next one to try last: a node with the index of its key, or _REST."""
    while True:
        found: _Route[T] | None = None
        for key in keys[index:] if index else keys:
            index += 1
            if node.rest:
                left.append((node, _REST))
            literal, star = node.literals.get(key), node.star
            if literal is not None:
                if star is not None and key:
                    left.append((star, index))
                node = literal
            elif star is not None and key:
                node = star
            else:
                break
        else:
            found = _pick(node.ends, verb, wanted) or _pick(node.rest, verb, wanted)
        while found is None and left:
            node, index = left.pop()
            if index != _REST:
                break
            found = _pick(node.rest, verb, wanted)
        else:
            return found


def _pick(ends: _Ends[T], verb: str, wanted: tuple[str, ...]) -> _Route[T] | None:
    routes = ends.get(verb)
    if routes is not None:
        for method in wanted:
            if method in routes:
                return routes[method]
    return None


def _ends(node: _Node[T], keys: list[str], index: int, verb: str) -> Iterator[dict[str, _Route[T]]]:
    if index == len(keys):
        yield node.ends.get(verb, {})
    else:
        if (child := node.literals.get(keys[index])) is not None:
            yield from _ends(child, keys, index + 1, verb)
        if node.star is not None and keys[index]:
            yield from _ends(node.star, keys, index + 1, verb)
    yield node.rest.get(verb, {})
