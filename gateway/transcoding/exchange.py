"""One HTTP request and its response."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import quote

from protobuf import DescMethod, Message

from gateway.transcoding.body import Disconnected, content_coding, read_body
from gateway.transcoding.client_stream import request_stream
from gateway.transcoding.errors import Code, StatusError
from gateway.transcoding.json_check import shown
from gateway.transcoding.metadata import Headers, RequestMetadata, parse_timeout
from gateway.transcoding.negotiation import accepts_gzip, is_json, is_ndjson, negotiate
from gateway.transcoding.options import Options
from gateway.transcoding.outgoing import Outgoing
from gateway.transcoding.responder import Receive, Responder, Response, Scope, Send
from gateway.transcoding.response import compressed, failure, unary_response
from gateway.transcoding.route import LazyRequest, Route
from gateway.transcoding.router import Match, Router
from gateway.transcoding.status import status_json
from gateway.transcoding.stream import BrokenStream, Framing, send_stream
from gateway.transcoding.uri import UriError
from gateway.transcoding.watch import ClientWatch

Stream: TypeAlias = AsyncIterator[Message] | AsyncIterator[list[Outgoing]]
Answer: TypeAlias = Message | Stream
Handler: TypeAlias = Callable[[DescMethod, Any, RequestMetadata], Awaitable[Answer] | Stream]
"""Serves every method: called with the method, its request and the metadata.

The request is a message (with `lazy`, a LazyRequest), or an async iterator of
them for client streaming. The answer is a message, or for server streaming an
async iterator of messages, or of lists of those that are there at one time: each
list is sent in one piece, and an empty one starts the response. Raises StatusError.
"""

_logger = logging.getLogger("gateway.transcoding")


class Service:
    """What all requests of a transcoder share."""

    __slots__ = ("handler", "options", "router", "watch")

    def __init__(self, router: Router[Route], handler: Handler, options: Options) -> None:
        self.router = router
        self.handler = handler
        self.options = options
        self.watch = ClientWatch()


class Exchange:
    """Serves one request: routes, negotiates, reads, calls the handler, answers."""

    __slots__ = (
        "_frames",
        "_gone",
        "_headers",
        "_path",
        "_query",
        "_receive",
        "_responder",
        "_scope",
        "_service",
        "_task",
        "_watcher",
    )

    def __init__(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self._service = service
        self._scope = scope
        self._receive = receive
        self._headers = Headers(scope["headers"])
        self._path, self._query = _raw_path(scope), scope.get("query_string", b"")
        trailers = "extensions" in scope and _can_send_trailers(scope, self._headers)
        self._responder = Responder(send, head=scope["method"] == "HEAD", trailers=trailers)
        self._gone = False
        self._frames: Framing | None = None
        self._task: asyncio.Task[Any] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve the request; whatever goes wrong becomes an answer."""
        try:
            match = self._route()
            if isinstance(match, tuple):
                await self._answer_unrouted(match)
                return
            content_type = self._negotiate(match.target)
            timeout = parse_timeout(self._headers)
            if timeout is None:
                await self._call(match, content_type, None)
            else:
                await self._call_within(timeout, match, content_type)
        except StatusError as error:
            await self._fail(error)
        except Disconnected:
            return
        except asyncio.CancelledError:
            if not self._gone or self._task is None:
                raise
            self._task.uncancel()
        except Exception:
            _logger.exception("a request failed unexpectedly")
            await self._fail(StatusError(Code.INTERNAL, "internal error"))
        finally:
            self._service.watch.discard(self)
            if self._watcher is not None:
                self._watcher.cancel()

    async def _call_within(self, seconds: float, match: Match[Route], content_type: str) -> None:
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                await self._call(match, content_type, seconds)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise StatusError(Code.DEADLINE_EXCEEDED, "the deadline passed") from None

    def _route(self) -> Match[Route] | tuple[str, ...]:
        path, query = self._path, self._query
        limit = self._service.options.max_target
        if len(path) + len(query) > limit:
            problem = f"the request target is longer than {limit} bytes"
            raise StatusError(Code.INVALID_ARGUMENT, problem, http_status=414)
        try:
            return self._service.router.match(self._scope["method"], path)
        except UriError as error:
            raise StatusError(Code.INVALID_ARGUMENT, str(error)) from None

    async def _answer_unrouted(self, allowed: tuple[str, ...]) -> None:
        if not allowed:
            raise StatusError(Code.NOT_FOUND, "no method is served at this path")
        allow = ", ".join(allowed)
        if self._scope["method"] == "OPTIONS":
            await self._responder.respond(Response(204, [(b"allow", allow.encode())], b""))
            return
        problem = f"this path is served for {allow}"
        raise StatusError(Code.UNIMPLEMENTED, problem, headers={"allow": allow}, http_status=405)

    def _negotiate(self, route: Route) -> str:
        """The media type of the response."""
        if route.raw_answer is not None:
            return ""
        content_type = negotiate(self._headers.joined(b"accept"), route.offers)
        if content_type is None:
            problem = f"the response is available as {', '.join(route.offers)}"
            vary = {"vary": "accept"}
            raise StatusError(Code.INVALID_ARGUMENT, problem, headers=vary, http_status=406)
        return content_type

    async def _call(self, match: Match[Route], content_type: str, seconds: float | None) -> None:
        route, options, scope = match.target, self._service.options, self._scope
        path, query = self._path, self._query
        metadata = RequestMetadata(
            self._headers,
            scope["method"],
            (path + b"?" + query if query else path).decode("latin-1"),
            tuple(scope.get("client") or ()) or None,
            seconds,
        )
        request = await self._request(match)
        answer: Any = self._service.handler(route.method, request, metadata)
        if route.server_streaming:
            stream = answer if isinstance(answer, AsyncIterator) else await answer
            self._frames = route.frames(content_type)
            await send_stream(stream, self._frames, metadata, self._responder, options.heartbeat)
        else:
            response = unary_response(route, await answer, metadata, self._headers, options)
            if response.compressible and accepts_gzip(self._headers.joined(b"accept-encoding")):
                response = await compressed(response)
            await self._responder.respond(response)

    async def _request(self, match: Match[Route]) -> LazyRequest | AsyncIterator[LazyRequest]:
        route, headers, options = match.target, self._headers, self._service.options
        query = self._query
        self._task = asyncio.current_task()
        if route.client_streaming:
            self._check_content_type(route)
            content_coding(headers)
            watch = self._service.watch
            on_end = partial(watch.add, self)
            return request_stream(match, query, self._receive, headers, options.max_body, on_end)
        length = headers.raw(b"content-length")
        announced = (length is not None and length != b"0") or headers.raw(b"transfer-encoding") is not None
        body = b""
        if announced:
            self._check_content_type(route)
        if announced or not self._is_http1:
            body = await read_body(self._receive, headers, options.max_body, options.body_timeout)
        if body and not announced:
            self._check_content_type(route)
        self._service.watch.add(self)
        content_type = (headers.raw(b"content-type") or b"").decode("latin-1") if route.raw_request else ""
        return LazyRequest(route, match.variables, query, body, content_type)

    def _check_content_type(self, route: Route) -> None:
        content_type = self._headers.raw(b"content-type")
        if content_type is None or route.any_type or is_json(content_type):
            return
        if route.client_streaming and is_ndjson(content_type):
            return
        given = shown(content_type.decode("latin-1"))
        problem = f"the Content-Type must be application/json, in UTF-8, not {given}"
        raise StatusError(
            Code.INVALID_ARGUMENT, problem, headers={"accept": "application/json"}, http_status=415
        )

    def watch_client(self) -> None:
        """From now on, cancel the handler when its client goes away."""
        self._watcher = asyncio.get_running_loop().create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._responder.finished and self._task is not None:
            self._gone = True
            self._task.cancel()

    async def _fail(self, error: StatusError) -> None:
        options, responder = self._service.options, self._responder
        if responder.finished:
            return
        if responder.started:
            if self._frames is None:
                raise BrokenStream
            await responder.finish(self._frames.error(status_json(error, options)))
            if responder.trailers:
                await responder.send_trailers([])
            return
        response = failure(error, options)
        if not self._is_http1:
            response.headers[:] = [pair for pair in response.headers if pair[0] != b"connection"]
        await responder.respond(response)

    @property
    def _is_http1(self) -> bool:
        version: str = self._scope.get("http_version", "1.1")
        return version.startswith("1")


def _raw_path(scope: Scope) -> bytes:
    """The path as sent, below the root path of the application."""
    raw: bytes | None = scope.get("raw_path")
    path = quote(scope["path"], safe="/:@!$&'()*+,;=-._~").encode() if raw is None else raw
    root_path: str = scope.get("root_path", "")
    if not root_path:
        return path
    root = root_path.encode()
    return path[len(root) :] if path.startswith(root + b"/") else path


def _can_send_trailers(scope: Scope, headers: Headers) -> bool:
    if "http.response.trailers" not in scope.get("extensions", ()):
        return False
    return b"trailers" in [part.strip() for part in headers.joined(b"te").lower().split(b",")]
