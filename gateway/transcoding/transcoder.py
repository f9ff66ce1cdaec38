"""The ASGI application: HTTP requests in, calls of one handler, HTTP responses out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from protobuf import DescMethod, DescService, Message
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

from gateway.transcoding.binding import Binding, service_bindings
from gateway.transcoding.errors import TranscodingError
from gateway.transcoding.exchange import Answer, Exchange, Handler, Service, Stream
from gateway.transcoding.gen.google.api.http_pb import HttpRule
from gateway.transcoding.json_check import MessageCheck
from gateway.transcoding.metadata import RequestMetadata
from gateway.transcoding.options import Options
from gateway.transcoding.responder import Receive, Response, Scope, Send
from gateway.transcoding.route import LazyRequest, Route
from gateway.transcoding.router import Router
from gateway.transcoding.unary import WholeRequest, answer


class Transcoder:
    """REST and JSON for the methods of protobuf services, from their google.api.http rules.

    `source` holds bindings or service descriptors; `rules` override the
    annotations of the methods that they select. With `lazy` the handler gets a
    LazyRequest and decodes it itself, so that it can look at the caller first.

    Raises BindingError, TemplateError and RouteConflict when it is made. After
    that every request has an answer, and each error is a google.rpc.Status.
    """

    def __init__(
        self,
        source: Iterable[Binding | DescService],
        handler: Handler,
        options: Options | None = None,
        *,
        rules: Sequence[HttpRule] = (),
        lazy: bool = False,
    ) -> None:
        self.options = options or Options()
        self.bindings = _bindings(source, rules, self.options)
        router: Router[Route] = Router(on_conflict=self.options.on_conflict)
        checks: dict[str, MessageCheck] = {}
        for binding in self.bindings:
            router.add(binding.http_method, binding.template, Route(binding, self.options, checks))
        self._service = Service(router, handler if lazy else _decoding(handler), self.options)

    @classmethod
    def from_descriptor_set(
        cls,
        serialized: bytes,
        handler: Handler,
        options: Options | None = None,
        *,
        rules: Sequence[HttpRule] = (),
        lazy: bool = False,
    ) -> Transcoder:
        """A transcoder for every service of a serialized FileDescriptorSet.

        The set must hold the imports (``protoc --include_imports``). Its own
        types resolve google.protobuf.Any when the options name no registry.
        Raises TranscodingError for any other bytes, and as the class does.
        """
        try:
            registry = FileDescriptorSet.from_binary(serialized).to_registry()
        except ValueError as error:
            message = f"not a FileDescriptorSet with its imports: {error}"
            raise TranscodingError(message) from error
        services = [element for element in registry if isinstance(element, DescService)]
        options = options or Options()
        if options.registry is None:
            options = replace(options, registry=registry)
        return cls(services, handler, options, rules=rules, lazy=lazy)

    def answer(self, request: WholeRequest) -> Awaitable[Response] | None:
        """What a server may ask for first that has all of an HTTP/1.1 request: it spares both the events.

        None for a request that is to be served over ASGI, where nothing has been done for it yet.
        """
        return answer(self._service, request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection scope."""
        kind = scope["type"]
        if kind == "http":
            await Exchange(self._service, scope, receive, send).run()
        elif kind == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})


def _bindings(
    source: Iterable[Binding | DescService], rules: Sequence[HttpRule], options: Options
) -> tuple[Binding, ...]:
    ready: list[Binding] = []
    services: list[DescService] = []
    for element in source:
        if isinstance(element, Binding):
            ready.append(element)
        else:
            services.append(element)
    compiled = service_bindings(services, rules=rules, default_bindings=options.default_bindings)
    return (*ready, *compiled)


def _decoding(handler: Handler) -> Handler:
    """A handler of lazy requests that decodes them for a handler of messages."""

    def decode_and_call(
        method: DescMethod, request: LazyRequest | AsyncIterator[LazyRequest], metadata: RequestMetadata
    ) -> Awaitable[Answer] | Stream:
        if isinstance(request, LazyRequest):
            return handler(method, request.decode(), metadata)
        return handler(method, _decoded(request), metadata)

    return decode_and_call


async def _decoded(requests: AsyncIterator[LazyRequest]) -> AsyncIterator[Message]:
    async for request in requests:
        yield request.decode()


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message: Any = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
