"""REST and JSON for protobuf services from google.api.http rules, as an ASGI application.

A library of its own: it needs protobuf-py and orjson and knows nothing of the
gateway. Start with `Transcoder`; see README.md for an example.
"""

from __future__ import annotations

from gateway.transcoding.binding import Binding, parse_service_config, rule_bindings, service_bindings
from gateway.transcoding.encode import EncodedRequest, encode_request
from gateway.transcoding.errors import (
    BindingError,
    Code,
    RouteConflict,
    StatusError,
    TemplateError,
    TranscodingError,
)
from gateway.transcoding.exchange import Handler
from gateway.transcoding.json_check import MAX_VALUE_DEPTH, VALUE_TOO_DEEP, JsonError
from gateway.transcoding.json_decoder import JsonDecoder, JsonLimits, is_deeper
from gateway.transcoding.json_encoder import json_encoder
from gateway.transcoding.metadata import Headers, RequestMetadata
from gateway.transcoding.options import Options
from gateway.transcoding.outgoing import Outgoing
from gateway.transcoding.responder import Response
from gateway.transcoding.route import LazyRequest
from gateway.transcoding.router import Match, Router
from gateway.transcoding.status import HTTP_STATUS
from gateway.transcoding.template import Template, Variable
from gateway.transcoding.transcoder import Transcoder
from gateway.transcoding.unary import WholeRequest
from gateway.transcoding.uri import UriError

__all__ = [
    "HTTP_STATUS",
    "MAX_VALUE_DEPTH",
    "VALUE_TOO_DEEP",
    "Binding",
    "BindingError",
    "Code",
    "EncodedRequest",
    "Handler",
    "Headers",
    "JsonDecoder",
    "JsonError",
    "JsonLimits",
    "LazyRequest",
    "Match",
    "Options",
    "Outgoing",
    "RequestMetadata",
    "Response",
    "RouteConflict",
    "Router",
    "StatusError",
    "Template",
    "TemplateError",
    "Transcoder",
    "TranscodingError",
    "UriError",
    "Variable",
    "WholeRequest",
    "encode_request",
    "is_deeper",
    "json_encoder",
    "parse_service_config",
    "rule_bindings",
    "service_bindings",
]
