"""Update masks (AIP-134): which fields of a resource an update changes, and to what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from protobuf import DescFieldValueMessage

from gateway.rpc.errors import InvalidArgument
from gateway.transcoding.gen.google.api.field_behavior_pb import FieldBehavior, ext_field_behavior

if TYPE_CHECKING:
    from protobuf import DescField, Message
    from protobuf.wkt import FieldMask

    from gateway.adapters.database import Json

_ALL = "*"
_LONGEST_SHOWN = 64
_FIXED = {
    FieldBehavior.OUTPUT_ONLY: "is given by the gateway and cannot be set",
    FieldBehavior.IDENTIFIER: "is given by the gateway and cannot be set",
    FieldBehavior.IMMUTABLE: "cannot be changed",
}


def masked_fields(resource: Message, mask: FieldMask | None) -> list[str]:
    """The names of the fields to change.

    Without a mask those are the fields that are set, as far as they can change; `*` stands for all
    that can. Raises InvalidArgument, whose `update_mask` names the path, for one that is no field of
    the resource, is output only or is immutable.
    """
    changeable = [field.name for field in resource.desc().fields if _fixed(field) is None]
    if mask is None or not mask.paths:
        return [name for name in changeable if resource.has_field(name)]
    if list(mask.paths) == [_ALL]:
        return changeable
    fields = {field.name: field for field in resource.desc().fields}
    for path in mask.paths:
        field = fields.get(path.partition(".")[0])
        if field is None or ("." in path and not isinstance(field.value, DescFieldValueMessage)):
            problem: str | None = "is no field of it"
        else:
            problem = _fixed(field)
        if problem:
            shown = path[:_LONGEST_SHOWN]
            raise InvalidArgument(
                f"update_mask: {shown} {problem}.",
                reason="INVALID_UPDATE_MASK",
                fields={"update_mask": f"{shown} {problem}"},
            )
    return list(dict.fromkeys(path.partition(".")[0] for path in mask.paths))


def changes(resource: Message, names: list[str]) -> dict[str, Json]:
    """The named fields with their values as ProtoJSON, None for those that are to be cleared."""
    values = orjson.loads(resource.to_json(use_proto_field_name=True))
    return {name: values.get(name) for name in names}


def _fixed(field: DescField) -> str | None:
    options = field.proto.options
    behaviors = options[ext_field_behavior] if options is not None else ()
    return next((problem for behavior, problem in _FIXED.items() if behavior in behaviors), None)
