"""The service that the conformance suite calls: it answers as each request says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from protobuf import DescService, Message, Registry

from gateway.rpc.call import Call
from gateway.rpc.errors import BY_CODE, Code, RpcError

PACKAGE = "connectrpc.conformance.v1"


class ConformanceService:
    """ConformanceService of the suite, without the RPCs that stream requests.

    `Unimplemented` is left out on purpose, as the suite wants it.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def descriptor(self) -> DescService:
        """The service's descriptor."""
        descriptor = self._registry.service(f"{PACKAGE}.ConformanceService")
        assert descriptor is not None
        return descriptor

    async def unary(self, request: Any, call: Call) -> Message:
        return await self._answer(request, call, "UnaryResponse")

    async def idempotent_unary(self, request: Any, call: Call) -> Message:
        return await self._answer(request, call, "IdempotentUnaryResponse")

    async def server_stream(self, request: Any, call: Call) -> AsyncIterator[list[Message]]:
        definition = request.response_definition
        if definition is None:
            return
        _set_metadata(definition, call)
        info: Message | None = self._request_info(request, call)
        for data in definition.response_data:
            await _wait(definition)
            payload = self._make("ConformancePayload", data=data, request_info=info)
            yield [self._make("ServerStreamResponse", payload=payload)]
            info = None
        if definition.error is not None:
            raise self._error(definition.error, () if info is None else (info,))

    async def _answer(self, request: Any, call: Call, response: str) -> Message:
        definition = request.response_definition
        info = self._request_info(request, call)
        if definition is None:
            return self._make(response, payload=self._make("ConformancePayload", request_info=info))
        _set_metadata(definition, call)
        await _wait(definition)
        outcome = definition.response
        if outcome is not None and outcome.field == "error":
            raise self._error(outcome.value, (info,))
        data = b"" if outcome is None else outcome.value
        return self._make(response, payload=self._make("ConformancePayload", data=data, request_info=info))

    def _request_info(self, request: Message, call: Call) -> Message:
        get = {"connect_get_info": self._make("ConformancePayload.ConnectGetInfo")}
        headers = [self._make("Header", name=name, value=[value]) for name, value in call.metadata.items()]
        return self._make(
            "ConformancePayload.RequestInfo",
            request_headers=headers,
            timeout_ms=_timeout_ms(call),
            requests=[self._pack(request)],
            **(get if call.http_method == "GET" else {}),
        )

    def _error(self, error: Any, details: Iterable[Message]) -> RpcError:
        given = [self._message(detail.type_url).from_binary(detail.value) for detail in error.details]
        return BY_CODE[Code(error.code)](error.message or "", details=[*given, *details])

    def _pack(self, message: Message) -> Message:
        url = f"type.googleapis.com/{message.desc().type_name}"
        return self._message("google.protobuf.Any")(type_url=url, value=message.to_binary())

    def _make(self, name: str, /, **fields: Any) -> Message:
        return self._message(f"{PACKAGE}.{name}")(**fields)

    def _message(self, name: str) -> type[Message]:
        descriptor = self._registry.message(name.rpartition("/")[2])
        assert descriptor is not None
        return descriptor.type


def _set_metadata(definition: Any, call: Call) -> None:
    for headers, metadata in (
        (definition.response_headers, call.leading_metadata),
        (definition.response_trailers, call.trailing_metadata),
    ):
        metadata += [(header.name.lower(), value) for header in headers for value in header.value]


async def _wait(definition: Any) -> None:
    await asyncio.sleep(definition.response_delay_ms / 1000)


def _timeout_ms(call: Call) -> int | None:
    return None if call.timeout is None else int(call.timeout * 1000)
