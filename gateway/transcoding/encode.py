"""From a request message to the HTTP request that one binding reads it from: the inverse of decoding."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlencode

import orjson
from protobuf import DescField, DescFieldValueMessage, DescMessage, Message, message_to_json_value

from gateway.transcoding.binding import WHOLE, Binding
from gateway.transcoding.fields import WELL_KNOWN, Json


class EncodedRequest(NamedTuple):
    """An HTTP request: `target` is path and query, `body` is None when there is none."""

    http_method: str
    target: str
    body: bytes | None


def encode_request(binding: Binding, message: Message) -> EncodedRequest:
    """The request of `binding` that carries `message`.

    Also the way to the URL of a resource, as for a Location header. Raises
    ValueError for a message that the binding cannot carry: a path variable
    whose value does not fit its template, or a map or list of messages that
    would have to be a query parameter.
    """
    if binding.http_body_request or binding.client_streaming:
        problem = f"{binding} carries bytes or a stream"
        raise ValueError(problem)
    tree = message_to_json_value(message, use_proto_field_name=True)
    if not isinstance(tree, dict):
        problem = f"{binding.method.input} is not written as a JSON object"
        raise ValueError(problem)  # noqa: TRY004 (a value that does not fit, not a wrong type of argument)
    defaults = message_to_json_value(message, use_proto_field_name=True, always_emit_implicit=True)
    values: dict[str, str] = {}
    for field in binding.path_fields:
        names = [step.name for step in field.steps]
        default = _cut(defaults, names) if isinstance(defaults, dict) else None
        value = _cut(tree, names)
        if value is None:
            value = "" if default is None else default
        values[field.path] = _text(value)
    path = binding.template.expand(values)
    body = None
    if binding.body == WHOLE:
        body, tree = orjson.dumps(tree), {}
    elif binding.body_field is not None:
        value = tree.pop(binding.body_field.field.name, None)
        body = None if value is None else orjson.dumps(value)
    query = urlencode(_parameters(binding.method.input, tree, ""))
    return EncodedRequest(binding.http_method, f"{path}?{query}" if query else path, body)


def _cut(tree: dict[str, Json], names: list[str]) -> Json:
    """Take the value at a path out of the tree."""
    for name in names[:-1]:
        inner = tree.get(name)
        tree = inner if isinstance(inner, dict) else {}
    return tree.pop(names[-1], None)


def _parameters(desc: DescMessage, tree: dict[str, Json], prefix: str) -> list[tuple[str, str]]:
    fields = {field.name: field for field in desc.fields}
    parameters: list[tuple[str, str]] = []
    for name, value in tree.items():
        path = f"{prefix}{name}"
        message = _plain_message(fields[name])
        if message is not None and isinstance(value, dict):
            parameters += _parameters(message, value, f"{path}.")
        elif isinstance(value, list):
            parameters += [(path, _text(item)) for item in value]
        else:
            parameters.append((path, _text(value)))
    return parameters


def _plain_message(field: DescField) -> DescMessage | None:
    if not isinstance(field.value, DescFieldValueMessage) or field.value.message.type_name in WELL_KNOWN:
        return None
    return field.value.message


def _text(value: Json) -> str:
    if value is None or isinstance(value, dict | list):
        problem = "maps, lists of messages and null have no text form"
        raise ValueError(problem)
    if isinstance(value, str):
        return value
    return orjson.dumps(value).decode()
