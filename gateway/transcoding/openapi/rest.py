"""The operations of REST: one for each binding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from protobuf import DescField, DescFieldValueMessage, DescMessage, DescMethod
from protobuf.wkt.google.protobuf.descriptor_pb import MethodOptions

from gateway.transcoding.binding import WHOLE, Binding
from gateway.transcoding.field_mask import MaskMaker
from gateway.transcoding.fields import Json
from gateway.transcoding.negotiation import EVENT_STREAM, JSON, NDJSON
from gateway.transcoding.openapi.comments import Comments, summary
from gateway.transcoding.openapi.names import Form, Role
from gateway.transcoding.openapi.parameters import path_parameter, query_parameters
from gateway.transcoding.openapi.paths import Place
from gateway.transcoding.openapi.schemas import Excluded, Schemas, is_required
from gateway.transcoding.openapi.values import Schema

_ERROR: Final[Schema] = {"$ref": "#/components/responses/Error"}
_ETAG: Final[Schema] = {
    "description": "Tells this representation from others; for If-None-Match.",
    "schema": {"type": "string"},
}
_IF_NONE_MATCH: Final[Schema] = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of a representation that the caller has; while it holds the answer is 304.",
    "schema": {"type": "string"},
}


@dataclass(frozen=True, slots=True)
class RestOperations:
    """Describes bindings. `form` is how the transcoder writes responses, `status` names google.rpc.Status."""

    schemas: Schemas
    comments: Comments
    form: Form
    status: str

    def operation(self, place: Place) -> Schema:
        """The operation of a binding, without its id and security."""
        binding = place.binding
        described = describe(binding.method, self.comments)
        parameters = self._parameters(place)
        if parameters:
            described["parameters"] = parameters
        body = self._body(binding)
        if body is not None:
            described["requestBody"] = body
        described["responses"] = self._responses(binding)
        return described

    def _parameters(self, place: Place) -> list[Json]:
        binding = place.binding
        form = replace(self.form, role=Role.INPUT)
        parameters: list[Json] = [path_parameter(each, self.schemas, form) for each in place.parameters]
        if binding.body != WHOLE and not binding.client_streaming:
            excluded = _in_path(binding) | ({binding.body_field.path} if binding.body_field else frozenset())
            if MaskMaker.of(binding) is not None:
                form = replace(form, role=Role.PATCH)
            parameters += query_parameters(binding.method.input, self.schemas, form, excluded)
        if _is_tagged(binding):
            parameters.append(_IF_NONE_MATCH)
        return parameters

    def _body(self, binding: Binding) -> Schema | None:
        if not binding.body:
            return None
        if binding.http_body_request:
            return {"description": "Bytes of any type.", "content": {"*/*": {}}}
        form = replace(self.form, role=Role.PATCH if MaskMaker.of(binding) is not None else Role.INPUT)
        schema, required = self._body_schema(binding, form)
        described: Schema = {"required": True} if required else {}
        text = schema.pop("description", None) if "$ref" in schema else None
        if text:
            described["description"] = text
        if not binding.client_streaming:
            return {**described, "content": {JSON: {"schema": schema}}}
        lines: Schema = {"type": "string", "contentMediaType": NDJSON, "contentSchema": schema}
        content: Schema = {
            JSON: {"schema": {"type": "array", "items": schema}},
            NDJSON: {"schema": {**lines, "description": "One JSON object a line."}},
        }
        return {**described, "content": content}

    def _body_schema(self, binding: Binding, form: Form) -> tuple[Schema, bool]:
        """What the body holds, and whether there has to be one."""
        message, paths = binding.method.input, _in_path(binding)
        body_field = binding.body_field
        if body_field is None:
            return self.schemas.message(message, form, paths), self.schemas.has_required(message, paths)
        prefix = f"{body_field.path}."
        inside = frozenset(path.removeprefix(prefix) for path in paths if path.startswith(prefix))
        schema = self.schemas.field(body_field.field, form, inside)
        return schema, is_required(body_field.field)

    def _responses(self, binding: Binding) -> Schema:
        form = replace(self.form, role=Role.OUTPUT)
        output: Schema = {}
        if not binding.http_body_response:
            output = _output(binding.response_field, binding.method.output, self.schemas, form)
        success: Schema = {"description": "The answer.", "content": {JSON: {"schema": output}}}
        if binding.http_body_response:
            success = {"description": "Bytes of the type that Content-Type says.", "content": {"*/*": {}}}
        elif binding.server_streaming:
            has_sequence = any(field.name == "sequence" for field in binding.method.output.fields)
            success = _stream(output, self.status, resumable=has_sequence)
        responses: Schema = {"200": success}
        if _is_tagged(binding):
            success["headers"] = {"ETag": _ETAG}
            responses["304"] = {"description": "The representation named by If-None-Match still holds."}
        return {**responses, "default": _ERROR}


def describe(method: DescMethod, comments: Comments) -> Schema:
    """Tag, summary and description of a method."""
    described: Schema = {"tags": [method.parent.name]}
    comment = comments.of(f"{method.parent.type_name}.{method.name}")
    short = summary(comment)
    if short:
        described["summary"] = short
    if comment and " ".join(comment.split()).rstrip(".") != short:
        described["description"] = comment
    if method.deprecated or method.parent.deprecated:
        described["deprecated"] = True
    return described


def _stream(output: Schema, status: str, *, resumable: bool) -> Schema:
    failed: Schema = {
        "type": "object",
        "description": "The last element of a stream that failed after it had begun.",
        "properties": {"error": {"$ref": f"#/components/schemas/{status}"}},
        "required": ["error"],
        "additionalProperties": False,
    }
    item: Schema = {"anyOf": [output, failed]}
    lines: Schema = {
        "type": "string",
        "description": "One JSON value a line.",
        "contentMediaType": NDJSON,
        "contentSchema": item,
    }
    text = "Server-sent events with a JSON object as their data; that of a last event `error` is a Status."
    if resumable:
        text += " The id of an event is its sequence."
    events: Schema = {
        "type": "string",
        "description": text,
        "contentMediaType": EVENT_STREAM,
        "contentSchema": output,
    }
    content: Schema = {
        JSON: {"schema": {"type": "array", "items": item}},
        NDJSON: {"schema": lines},
        EVENT_STREAM: {"schema": events},
    }
    return {"description": "The messages as they come, in the form that Accept asks for.", "content": content}


def _output(field: DescField | None, message: DescMessage, schemas: Schemas, form: Form) -> Schema:
    if field is None:
        return schemas.message(message, form)
    schema = schemas.field(field, form)
    if isinstance(field.value, DescFieldValueMessage):
        schema.pop("description", None)
    return schema


def _in_path(binding: Binding) -> Excluded:
    return frozenset(resolved.path for resolved in binding.path_fields)


def _is_tagged(binding: Binding) -> bool:
    safe = binding.method.idempotency == MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS
    return safe and binding.http_method == "GET" and not binding.server_streaming
