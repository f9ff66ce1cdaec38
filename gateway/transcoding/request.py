"""From an HTTP request to a request message, by one binding.

Path variables, query parameters and the body are put together as one ProtoJSON
tree, so that a value which is given twice is seen, and one decoder fills the
message. The path wins over the others, and a different value there is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from protobuf import (
    DescField,
    DescFieldValueMessage,
    DescMessage,
    Message,
    message_from_json_value,
)

from gateway.transcoding.binding import WHOLE, Binding
from gateway.transcoding.errors import Code, StatusError
from gateway.transcoding.field_mask import MaskMaker
from gateway.transcoding.fields import WELL_KNOWN, Json, Reader, ResolvedField, Step, text_reader
from gateway.transcoding.gen.google.rpc.error_details_pb import BadRequest
from gateway.transcoding.json_check import JsonError, MessageCheck, plain
from gateway.transcoding.json_decoder import DECODE_ERRORS, JsonDecoder, parse_json
from gateway.transcoding.options import Options
from gateway.transcoding.query import QueryTable
from gateway.transcoding.uri import UriError, parse_query


class _PathField:
    """Puts one path variable into the tree."""

    __slots__ = ("_leaf", "_owner", "_parents", "name", "reader", "top")

    def __init__(self, resolved: ResolvedField) -> None:
        reader = text_reader(resolved.field)
        assert reader is not None  # noqa: S101 (the binding was compiled)
        self.name = resolved.path
        self.reader: Reader = reader
        self._parents, self._leaf = resolved.steps[:-1], resolved.steps[-1]
        self._owner = resolved.field.parent
        self.top = not self._parents

    def store(self, text: str, tree: dict[str, Json]) -> None:
        """Put the variable's text into the tree. Raises JsonError for a different value there."""
        try:
            value = self.reader(text)
        except ValueError as error:
            raise JsonError(self.name, f"expected {error}") from None
        node = tree
        for step in self._parents:
            inner = _enter(node, step)
            if inner is None:
                return
            node = inner
        leaf = self._leaf
        key = leaf.json_name if leaf.json_name in node and leaf.name not in node else leaf.name
        given = node.get(key)
        if given is not None and not self._same(given, value):
            raise JsonError(self.name, "differs from the value in the path")
        node[key] = value

    def _same(self, given: Json, value: Json) -> bool:
        """Whether two JSON values decode alike."""
        if given == value and type(given) is type(value):
            return True
        name, message = self._leaf.name, self._owner.type
        try:
            wanted = message_from_json_value(message, {name: value})
            return message_from_json_value(message, {name: given}) == wanted
        except DECODE_ERRORS:
            return False


def _enter(node: dict[str, Json], step: Step) -> dict[str, Json] | None:
    """The object below `step`, made if there is none; None when something else stands there."""
    key = step.json_name if step.json_name in node and step.name not in node else step.name
    inner = node.get(key)
    if inner is None:
        inner = node[key] = {}
    return inner if isinstance(inner, dict) else None


class RequestDecoder:
    """Decodes the requests of one binding. Compiled once, used by every request."""

    def __init__(self, binding: Binding, options: Options, checks: dict[str, MessageCheck]) -> None:
        self._binding = binding
        self._limits = options.json_limits
        self._path_fields = [_PathField(resolved) for resolved in binding.path_fields]
        self._json = JsonDecoder(
            binding.method.input,
            ignore_unknown_fields=options.ignore_unknown_fields,
            limits=options.json_limits,
            registry=options.registry,
            checks=checks,
        )
        body_field = binding.body_field
        self._body_key = body_field.steps[0].name if body_field is not None else ""
        self._raw = _raw_setter(binding) if binding.http_body_request else None
        self._ignore_unknown = options.ignore_unknown_parameters
        excluded = [self._body_key] if body_field is not None and len(body_field.steps) == 1 else []
        self._query = (
            None
            if binding.body == WHOLE
            else QueryTable(
                binding.method.input,
                excluded,
                ignore_unknown=self._ignore_unknown,
                max_depth=options.max_depth,
            )
        )
        self._mask = MaskMaker.of(binding)
        self._any_json = binding.method.input.type_name in WELL_KNOWN and not binding.path_fields

    def decode(self, variables: dict[str, str], query: bytes, body: bytes, content_type: str) -> Message:
        """The request message. Raises StatusError INVALID_ARGUMENT naming the field."""
        try:
            tree = self._body_tree(body) if body and self._raw is None else {}
            mask = self._mask
            paths = None if mask is None else mask.paths(tree.get(self._body_key))
            if query:
                self._read_query(query, tree)
            for field in self._path_fields:
                field.store(variables[field.name], tree)
            if mask is not None and mask.given(tree):
                paths = None
            message = self._json.from_value(tree)
        except JsonError as error:
            raise invalid(error.field, error.problem) from None
        except UriError as error:
            raise StatusError(Code.INVALID_ARGUMENT, str(error)) from None
        if self._raw is not None:
            self._raw(message, body, content_type)
        if mask is not None and paths is not None:
            mask.set(message, paths)
        return message

    def _body_tree(self, body: bytes) -> dict[str, Json]:
        binding = self._binding
        if not binding.body:
            raise JsonError("", f"{binding.http_method} {binding.template} takes no request body")
        value = parse_json(body, self._limits)
        if binding.body != WHOLE:
            return {self._body_key: value}
        if isinstance(value, dict):
            return value
        if not self._any_json:
            raise JsonError("", "the request body must be a JSON object")
        return cast("dict[str, Json]", value)

    def _read_query(self, query: bytes, tree: dict[str, Json]) -> None:
        pairs = parse_query(query)
        if self._query is not None:
            self._query.read(pairs, tree)
        elif pairs and not self._ignore_unknown:
            raise JsonError(plain(pairs[0][0]), "unknown query parameter: every field comes from the body")


def invalid(field: str, problem: str) -> StatusError:
    """INVALID_ARGUMENT, with google.rpc.BadRequest when it is about one field."""
    if not field:
        return StatusError(Code.INVALID_ARGUMENT, problem)
    violation = BadRequest.FieldViolation(field=field, description=problem)
    detail = BadRequest(field_violations=[violation])
    return StatusError(Code.INVALID_ARGUMENT, f"{field}: {problem}", [detail])


def _raw_setter(binding: Binding) -> Callable[[Message, bytes, str], None]:
    """How the bytes of a body get into its google.api.HttpBody."""
    resolved = binding.body_field
    if resolved is None:
        return _fill
    fields: list[DescField] = []
    desc: DescMessage = binding.method.input
    for step in resolved.steps:
        field = next(field for field in desc.fields if field.name == step.name)
        desc = cast("DescFieldValueMessage", field.value).message
        fields.append(field)

    def fill(message: Message, data: bytes, content_type: str) -> None:
        for field in fields:
            if field not in message:
                message[field] = cast("DescFieldValueMessage", field.value).message.type()
            message = message[field]
        _fill(message, data, content_type)

    return fill


def _fill(message: Message, data: bytes, content_type: str) -> None:
    fields = {field.name: field for field in message.desc().fields}
    message[fields["content_type"]] = content_type
    message[fields["data"]] = data
