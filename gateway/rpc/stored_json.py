"""Messages from the ProtoJSON that SQL functions answer; fields of newer schemas are passed over."""

from __future__ import annotations

from typing import Any, TypeVar

from protobuf import Message, message_from_json_value

from gateway.rpc.status import DETAIL_TYPES

M = TypeVar("M", bound=Message)


def read_message(text: str | bytes, message_type: type[M]) -> M:
    """The message that the text holds. Raises ValueError for what is none."""
    return message_type.from_json(text, ignore_unknown_fields=True, registry=DETAIL_TYPES)


def message_of(value: Any, message_type: type[M]) -> M:
    """As `read_message`, of a text that is parsed already."""
    return message_from_json_value(message_type, value, ignore_unknown_fields=True, registry=DETAIL_TYPES)
