"""JSON Schema of messages and their fields, as components of an OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

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

from gateway.transcoding.fields import Json, is_repeated
from gateway.transcoding.gen.buf.validate.validate_pb import Rule
from gateway.transcoding.gen.google.api.field_behavior_pb import FieldBehavior, ext_field_behavior
from gateway.transcoding.openapi.comments import Comments
from gateway.transcoding.openapi.names import Form, Names, Role
from gateway.transcoding.openapi.rules import (
    explanations,
    field_rules,
    keywords,
    merged,
    message_rules,
    refuses_zero,
    required_oneofs,
)
from gateway.transcoding.openapi.values import WELL_KNOWN_SCHEMAS, Schema, key_schema, scalar_schema

Excluded: TypeAlias = frozenset[str]
"""Paths of fields, from a message on, that are given elsewhere."""

_REFERENCE = "#/components/schemas/"


class Schemas:
    """Makes schemas, and collects in `components` those that others refer to.

    With `closed`, a request must not have members that its message does not have.
    """

    def __init__(
        self, names: Names, comments: Comments, *, enums_as_numbers: bool = False, closed: bool = True
    ) -> None:
        self.components: dict[str, Json] = {}
        self._names = names
        self._comments = comments
        self._enums_as_numbers = enums_as_numbers
        self._closed = closed

    def message(self, message: DescMessage, form: Form, excluded: Excluded = frozenset()) -> Schema:
        """The schema of a message: a reference, or in place when it is well-known or has fields less."""
        if message.type_name in WELL_KNOWN_SCHEMAS:
            return dict(WELL_KNOWN_SCHEMAS[message.type_name])
        if excluded:
            return self._object(message, form, excluded)
        name = self._names.message(message, form)
        if name not in self.components:
            self.components[name] = {}
            self.components[name] = self._object(message, form, excluded)
        return {"$ref": f"{_REFERENCE}{name}"}

    def field(self, field: DescField, form: Form, excluded: Excluded = frozenset()) -> Schema:
        """The schema of a field's value with its comment, rules and behaviours."""
        if form.role is Role.PATCH and is_repeated(field):
            form = replace(form, role=Role.INPUT)
        schema = self._value(field, form, excluded)
        text = self.comment(field)
        rules = field_rules(field)
        if rules is not None and form.role is not Role.OUTPUT:
            schema = merged(schema, keywords(rules, field))
            text = _with_rules(text, rules.cel)
        behaviors = field_behaviors(field)
        if form.role is Role.INPUT and FieldBehavior.REQUIRED in behaviors:
            schema |= _not_empty(field, schema)
        if text:
            schema["description"] = text
        if FieldBehavior.OUTPUT_ONLY in behaviors:
            schema["readOnly"] = True
        if FieldBehavior.INPUT_ONLY in behaviors:
            schema["writeOnly"] = True
        if field.deprecated:
            schema["deprecated"] = True
        return schema

    def comment(self, field: DescField) -> str:
        """The comment at a field."""
        return self._comments.of(f"{field.parent.type_name}.{field.name}")

    def has_required(self, message: DescMessage, excluded: Excluded = frozenset()) -> bool:
        """Whether a request message has to have some field besides those given elsewhere."""
        if required_oneofs(message):
            return True
        return any(is_required(field) for field in message.fields if field.name not in excluded)

    def _value(self, field: DescField, form: Form, excluded: Excluded) -> Schema:
        match field.value:
            case DescFieldValueScalar(scalar=scalar):
                return scalar_schema(scalar)
            case DescFieldValueEnum(enum=enum):
                return self._enum(enum)
            case DescFieldValueMessage(message=message):
                return self.message(message, form, excluded)
            case DescFieldValueList(element=element):
                return {"type": "array", "items": self._element(element, form)}
            case DescFieldValueMap(key=key, value=element):
                values = self._element(element, form)
                names = key_schema(key)
                schema: Schema = {"type": "object", "additionalProperties": values}
                return schema | ({"propertyNames": names} if names else {})

    def _element(self, element: ScalarType | DescEnum | DescMessage, form: Form) -> Schema:
        if isinstance(element, DescMessage):
            return self.message(element, form)
        return self._enum(element) if isinstance(element, DescEnum) else scalar_schema(element)

    def _enum(self, enum: DescEnum) -> Schema:
        if enum.type_name == "google.protobuf.NullValue":
            return {"type": "null"}
        name = self._names.enum(enum)
        if name not in self.components:
            self.components[name] = self._enum_component(enum)
        return {"$ref": f"{_REFERENCE}{name}"}

    def _enum_component(self, enum: DescEnum) -> Schema:
        schema: Schema = {"type": "string", "enum": [value.name for value in enum.values]}
        if self._enums_as_numbers:
            numbers: list[Json] = [*dict.fromkeys(value.number for value in enum.values)]
            schema = {"type": "integer", "enum": numbers}
        lines = [
            f"- `{value.name}`: {' '.join(text.split())}"
            for value in enum.values
            if (text := self._comments.of(f"{enum.type_name}.{value.name}"))
        ]
        text = "\n\n".join(part for part in (self._comments.of(enum.type_name), "\n".join(lines)) if part)
        return {"description": text, **schema} if text else schema

    def _object(self, message: DescMessage, form: Form, excluded: Excluded) -> Schema:
        schema: Schema = {}
        text = self._comments.of(message.type_name)
        if form.role is not Role.OUTPUT:
            text = _with_rules(text, message_rules(message).cel)
        if text:
            schema["description"] = text
        schema["type"] = "object"
        fields = [field for field in message.fields if field.name not in excluded]
        schema["properties"] = {
            form.name_of(field): self.field(field, form, _inside(field, excluded)) for field in fields
        }
        required: list[Json] = [form.name_of(field) for field in fields if _must_be_there(field, form)]
        if required:
            schema["required"] = required
        if form.role is not Role.OUTPUT and self._closed:
            schema["additionalProperties"] = False
        if message.deprecated:
            schema["deprecated"] = True
        return merged(schema, *_oneofs(message, form, excluded))


def field_behaviors(field: DescField) -> Sequence[FieldBehavior]:
    """The google.api.field_behavior of a field."""
    options = field.proto.options
    if options is None or ext_field_behavior not in options:
        return ()
    return options[ext_field_behavior]  # type: ignore[index] # the stub asks for an immutable list


def is_required(field: DescField) -> bool:
    """Whether a request must give the field, by its behaviour or its rules."""
    if FieldBehavior.REQUIRED in field_behaviors(field) or field.presence.name == "LEGACY_REQUIRED":
        return True
    rules = field_rules(field)
    return rules is not None and (rules.required or refuses_zero(rules, field))


def _not_empty(field: DescField, schema: Schema) -> Schema:
    """Without presence an empty string is no string (AIP-203: set to a non-empty value)."""
    if schema.get("type") != "string" or field.presence.name != "IMPLICIT" or is_repeated(field):
        return {}
    return (
        {} if {"minLength", "format", "enum", "const", "contentEncoding"} & set(schema) else {"minLength": 1}
    )


def _must_be_there(field: DescField, form: Form) -> bool:
    if form.role is Role.OUTPUT:
        return form.defaults and field.presence.name == "IMPLICIT"
    return form.role is Role.INPUT and is_required(field)


def _inside(field: DescField, excluded: Excluded) -> Excluded:
    prefix = f"{field.name}."
    return frozenset(path.removeprefix(prefix) for path in excluded if path.startswith(prefix))


def _with_rules(text: str, rules: Sequence[Rule]) -> str:
    lines = "\n".join(f"- {line}" for line in explanations(rules))
    return "\n\n".join(part for part in (text, lines) if part)


def _oneofs(message: DescMessage, form: Form, excluded: Excluded) -> list[Schema]:
    """For each oneof that at most one of its members is there; exactly one where that is a rule."""
    required = required_oneofs(message) if form.role is Role.INPUT else frozenset()
    found = []
    for oneof in message.oneofs:
        left = [form.name_of(field) for field in oneof.fields if field.name not in excluded]
        found.append(_one_of(left, required=oneof.name in required and len(left) == len(oneof.fields)))
    if form.role is not Role.OUTPUT:
        fields = {field.name: form.name_of(field) for field in message.fields if field.name not in excluded}
        for rule in message_rules(message).oneof:
            names = [fields[name] for name in rule.fields if name in fields]
            found.append(_one_of(names, required=rule.required and form.role is Role.INPUT))
    return [schema for schema in found if schema is not None]


def _one_of(names: list[str], *, required: bool) -> Schema | None:
    if len(names) < 2 and not required:  # noqa: PLR2004 (one is always at most one)
        return None
    members: list[Json] = [{"required": [name]} for name in names]
    return {"oneOf": members if required else [*members, {"not": {"anyOf": members}}]}
