"""Calls as a door would make them, for tests of what stands behind the doors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from protobuf import Message

from gateway.gen.n8ngateway.v1 import execution_service_pb
from gateway.rpc.call import Call
from gateway.rpc.chain import Chain
from gateway.rpc.decode import decode_binary
from gateway.rpc.methods import Method, MethodTable

EXECUTIONS = execution_service_pb.desc().services[0]


def method(name: str, service: object = None) -> Method:
    """A method of ExecutionService, given its meaning by `service`."""
    return MethodTable([(EXECUTIONS, service)])[f"/{EXECUTIONS.type_name}/{name}"]


def call_of(
    called: Method | None = None,
    request: Message | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    **fields: Any,
) -> Call:
    """A call of a method (Execute if none is given), with the request as binary protobuf."""
    called = called or method("Execute")
    body = (request or called.input()).to_binary()
    return Call(
        method=called,
        metadata=dict(metadata or {}),
        body=body,
        decode=lambda: decode_binary(called.input, body),
        http_method="POST",
        target=called.path,
        **fields,
    )


def same(message: Message) -> Message:
    """Leave a message unencoded."""
    return message


async def answers(chain: Chain, call: Call, encode: Callable[[Message], Any] = same) -> list[Any]:
    """All that the chain answers to a call, of whichever kind."""
    if call.method.server_streaming:
        return [message async for batch in chain.stream(call, encode) for message in batch]
    return [await chain.unary(call, encode)]
