"""Resources in the one JSON form of the API, where no door prints them: in files and in events.

It is what the REST door answers: ProtoJSON with the names of the proto files, enums by their names, times in
UTC with a Z, fields that are not set with their defaults, and no nulls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from protobuf import Message, message_from_json_value
from protobuf.wkt import Timestamp

from gateway.rpc.status import DETAIL_TYPES
from gateway.rpc.stored_json import message_of
from gateway.transcoding import Options, json_encoder

ResourceJson = Callable[[Mapping[str, Any]], dict[str, Any]]


def resource_json(message_type: type[Message]) -> ResourceJson:
    """A function that shows a resource as the API does, from the database's JSON of it.

    Fields that the type does not have are left out. The function raises ValueError for what is none.
    """
    encode = json_encoder(message_type.desc(), Options(registry=DETAIL_TYPES))

    def shown(row: Mapping[str, Any]) -> dict[str, Any]:
        message = message_of(dict(row), message_type)
        resource: dict[str, Any] = orjson.loads(encode(message))
        return resource

    return shown


def time_json(text: str) -> str:
    """A time as the API shows it, from the database's. Raises ValueError for what is none."""
    shown: str = orjson.loads(message_from_json_value(Timestamp, text).to_json())
    return shown
