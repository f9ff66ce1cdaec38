"""The short way through the Connect door: unary calls as almost all of them come.

A POST whose message comes at once, is not compressed and names a known encoding is
served here, with one look at its headers. Everything else, and whatever is wrong with
a request's form, is left to the application behind, so each rule of a protocol has
one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from gateway.doors.connect_wires import WIRES, Wire
from gateway.rpc.call import Call
from gateway.rpc.errors import RpcError
from gateway.transcoding.watch import ClientWatch

if TYPE_CHECKING:
    from connectrpc.errors import ConnectError

    from gateway.doors.asgi import Application, Event, RawHeaders, Receive, Scope, Send
    from gateway.doors.connect import Encoding
    from gateway.rpc.chain import Chain
    from gateway.rpc.methods import Method

    Shown = Callable[[RpcError, Call], ConnectError]


class ConnectUnary:
    """An ASGI application in front of the one that knows all of the protocols.

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
        method = self._methods.get(scope["path"]) if scope["method"] == "POST" else None
        metadata = None if method is None else _metadata(scope["headers"])
        form = None if metadata is None else self._forms.get(metadata.get("content-type", ""))
        if method is None or metadata is None or form is None or not form[0].is_plain(metadata):
            await self._otherwise(scope, receive, send)
            return
        wire, encoding = form
        event = await receive()
        body = None
        if event["type"] == "http.request" and not event.get("more_body"):
            body = wire.message(event.get("body", b""))
        if body is None or len(body) > self._max_message_bytes:
            await self._otherwise(scope, _Again(event, receive), send)
            return
        client = scope.get("client")
        call = Call(
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
        await self._serve(call, wire, encoding, receive, send)

    async def _serve(self, call: Call, wire: Wire, encoding: Encoding, receive: Receive, send: Send) -> None:
        client = _Client(receive)
        self._clients.add(client)
        outcome: bytes | ConnectError
        try:
            outcome = await self._chain.unary(call, encoding.encode)
        except RpcError as error:
            outcome = self._shown(error, call)
        except asyncio.CancelledError:
            if client.went():
                return
            raise
        finally:
            self._clients.discard(client)
            client.stop()
        status, headers, body = await wire.answer(call, encoding.name, outcome)
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _metadata(headers: RawHeaders) -> dict[str, str] | None:
    """The headers as the chain reads them; None when one comes twice or is not ASCII."""
    try:
        pairs = [(name.decode("ascii"), value.decode("ascii")) for name, value in headers]
    except UnicodeDecodeError:
        return None
    metadata = dict(pairs)
    return metadata if len(metadata) == len(pairs) else None


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
