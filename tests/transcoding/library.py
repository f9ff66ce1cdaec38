"""An implementation of the service in protos/library.proto that records what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from protobuf import DescMethod, Message

from gateway.transcoding import Code, LazyRequest, Options, RequestMetadata, StatusError, Transcoder


class Library:
    """Each method has a coroutine or async generator of its name in `answers`; the default echoes."""

    def __init__(self, serialized: bytes, options: Options | None = None, *, lazy: bool = False) -> None:
        self.requests: list[Any] = []
        self.metadata: list[RequestMetadata] = []
        self.closed = asyncio.Event()
        self.entered = asyncio.Event()
        self.answers: dict[str, Any] = {}
        self.app = Transcoder.from_descriptor_set(serialized, self.handle, options, lazy=lazy)
        methods = {binding.method.name: binding.method for binding in self.app.bindings}
        self.methods: dict[str, DescMethod] = methods

    def make(self, message: str, **fields: Any) -> Message:
        """A message of the library by its name."""
        file = self.methods["GetBook"].parent.file
        desc = next(desc for desc in file.messages if desc.name == message)
        return desc.type(**fields)

    async def handle(self, method: DescMethod, request: Any, metadata: RequestMetadata) -> Any:
        self.metadata.append(metadata)
        answer = self.answers.get(method.name)
        if answer is not None:
            result = answer(request, metadata)
            return result if isinstance(result, AsyncIterator) else await result
        if method.method_kind in ("server_streaming", "bidi_streaming"):
            return one(method.output.type())
        if isinstance(request, AsyncIterator):
            async for message in request:
                self.requests.append(message)
            return method.output.type(count=len(self.requests))
        if isinstance(request, LazyRequest):
            request = request.decode()
        self.requests.append(request)
        if isinstance(request, method.output.type):
            return request
        return method.output.type()


async def one(message: Message) -> AsyncIterator[Message]:
    yield message


async def fail(_request: Any, _metadata: RequestMetadata) -> Any:
    raise StatusError(Code.NOT_FOUND, "no such book", headers={"x-hint": "other shelf"})
