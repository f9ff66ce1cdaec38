"""Whole HTTP responses: those of unary answers and of errors."""

from __future__ import annotations

import asyncio
import logging
import zlib
from functools import lru_cache
from typing import Final

from protobuf import Message

from gateway.transcoding.conditional import entity_tag, none_match
from gateway.transcoding.errors import Code, StatusError
from gateway.transcoding.metadata import Headers, RequestMetadata
from gateway.transcoding.negotiation import JSON
from gateway.transcoding.options import Options
from gateway.transcoding.responder import OCTETS, RawHeaders, Response, header_part, raw_headers
from gateway.transcoding.route import Route
from gateway.transcoding.status import HTTP_STATUS, retry_after, status_json

_OK: Final = 200
_NOT_MODIFIED: Final = 304
_JSON_TYPE: Final = (b"content-type", JSON.encode())
_BODILESS: Final = frozenset({204, 205, _NOT_MODIFIED})
_IN_THREAD: Final = 256 * 1024
"""Bodies of this many bytes are compressed beside the event loop."""
_GZIP: Final = 31
"""zlib's window bits for the gzip format."""

_logger = logging.getLogger("gateway.transcoding")


def unary_response(
    route: Route, answer: Message, metadata: RequestMetadata, headers: Headers, options: Options
) -> Response:
    """The response of a unary method, not compressed yet. Raises ValueError for what cannot be sent."""
    if route.raw_answer is None:
        content_type, body, sent = JSON, route.encode(answer), [_JSON_TYPE]
    else:
        content_type, body = route.raw_answer(answer)
        content_type = content_type or OCTETS
        sent = [_type_header(content_type)]
    status = metadata.http_status or _OK
    added = metadata.response_headers
    if metadata.trailers:
        added = [*added, *((f"grpc-trailer-{name}", value) for name, value in metadata.trailers)]
    if added:
        sent = raw_headers(sent, added)
    if status in _BODILESS:
        return _without_body(status, sent)
    compressible = len(body) >= options.compression_minimum and _is_text(content_type)
    if compressible:
        compressible = all(name != b"content-encoding" for name, _ in sent)
        sent.append((b"vary", b"accept-encoding"))
    if route.tagged and status == _OK:
        tag = next((value for name, value in sent if name == b"etag"), b"")
        if not tag:
            tag = entity_tag(body)
            sent.append((b"etag", tag))
        if options.cache_control and all(name != b"cache-control" for name, _ in sent):
            sent.append((b"cache-control", options.cache_control.encode()))
        wanted = headers.joined(b"if-none-match")
        if wanted and none_match(wanted, tag):
            return _without_body(_NOT_MODIFIED, sent)
    sent.append((b"content-length", b"%d" % len(body)))
    return Response(status, sent, body, compressible)


async def compressed(response: Response) -> Response:
    """The response in gzip; a large one is compressed beside the event loop."""
    body = response.body
    packed = await asyncio.to_thread(_gzip, body) if len(body) >= _IN_THREAD else _gzip(body)
    sent = [pair for pair in response.headers if pair[0] != b"content-length"]
    sent += [(b"content-encoding", b"gzip"), (b"content-length", b"%d" % len(packed))]
    return Response(response.status, sent, packed)


def error_response(error: StatusError, options: Options) -> Response:
    """The response of an error: google.rpc.Status as JSON. Raises ValueError for bad headers."""
    body = status_json(error, options)
    fixed = [_type_header(JSON)]
    seconds = retry_after(error.details)
    if seconds is not None:
        fixed.append((b"retry-after", seconds.encode()))
    sent = raw_headers(fixed, error.headers.items())
    sent.append((b"content-length", b"%d" % len(body)))
    return Response(http_status(error, options), sent, body)


def failure(error: StatusError, options: Options) -> Response:
    """The response of an error; of one that cannot be sent as it is, that of an internal error."""
    try:
        return error_response(error, options)
    except Exception:
        _logger.exception("an error of a handler cannot be sent as it is")
        plain = StatusError(Code.INTERNAL, "internal error", http_status=500)
        return error_response(plain, options)


def http_status(error: StatusError, options: Options) -> int:
    """The HTTP status of an error: its own, else the option's, else the table's."""
    if error.http_status is not None:
        return error.http_status
    if options.http_status is not None:
        refined = options.http_status(error.code, error.details)
        if refined is not None:
            return refined
    return HTTP_STATUS.get(error.code, 500)


@lru_cache(maxsize=64)
def _type_header(content_type: str) -> tuple[bytes, bytes]:
    return b"content-type", header_part(content_type)


def _without_body(status: int, headers: RawHeaders) -> Response:
    return Response(status, [pair for pair in headers if pair[0] != b"content-type"], b"")


def _is_text(content_type: str) -> bool:
    return content_type.startswith(("application/json", "text/"))


def _gzip(body: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    return compressor.compress(body) + compressor.flush()
