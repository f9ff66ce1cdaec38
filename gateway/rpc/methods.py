"""The table of methods that every door serves, built from service descriptors."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.rpc.errors import Unimplemented

if TYPE_CHECKING:
    from protobuf import DescMethod, DescService, Message

    from gateway.rpc.call import Call
    from gateway.transcoding import Outgoing

    Unary = Callable[[Any, Call], Awaitable[Message]]
    Stream = Callable[[Any, Call], AsyncIterator[Sequence[Outgoing]]]

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: its descriptor, and the function that gives it its meaning.

    `implementation` takes the decoded request and the call. It answers with a
    message, or for a server stream with an async iterator of batches: messages that are there at one time. An
    empty one says that the call was taken while there is none yet, so that its caller hears so.
    """

    descriptor: DescMethod
    implementation: Callable[[Any, Call], Any]
    path: str
    service: str
    name: str
    input: type[Message]
    output: type[Message]
    server_streaming: bool


class MethodTable:
    """All methods by their path, `/package.Service/Method`.

    A service is any object with one coroutine (async generator for a server
    stream) per RPC, named in snake_case. An RPC without one answers UNIMPLEMENTED.
    Methods whose callers stream are left out: no door serves them.
    """

    def __init__(self, services: Iterable[tuple[DescService, object]]) -> None:
        self.services: list[DescService] = []
        self._methods: dict[str, Method] = {}
        self._by_descriptor: dict[DescMethod, Method] = {}
        for descriptor, implementation in services:
            self.services.append(descriptor)
            for method in descriptor.methods:
                if method.method_kind not in ("unary", "server_streaming"):
                    continue
                bound = _bind(method, implementation)
                self._methods[bound.path] = self._by_descriptor[method] = bound

    def __iter__(self) -> Iterator[Method]:
        return iter(self._methods.values())

    def __getitem__(self, path: str) -> Method:
        return self._methods[path]

    def of(self, descriptor: DescMethod) -> Method:
        """The table's entry for a descriptor."""
        return self._by_descriptor[descriptor]


def path_of(descriptor: DescMethod) -> str:
    """`/package.Service/Method`."""
    return f"/{descriptor.parent.type_name}/{descriptor.name}"


def _bind(descriptor: DescMethod, service: object) -> Method:
    server_streaming = descriptor.method_kind == "server_streaming"
    implementation = getattr(service, _WORD_START.sub("_", descriptor.name).lower(), None)
    if implementation is None:
        implementation = _unimplemented_stream if server_streaming else _unimplemented
    return Method(
        descriptor=descriptor,
        implementation=implementation,
        path=path_of(descriptor),
        service=descriptor.parent.type_name,
        name=descriptor.name,
        input=descriptor.input.type,
        output=descriptor.output.type,
        server_streaming=server_streaming,
    )


async def _unimplemented(_request: Message, call: Call) -> Message:
    msg = (
        f"UNIMPLEMENTED: {call.method.service}.{call.method.name} is part of the contract and not served yet."
    )
    raise Unimplemented(msg)


async def _unimplemented_stream(request: Message, call: Call) -> AsyncIterator[list[Message]]:
    yield [await _unimplemented(request, call)]
