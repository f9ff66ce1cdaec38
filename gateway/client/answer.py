"""A message of an answer, as it is printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from protobuf import DescMethod, Message

from gateway.rpc.status import DETAIL_TYPES
from gateway.transcoding import Options, json_encoder
from gateway.transcoding.fields import is_http_body
from gateway.transcoding.gen.google.api.httpbody_pb import HttpBody


def printer(method: DescMethod) -> Callable[[Message], bytes]:
    """What makes a method's messages the JSON that REST answers, and of a google.api.HttpBody its bytes."""
    if is_http_body(method.output):
        return lambda message: cast("HttpBody", message).data
    return json_encoder(method.output, Options(registry=DETAIL_TYPES))
