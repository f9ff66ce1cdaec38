"""One HTTP port: Connect, gRPC-Web and the documentation by their paths, REST for the rest."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Collection, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware

from gateway.doors.asgi import Answering, Application, Event, RawHeaders, Receive, Scope, Send
from gateway.doors.http.docs import FIRST_SEGMENTS, documentation
from gateway.doors.http.hosts import AllowedHosts
from gateway.doors.http.protocol import BoundedHttpProtocol, Bounds, Pending
from gateway.doors.listening import listen

if TYPE_CHECKING:
    from gateway.transcoding.responder import Response
    from gateway.transcoding.unary import WholeRequest

_EXPOSED_HEADERS = (
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
    "x-request-id",
    "retry-after",
    "etag",
    "allow",
    "ratelimit",
    "ratelimit-mode",
    "ratelimit-policy",
    "content-disposition",
    "gateway-degraded",
)
_SECURITY_HEADERS = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
]

_OVER_TLS = [("strict-transport-security", "max-age=31536000")]


def http_application(
    connect: Answering,
    rest: Answering,
    *,
    services: Collection[str],
    cors_origins: Collection[str],
    allowed_hosts: Collection[str] = (),
) -> Answering:
    """Send `/package.Service/…` to the Connect door, and what is no documentation to the REST door.

    `/` itself leads to the documentation.

    Pages of `cors_origins` may call. `allowed_hosts` are the names by which it may be asked, any when
    there are none.
    """
    application: Answering = _ByPath(connect, rest, services)
    if allowed_hosts:
        application = AllowedHosts(application, allowed_hosts)
    return _CrossOrigin(application, cors_origins) if cors_origins else application


class _ByPath:
    """The door that a path belongs to."""

    def __init__(self, connect: Answering, rest: Answering, services: Collection[str]) -> None:
        self._connect = connect
        self._rest = rest
        self._doors = dict.fromkeys(services, connect) | dict.fromkeys(FIRST_SEGMENTS, documentation)
        self._services = frozenset(service.encode() for service in services)
        self._others = {b"", *(segment.encode() for segment in self._doors)}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path: str = scope["path"]
        segment = path[1:].partition("/")[0]
        door = self._doors.get(segment)
        if door is None:
            if path == "/":
                door = documentation
            else:
                door = self._connect if "." in segment and _is_rpc(scope["headers"]) else self._rest
        return door(scope, receive, send)

    def answer(self, request: WholeRequest) -> Awaitable[Response] | None:
        """The Connect door's answer, or the REST door's for a path that is no other's at first sight."""
        segment = request.raw_path[1:].partition(b"/")[0]
        if segment in self._services:
            return self._connect.answer(request)
        if segment in self._others or b"." in segment or b"%" in segment:
            return None
        return self._rest.answer(request)


class _CrossOrigin:
    """The rules of CORS, for requests that say which page they come from.

    Every answer, whoever asks, tells caches that it is not for pages of another origin.
    """

    def __init__(self, application: Answering, origins: Collection[str]) -> None:
        self._application = application
        self._with_rules = CORSMiddleware(
            application,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
            max_age=7200,
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._with_rules(scope, receive, partial(_send_varied, send))

    def answer(self, request: WholeRequest) -> Awaitable[Response] | None:
        """The application's own answer where no page asks."""
        if request.headers.raw(b"origin") is not None:
            return None
        answering = self._application.answer(request)
        return None if answering is None else _varied(answering)


async def _varied(answering: Awaitable[Response]) -> Response:
    response = await answering
    _vary(response.headers)
    return response


async def _send_varied(send: Send, message: Event) -> None:
    if message["type"] == "http.response.start":
        message["headers"] = headers = list(message["headers"])
        _vary(headers)
    await send(message)


def _vary(fields: RawHeaders) -> None:
    headers = MutableHeaders(raw=fields)
    named = [name.strip() for value in headers.getlist("vary") for name in value.split(",")]
    if "Origin" not in named:
        headers["vary"] = ", ".join([*named, "Origin"])


def _is_rpc(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request is of a protocol that the Connect door speaks, by its headers."""
    return any(
        name == b"connect-protocol-version"
        or (name == b"content-type" and value.startswith((b"application/grpc", b"application/connect+")))
        for name, value in headers
    )


class HttpServer:
    """Serves an ASGI application on one port, in the running event loop."""

    def __init__(
        self,
        application: Application,
        *,
        grace: float,
        bounds: Bounds | None = None,
        tls: ssl.SSLContext | None = None,
        shares_port: bool = False,
    ) -> None:
        bounds = bounds or Bounds()
        config = uvicorn.Config(
            application,
            http=partial(BoundedHttpProtocol, bounds, Pending()),  # type: ignore[arg-type] # what makes one will do
            headers=_SECURITY_HEADERS + (_OVER_TLS if tls else []),
            timeout_keep_alive=bounds.idle_seconds,
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # as uvicorn would, it believes any process of this machine
            timeout_graceful_shutdown=max(1, round(grace)),
        )
        config.load()
        config.ssl = tls
        self._server = _Server(config)
        self._shares_port = shares_port
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen on `host:port` (port 0 for a free one) and return the port. Raises OSError."""
        listener = listen("HTTP", host, port, shared=self._shares_port)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._serving.done():
                await self._serving
            await asyncio.sleep(0.005)
        return int(listener.getsockname()[1])

    async def died(self) -> BaseException | None:
        """Return when the server ends by itself, with what ended it if that is known."""
        if self._serving is None:
            return None
        await asyncio.wait([self._serving])
        return None if self._serving.cancelled() else self._serving.exception()

    async def stop(self) -> None:
        """Stop listening, and wait for running requests as long as the grace time lasts."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait([self._serving])


class _Server(uvicorn.Server):
    """A uvicorn server that leaves the process's signals to its owner."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
