"""Whole HTTP responses: those of unary answers and of errors."""

from __future__ import annotations

import asyncio
import zlib
from http import HTTPStatus
from typing import Final

from protobuf import Message

from gateway.transcoding.conditional import entity_tag, none_match
from gateway.transcoding.errors import StatusError
from gateway.transcoding.metadata import Headers, RequestMetadata
from gateway.transcoding.negotiation import JSON, accepts_gzip
from gateway.transcoding.options import Options
from gateway.transcoding.responder import OCTETS, Response, raw_headers
from gateway.transcoding.route import Route
from gateway.transcoding.status import HTTP_STATUS, retry_after, status_json

_BODILESS: Final = frozenset({204, 205, 304})
_IN_THREAD: Final = 256 * 1024
"""Bodies of this many bytes are compressed beside the event loop."""
_GZIP: Final = 31
"""zlib's window bits for the gzip format."""


async def unary_response(
    route: Route, answer: Message, metadata: RequestMetadata, headers: Headers, options: Options
) -> Response:
    """The response of a unary method. Raises ValueError for an answer that cannot be sent."""
    content_type = JSON
    if route.raw_answer is None:
        body = route.encode(answer)
    else:
        content_type, body = route.raw_answer(answer)
        content_type = content_type or OCTETS
    status = metadata.http_status or HTTPStatus.OK
    added = metadata.response_headers
    if metadata.trailers:
        added = [*added, *((f"grpc-trailer-{name}", value) for name, value in metadata.trailers)]
    sent = raw_headers([("content-type", content_type)], added)
    if status in _BODILESS:
        return Response(status, [pair for pair in sent if pair[0] != b"content-type"], b"")
    names = dict(sent)
    if route.tagged and status == HTTPStatus.OK:
        tag = names.get(b"etag")
        if tag is None:
            tag = entity_tag(body)
            sent.append((b"etag", tag))
        wanted = headers.joined(b"if-none-match")
        if wanted and none_match(wanted, tag):
            return Response(304, [pair for pair in sent if pair[0] != b"content-type"], b"")
    if (
        len(body) >= options.compression_minimum
        and b"content-encoding" not in names
        and _is_text(content_type)
    ):
        sent.append((b"vary", b"accept-encoding"))
        if accepts_gzip(headers.joined(b"accept-encoding")):
            body = await asyncio.to_thread(_gzip, body) if len(body) >= _IN_THREAD else _gzip(body)
            sent.append((b"content-encoding", b"gzip"))
    sent.append((b"content-length", b"%d" % len(body)))
    return Response(status, sent, body)


def error_response(error: StatusError, options: Options) -> Response:
    """The response of an error: google.rpc.Status as JSON. Raises ValueError for bad headers."""
    body = status_json(error, options)
    fixed = [("content-type", JSON)]
    seconds = retry_after(error.details)
    if seconds is not None:
        fixed.append(("retry-after", seconds))
    sent = raw_headers(fixed, error.headers.items())
    sent.append((b"content-length", b"%d" % len(body)))
    return Response(http_status(error, options), sent, body)


def http_status(error: StatusError, options: Options) -> int:
    """The HTTP status of an error: its own, else the option's, else the table's."""
    if error.http_status is not None:
        return error.http_status
    if options.http_status is not None:
        refined = options.http_status(error.code, error.details)
        if refined is not None:
            return refined
    return HTTP_STATUS.get(error.code, 500)


def _is_text(content_type: str) -> bool:
    return content_type.startswith(("application/json", "text/"))


def _gzip(body: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    return compressor.compress(body) + compressor.flush()
