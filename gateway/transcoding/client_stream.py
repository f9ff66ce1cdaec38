"""A stream of request messages out of one HTTP body."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from gateway.transcoding.body import body_chunks
from gateway.transcoding.elements import LineSplitter, Splitter, ValueSplitter
from gateway.transcoding.metadata import Headers
from gateway.transcoding.negotiation import is_ndjson
from gateway.transcoding.responder import Receive
from gateway.transcoding.route import LazyRequest, Route
from gateway.transcoding.router import Match


async def request_stream(
    match: Match[Route],
    query: bytes,
    receive: Receive,
    headers: Headers,
    limit: int,
    on_end: Callable[[], None],
) -> AsyncIterator[LazyRequest]:
    """The requests of a client-streaming call, one by one as their bytes come.

    Path and query are bound into each of them. The pieces of a
    google.api.HttpBody become one request each, of which only the first says
    the content type; an empty body is one request. `limit` is in bytes and
    holds for each message; `on_end` is called when the body has been read.
    """
    route, variables = match.target, match.variables
    content_type = headers.raw(b"content-type") or b""
    first_type = content_type.decode("latin-1")
    chunks = body_chunks(receive, headers)
    if route.raw_request:
        sent = False
        async for chunk in chunks:
            yield LazyRequest(route, variables, query, chunk, "" if sent else first_type)
            sent = True
        on_end()
        if not sent:
            yield LazyRequest(route, variables, query, b"", first_type)
        return
    splitter: Splitter = LineSplitter(limit) if is_ndjson(content_type) else ValueSplitter(limit)
    async for chunk in chunks:
        for value in splitter.feed(chunk):
            yield LazyRequest(route, variables, query, value, first_type)
    on_end()
    for value in splitter.finish():
        yield LazyRequest(route, variables, query, value, first_type)
