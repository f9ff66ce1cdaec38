"""One binding with everything that serving it needs, compiled at start."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import cast

from protobuf import Message
from protobuf.wkt.google.protobuf.descriptor_pb import MethodOptions

from gateway.transcoding.binding import Binding
from gateway.transcoding.json_check import MessageCheck
from gateway.transcoding.json_encoder import json_encoder, json_value_encoder
from gateway.transcoding.negotiation import EVENT_STREAM, JSON, NDJSON
from gateway.transcoding.options import Options
from gateway.transcoding.request import RequestDecoder
from gateway.transcoding.stream import (
    STREAM_TYPES,
    ArrayFraming,
    BytesFraming,
    EventFraming,
    Framing,
    LineFraming,
    sequence_getter,
)


class Route:
    """What the router finds for a request."""

    __slots__ = (
        "_sequence",
        "any_type",
        "binding",
        "client_streaming",
        "decoder",
        "encode",
        "method",
        "offers",
        "raw_answer",
        "raw_request",
        "server_streaming",
        "tagged",
    )

    def __init__(self, binding: Binding, options: Options, checks: dict[str, MessageCheck]) -> None:
        method = binding.method
        self.binding = binding
        self.method = method
        self.client_streaming = binding.client_streaming
        self.server_streaming = binding.server_streaming
        self.decoder = RequestDecoder(binding, options, checks)
        field = binding.response_field
        self.encode = (
            json_encoder(method.output, options) if field is None else json_value_encoder(field, options)
        )
        self.raw_request = binding.http_body_request
        self.any_type = self.raw_request or not binding.body
        self.raw_answer = _raw_getter(binding) if binding.http_body_response else None
        self._sequence = sequence_getter(method.output)
        # What raw bytes are is not known before the answer, so nothing is refused for them.
        self.offers = STREAM_TYPES if binding.server_streaming else (JSON,)
        self.tagged = (
            method.idempotency == MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS
            and binding.http_method == "GET"
            and not binding.server_streaming
        )

    def __str__(self) -> str:
        return str(self.binding)

    def frames(self, content_type: str) -> Framing:
        """A framing for one server stream, in one of the offered types."""
        if self.raw_answer is not None:
            return BytesFraming(self.raw_answer)
        if content_type == EVENT_STREAM:
            return EventFraming(self.encode, self._sequence)
        return LineFraming(self.encode) if content_type == NDJSON else ArrayFraming(self.encode)


class LazyRequest:
    """A request that is not decoded yet.

    `body` is the HTTP body without content coding, within the size limit;
    `binding` and `variables` (field path -> text) say which rule it came by.
    """

    __slots__ = ("_content_type", "_query", "_route", "body", "variables")

    def __init__(
        self, route: Route, variables: dict[str, str], query: bytes, body: bytes, content_type: str
    ) -> None:
        self._route = route
        self._query = query
        self._content_type = content_type
        self.body = body
        self.variables = variables

    @property
    def binding(self) -> Binding:
        """The rule that the request came by."""
        return self._route.binding

    def decode(self) -> Message:
        """The request message, from path, query and body.

        Raises StatusError INVALID_ARGUMENT, with google.rpc.BadRequest naming
        the field. Every call decodes again.
        """
        return self._route.decoder.decode(self.variables, self._query, self.body, self._content_type)


def _raw_getter(binding: Binding) -> Callable[[Message], tuple[str, bytes]]:
    """Reads content type and bytes of the google.api.HttpBody in a response."""
    field = binding.response_field
    read = attrgetter("content_type", "data")

    def get(message: Message) -> tuple[str, bytes]:
        body = message if field is None else message[field]
        return cast("tuple[str, bytes]", read(body)) if body is not None else ("", b"")

    return get
