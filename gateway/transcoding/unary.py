"""The short way: unary calls as almost all of them come.

A request that is there as a whole, that has nothing unusual in its head and that takes
JSON is answered without an event being sent or waited for. Everything else, and
whatever is wrong with a request's form, is left to the exchange over ASGI, so that each
rule has one place.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.transcoding.errors import Code, StatusError
from gateway.transcoding.metadata import Headers, RequestMetadata
from gateway.transcoding.negotiation import accepts_gzip, is_json, negotiate
from gateway.transcoding.response import compressed, failure, unary_response
from gateway.transcoding.route import LazyRequest, Route
from gateway.transcoding.router import Match
from gateway.transcoding.uri import UriError

if TYPE_CHECKING:
    from gateway.transcoding.exchange import Service
    from gateway.transcoding.responder import Response

_UNUSUAL: Final = frozenset(
    {b"content-encoding", b"transfer-encoding", b"grpc-timeout", b"connect-timeout-ms"},
)

_logger = logging.getLogger("gateway.transcoding")


class WholeRequest(NamedTuple):
    """An HTTP/1.1 request that is there, head and body; the parts of its target as ASGI has them.

    Requests of one connection whose heads are the same share their `headers`.
    """

    http_method: str
    raw_path: bytes
    query: bytes
    headers: Headers
    client: tuple[str, int] | None
    body: bytes


def answer(service: Service, request: WholeRequest) -> Awaitable[Response] | None:
    """Call the handler for a plain request, and give its response; None for one that is not plain."""
    match = _plain_match(service, request)
    return None if match is None else _answer(service, request, match)


def _plain_match(service: Service, request: WholeRequest) -> Match[Route] | None:
    http_method, raw_path, query, headers, _, body = request
    options = service.options
    if (
        http_method == "HEAD"
        or len(raw_path) + len(query) > options.max_target
        or len(body) > options.max_body
        or not headers.has_none(_UNUSUAL)
    ):
        return None
    try:
        match = service.router.match(http_method, raw_path)
    except UriError:
        return None
    if isinstance(match, tuple):
        return None
    route = match.target
    content_type = headers.raw(b"content-type")
    is_plain = (
        not route.client_streaming
        and not route.server_streaming
        and (content_type is None or route.any_type or is_json(content_type))
        and (route.raw_answer is not None or negotiate(headers.joined(b"accept"), route.offers) is not None)
    )
    return match if is_plain else None


async def _answer(service: Service, request: WholeRequest, match: Match[Route]) -> Response:
    http_method, raw_path, query, headers, client, body = request
    route, options = match.target, service.options
    target = (raw_path + b"?" + query if query else raw_path).decode("latin-1")
    metadata = RequestMetadata(headers, http_method, target, client)
    content_type = (headers.raw(b"content-type") or b"").decode("latin-1") if route.raw_request else ""
    try:
        lazy = LazyRequest(route, match.variables, query, body, content_type)
        message: Any = await service.handler(route.method, lazy, metadata)  # type: ignore[misc] # it is unary
        response = unary_response(route, message, metadata, headers, options)
        if response.compressible and accepts_gzip(headers.joined(b"accept-encoding")):
            response = await compressed(response)
    except StatusError as error:
        return failure(error, options)
    except Exception:
        _logger.exception("a request failed unexpectedly")
        return failure(StatusError(Code.INTERNAL, "internal error"), options)
    return response
