"""What can be chosen about a transcoder. The defaults are strict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protobuf import Message, Registry

from gateway.transcoding.json_decoder import JsonLimits
from gateway.transcoding.router import OnConflict

StatusRefiner = Callable[[int, Sequence[Message]], int | None]
"""(google.rpc.Code, details) -> HTTP status, or None for the table's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Choices that hold for every method of a transcoder.

    Requests: `ignore_unknown_parameters` and `ignore_unknown_fields` accept
    query parameters and JSON fields that the request type does not have,
    instead of refusing them by name. `max_body` and `max_target` are bytes (of
    the body without content coding, and of path and query string), `max_depth`
    counts JSON levels (MAX_VALUE_DEPTH of them within a google.protobuf.Value,
    whatever is chosen here), `max_values` the values and keys of one body
    (decoding a google.protobuf.Struct costs about a microsecond for each),
    `body_timeout` is seconds until the whole body must have come.

    Responses: `emit_defaults` prints fields that are not set, `proto_names`
    prints snake_case names, `enums_as_numbers` prints numbers.
    `compression_minimum` is the smallest body in bytes that is compressed.
    `cache_control` goes with answers that have an ETag, unless the handler sets it.
    `heartbeat` is seconds of silence after which an event stream gets a
    comment line; None for never.

    `http_status` may refine the table from codes to HTTP statuses; `registry`
    resolves google.protobuf.Any; `on_conflict` says what a second rule for the
    same method and path does; `default_bindings` adds
    ``POST /package.Service/Method`` to methods without a rule.
    """

    ignore_unknown_parameters: bool = False
    ignore_unknown_fields: bool = False
    max_body: int = 4 * 1024 * 1024
    max_target: int = 16 * 1024
    max_depth: int = 100
    max_values: int = 50_000
    body_timeout: float = 60.0
    emit_defaults: bool = True
    proto_names: bool = True
    enums_as_numbers: bool = False
    compression_minimum: int = 1024
    cache_control: str | None = None
    heartbeat: float | None = 15.0
    http_status: StatusRefiner | None = None
    registry: Registry | None = None
    on_conflict: OnConflict = "error"
    default_bindings: bool = False

    @property
    def json_limits(self) -> JsonLimits:
        """What one JSON body may hold."""
        return JsonLimits(self.max_depth, self.max_values)
