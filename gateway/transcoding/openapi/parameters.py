"""Parameters of operations: what a request has beside its body."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from protobuf import DescField, DescFieldValueMessage, DescMessage

from gateway.transcoding.fields import WELL_KNOWN, text_reader
from gateway.transcoding.gen.google.api.field_behavior_pb import FieldBehavior
from gateway.transcoding.openapi.names import Form
from gateway.transcoding.openapi.paths import PathParameter
from gateway.transcoding.openapi.rules import merged
from gateway.transcoding.openapi.schemas import Excluded, Schemas, field_behaviors, is_required
from gateway.transcoding.openapi.values import Schema

_MOVED: Final = ("description", "deprecated", "readOnly", "writeOnly")
"""What is said of a parameter, and not of its schema, or has no meaning for it."""


def path_parameter(parameter: PathParameter, schemas: Schemas, form: Form) -> Schema:
    """A path parameter. It is never empty, unless it takes all that is left of the path."""
    described: Schema = {"name": parameter.name, "in": "path", "required": True}
    if parameter.field is None or parameter.part:
        of = "" if parameter.field is None else f" of `{parameter.field.path}`"
        described["description"] = f"A wildcard{of} in `{parameter.part}`."
        schema: Schema = {"type": "string"}
    else:
        schema = schemas.field(parameter.field.field, form)
        text = schema.get("description")
        if text:
            described["description"] = text
        for name in _MOVED:
            schema.pop(name, None)
    if parameter.pattern:
        schema = merged(schema, {"pattern": parameter.pattern})
    elif schema.get("type") == "string" and "format" not in schema:
        schema.setdefault("minLength", 1)
    return {**described, "schema": schema}


def query_parameters(
    message: DescMessage, schemas: Schemas, form: Form, excluded: Excluded
) -> Iterator[Schema]:
    """The fields of a request that its query string can give.

    `excluded` are the paths of those that path or body give. Messages are gone
    into, each once on the way down; maps and repeated messages have no form.
    """
    return _Query(schemas, form, excluded).of(message, _Way((), (), (message.type_name,), required=True))


@dataclass(frozen=True, slots=True)
class _Way:
    """How a message was reached: field names, their spelling, types passed, whether all are required."""

    path: tuple[str, ...]
    spelled: tuple[str, ...]
    types: tuple[str, ...]
    required: bool

    def to(self, field: DescField, form: Form) -> _Way:
        required = self.required and is_required(field)
        return _Way((*self.path, field.name), (*self.spelled, form.name_of(field)), self.types, required)


@dataclass(frozen=True, slots=True)
class _Query:
    schemas: Schemas
    form: Form
    excluded: Excluded

    def of(self, message: DescMessage, way: _Way) -> Iterator[Schema]:
        for field in message.fields:
            to = way.to(field, self.form)
            if ".".join(to.path) in self.excluded or FieldBehavior.OUTPUT_ONLY in field_behaviors(field):
                continue
            if text_reader(field) is not None:
                yield self._parameter(field, to)
            inner = _entered(field)
            if inner is not None and inner.type_name not in way.types:
                yield from self.of(inner, replace(to, types=(*way.types, inner.type_name)))

    def _parameter(self, field: DescField, way: _Way) -> Schema:
        schema = self.schemas.field(field, self.form)
        parameter: Schema = {"name": ".".join(way.spelled), "in": "query"}
        text = schema.get("description")
        if text:
            parameter["description"] = text
        if way.required:
            parameter["required"] = True
        if field.deprecated:
            parameter["deprecated"] = True
        for moved in _MOVED:
            schema.pop(moved, None)
        return {**parameter, "schema": schema}


def _entered(field: DescField) -> DescMessage | None:
    if isinstance(field.value, DescFieldValueMessage) and field.value.message.type_name not in WELL_KNOWN:
        return field.value.message
    return None
