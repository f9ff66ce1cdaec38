"""The short way through the Connect door: unary calls as almost all of them come.

A POST whose message comes at once, is not compressed and names a known encoding is
served here, with one look at its headers. Everything else, and whatever is wrong with
a request's form, is left to the application behind, so each rule of a protocol has
one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from gateway.doors.connect.wires import WIRES, Wire
from gateway.rpc.call import Call
from gateway.rpc.errors import RpcError
from gateway.transcoding import Headers, Response
from gateway.transcoding.watch import ClientWatch

if TYPE_CHECKING:
    from connectrpc.errors import ConnectError

    from gateway.doors.asgi import Application, Event, Receive, Scope, Send
    from gateway.doors.connect.encodings import Encoding
    from gateway.rpc.chain import Chain
    from gateway.rpc.methods import Method
    from gateway.transcoding import WholeRequest

    Shown = Callable[[RpcError, Call], ConnectError]


class ConnectUnary:
    """An application in front of the one that knows all of the protocols.

    `shown` makes Connect's form of an error. Messages over `max_message_bytes` are
    refused by the application behind.
    """

    def __init__(
        self,
        otherwise: Application,
        methods: Iterable[Method],
        chain: Chain,
        encodings: Iterable[Encoding],
        shown: Shown,
        *,
        max_message_bytes: int,
    ) -> None:
        self._otherwise = otherwise
        self._methods = {method.path: method for method in methods if not method.server_streaming}
        self._chain = chain
        self._forms = {
            content_type: (wire, encoding)
            for encoding in encodings
            for wire in WIRES
            for content_type in wire.content_types(encoding.name)
        }
        self._shown = shown
        self._max_message_bytes = max_message_bytes
        self._clients = ClientWatch()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        plain = self._plain(scope["method"], scope["path"], Headers(scope["headers"]))
        if plain is None:
            await self._otherwise(scope, receive, send)
            return
        event = await receive()
        call = None
        if event["type"] == "http.request" and not event.get("more_body"):
            call = self._call(plain, event.get("body", b""), scope.get("client"))
        if call is None:
            await self._otherwise(scope, _Again(event, receive), send)
            return
        await self._serve(call, plain, receive, send)

    def answer(self, request: WholeRequest) -> Awaitable[Response] | None:
        """The answer to a plain call, of which a server has all; None for a request to be served as usual."""
        path = request.raw_path.decode("latin-1")
        plain = self._plain(request.http_method, path, request.headers)
        call = None if plain is None else self._call(plain, request.body, request.client)
        return None if plain is None or call is None else self._answer(call, plain)

    def _plain(self, http_method: str, path: str, headers: Headers) -> _Plain | None:
        """How to serve a request with this head; None if it is not plain."""
        method = self._methods.get(path) if http_method == "POST" else None
        if method is None or headers.has_repeated():
            return None
        metadata = headers.by_name()
        form = self._forms.get(metadata.get("content-type", ""))
        if form is None or not headers.is_ascii() or not form[0].is_plain(metadata):
            return None
        return _Plain(method, metadata, *form)

    def _call(self, plain: _Plain, sent: bytes, client: tuple[str, int] | None) -> Call | None:
        """The call that a whole body makes; None if it is none of a plain call."""
        method, metadata, wire, encoding = plain
        body = wire.message(sent)
        if body is None or len(body) > self._max_message_bytes:
            return None
        return Call(
            method=method,
            metadata=metadata,
            body=body,
            decode=partial(encoding.decode, method.input, body),
            http_method="POST",
            target=method.path,
            peer=f"{client[0]}:{client[1]}" if client else None,
            timeout=wire.timeout(metadata),
            door=wire.door,
        )

    async def _serve(self, call: Call, plain: _Plain, receive: Receive, send: Send) -> None:
        client = _Client(receive)
        self._clients.add(client)
        try:
            outcome = await self._outcome(call, plain.encoding)
        except asyncio.CancelledError:
            if client.went():
                return
            raise
        finally:
            self._clients.discard(client)
            client.stop()
        status, headers, body, _ = await _response(call, plain, outcome)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, call: Call, plain: _Plain) -> Response:
        return await _response(call, plain, await self._outcome(call, plain.encoding))

    async def _outcome(self, call: Call, encoding: Encoding) -> bytes | ConnectError:
        try:
            return await self._chain.unary(call, encoding.encode)
        except RpcError as error:
            return self._shown(error, call)


class _Plain(NamedTuple):
    """What the head of a plain request says."""

    method: Method
    metadata: Mapping[str, str]
    wire: Wire
    encoding: Encoding


async def _response(call: Call, plain: _Plain, outcome: bytes | ConnectError) -> Response:
    status, headers, body = await plain.wire.answer(call, plain.encoding.name, outcome)
    headers.append((b"content-length", b"%d" % len(body)))
    return Response(status, headers, body)


class _Again:
    """What has been received already, and then the rest."""

    def __init__(self, event: Event, receive: Receive) -> None:
        self._event: Event | None = event
        self._receive = receive

    async def __call__(self) -> Event:
        event, self._event = self._event, None
        return await self._receive() if event is None else event


class _Client:
    """Ends the call of a client that goes away."""

    __slots__ = ("_gone", "_receive", "_task", "_watcher")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self._gone = False

    def watch_client(self) -> None:
        """From now on, wait for the client to go."""
        self._watcher = asyncio.get_running_loop().create_task(self._wait())

    def stop(self) -> None:
        """The call is over."""
        if self._watcher is not None:
            self._watcher.cancel()

    def went(self) -> bool:
        """Whether that is why the call was cancelled; then it counts as done."""
        if self._gone and self._task is not None:
            self._task.uncancel()
        return self._gone

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self._gone = True
            self._task.cancel()
