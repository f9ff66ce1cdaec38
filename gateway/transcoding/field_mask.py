"""The update mask that the body of a PATCH implies (AIP-134).

A PATCH whose request has an `update_mask` that the caller did not give updates
the fields that its body names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from protobuf import DescField, DescFieldValueMessage, DescMessage, Message

from gateway.transcoding.fields import FIELD_MASK, STRUCT, WELL_KNOWN, Json, field_named

if TYPE_CHECKING:
    from gateway.transcoding.binding import Binding

_MASK_NAME = "update_mask"
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")


class MaskMaker:
    """Gives the requests of one PATCH binding the mask that their body implies."""

    def __init__(self, mask: DescField, body: DescMessage) -> None:
        self._mask = mask
        self._body = body

    @classmethod
    def of(cls, binding: Binding) -> MaskMaker | None:
        """The maker for a binding, or None when no mask can be implied.

        The binding must be a PATCH whose body is one message field, beside a
        google.protobuf.FieldMask named update_mask.
        """
        if binding.http_method != "PATCH" or binding.body_field is None or binding.http_body_request:
            return None
        mask = field_named(binding.method.input, _MASK_NAME)
        body = binding.body_field.field
        if mask is None or not _is_mask(mask) or not isinstance(body.value, DescFieldValueMessage):
            return None
        return cls(mask, body.value.message)

    def given(self, tree: dict[str, Json]) -> bool:
        """Whether the request has a mask of its own."""
        return self._mask.name in tree

    def set(self, message: Message, paths: list[str]) -> None:
        """Give the request its implied mask."""
        assert isinstance(self._mask.value, DescFieldValueMessage)  # noqa: S101 (see `of`)
        message[self._mask] = mask = self._mask.value.message.type()
        mask[mask.desc().fields[0]] = paths

    def paths(self, body: Json) -> list[str]:
        """The sorted paths of the fields that are present in the body, in proto names.

        A message is entered, and so is a Struct whose keys can be path
        segments; lists, maps and other values are named as a whole. A field
        that is null is named too: it is to be cleared.
        """
        return sorted(set(_message_paths(self._body, body, "")))


def _is_mask(field: DescField) -> bool:
    return isinstance(field.value, DescFieldValueMessage) and field.value.message.type_name == FIELD_MASK


def _message_paths(desc: DescMessage, value: Json, prefix: str) -> list[str]:
    if not isinstance(value, dict) or desc.type_name in WELL_KNOWN:
        return []
    fields = {field.json_name: field for field in desc.fields}
    fields |= {field.name: field for field in desc.fields}
    paths: list[str] = []
    for key, member in value.items():
        field = fields.get(key)
        if field is not None:
            path = f"{prefix}{field.name}"
            paths += _inner_paths(field, member, path) or [path]
    return paths


def _inner_paths(field: DescField, value: Json, path: str) -> list[str]:
    if not isinstance(field.value, DescFieldValueMessage):
        return []
    if field.value.message.type_name == STRUCT:
        return _struct_paths(value, path)
    return _message_paths(field.value.message, value, f"{path}.")


def _struct_paths(value: Json, path: str) -> list[str]:
    if not isinstance(value, dict) or not all(map(_PLAIN_NAME.fullmatch, value)):
        return []
    paths: list[str] = []
    for key, member in value.items():
        inner = f"{path}.{key}"
        paths += _struct_paths(member, inner) or [inner]
    return paths
