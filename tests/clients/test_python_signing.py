"""What the Python client signs, held against vectors and against what arrives at a real gRPC server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from n8n_gateway_client import AsyncClient, Client, RequestSigner, RetryPolicy
from n8n_gateway_client.v1.execution_event_pb2 import ExecutionEvent
from n8n_gateway_client.v1.execution_service_pb2 import (
    ExecuteRequest,
    ExecuteResponse,
    ExecuteStreamRequest,
    GetExecutionRequest,
)

from gateway.rpc.signature import SignedRequest, sign
from tests.conftest import RunningDev

FILE = json.loads((Path(__file__).parents[1] / "data/signatures.json").read_text())
SIGNER = RequestSigner(FILE["api_key"], FILE["client_secret"])
VECTORS = {vector["name"]: vector for vector in FILE["vectors"]}
PARTS = ("http_method", "target", "content_type", "tenant", "timestamp", "nonce")


@pytest.mark.parametrize("name", VECTORS)
def test_the_gateway_signs_the_vectors(name: str) -> None:
    vector = VECTORS[name]
    message = base64.b64decode(vector["message_base64"])
    parts = {part: vector.get(part, "") for part in PARTS}
    request = SignedRequest(**parts, key_id=FILE["key_id"], message=message)
    assert request.text(vector["version"]) == base64.b64decode(vector["signed_text_base64"])
    assert sign(request, FILE["client_secret"], vector["version"]) == vector["x_signature"]


@pytest.mark.parametrize("name", [name for name, vector in VECTORS.items() if vector["version"] == 2])
def test_the_client_signs_the_vectors(name: str) -> None:
    vector = VECTORS[name]
    message = base64.b64decode(vector["message_base64"])
    headers = SIGNER.headers(**{part: vector[part] for part in PARTS}, message=message)
    assert headers["x-signature"] == vector["x_signature"]
    assert headers.get("x-tenant-id", "") == vector["tenant"]
    assert headers["x-api-key"] == FILE["api_key"]


@dataclass(frozen=True)
class Arrived:
    """One call as a server saw it."""

    method: str
    metadata: dict[str, str]
    message: bytes

    def is_signed(self) -> bool:
        lines = [
            "GW2-HMAC-SHA256",
            self.metadata["x-timestamp"],
            self.metadata["x-nonce"],
            self.metadata.get("x-tenant-id", ""),
            FILE["key_id"],
            "POST",
            self.method,
            "application/grpc",
            hashlib.sha256(self.message).hexdigest(),
        ]
        expected = hmac.digest(FILE["client_secret"].encode(), "\n".join(lines).encode(), "sha256")
        return self.metadata["x-signature"] == f"v2={expected.hex()}"


class Server(grpc.GenericRpcHandler):
    """Notes calls with their very bytes, and answers; the first `failures` of them with UNAVAILABLE."""

    def __init__(self) -> None:
        self.target = ""
        self.arrived: list[Arrived] = []
        self.failures = 0

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        def note(message: bytes, context: grpc.ServicerContext) -> None:
            metadata = {name: str(value) for name, value in context.invocation_metadata()}
            self.arrived.append(Arrived(details.method, metadata, message))
            if len(self.arrived) <= self.failures:
                context.abort(grpc.StatusCode.UNAVAILABLE, "away")

        def unary(message: bytes, context: grpc.ServicerContext) -> bytes:
            note(message, context)
            return ExecuteResponse(success=True).SerializeToString()

        def stream(message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            note(message, context)
            yield ExecutionEvent(sequence=1).SerializeToString()

        if details.method.endswith("Stream"):
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


@pytest.fixture
def server() -> Iterator[Server]:
    handler = Server()
    grpc_server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    grpc_server.add_generic_rpc_handlers((handler,))
    handler.target = f"127.0.0.1:{grpc_server.add_insecure_port('127.0.0.1:0')}"
    grpc_server.start()
    yield handler
    grpc_server.stop(None).wait()


def request_with_maps() -> Any:
    """Maps have no order: two serializations of one message can differ."""
    request = ExecuteRequest(workflow_id="w", metadata={f"k{number}": "v" for number in range(50)})
    request.data.update({"text": "Grüße", "list": [1, 2.5, None]})
    return request


OPTIONS: dict[str, Any] = {
    "api_key": FILE["api_key"],
    "client_secret": FILE["client_secret"],
    "secure": False,
    "retry": RetryPolicy(initial_delay=0.001),
}


@pytest.mark.parametrize("tenant", [None, "01a200bd-0000-7000-8000-000000000001"])
async def test_every_call_is_signed(server: Server, tenant: str | None) -> None:
    with Client(server.target, **OPTIONS, tenant=tenant) as client:
        assert client.executions.Execute(request_with_maps()).success
        assert [event.sequence for event in client.executions.ExecuteStream(ExecuteStreamRequest())] == [1]
        future: Any = client.executions.Execute.future(request_with_maps())
        assert future.result().success
    async with AsyncClient(server.target, **OPTIONS, tenant=tenant) as async_client:
        assert (await async_client.executions.Execute(request_with_maps())).success
        stream = async_client.executions.ExecuteStream(ExecuteStreamRequest(workflow_id="w"))
        assert [event.sequence async for event in stream] == [1]
    assert len(server.arrived) == 5
    assert all(call.is_signed() for call in server.arrived)
    assert {call.metadata.get("x-tenant-id") for call in server.arrived} == {tenant}
    assert len({call.metadata["x-nonce"] for call in server.arrived}) == 5


async def test_each_attempt_is_signed_anew(server: Server) -> None:
    server.failures = 2
    with Client(server.target, **OPTIONS) as client:
        client.executions.GetExecution(GetExecutionRequest(id="e"))
    server.failures = 5
    async with AsyncClient(server.target, **OPTIONS) as async_client:
        await async_client.executions.GetExecution(GetExecutionRequest(id="e"))
    assert len(server.arrived) == 6
    assert all(call.is_signed() for call in server.arrived)
    assert len({call.metadata["x-nonce"] for call in server.arrived}) == 6


def test_a_call_that_is_signed_already_stays_as_it_is(server: Server) -> None:
    with Client(server.target, **OPTIONS) as client:
        client.executions.Execute(ExecuteRequest(), metadata=[("x-signature", "own")])
    assert server.arrived[0].metadata["x-signature"] == "own"
    assert "x-nonce" not in server.arrived[0].metadata


def test_a_secret_alone_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="give both"):
        Client("127.0.0.1:1", client_secret="the-secret", secure=False)
    assert "the-secret" not in repr(RequestSigner("k", "the-secret"))


async def test_the_gateway_takes_what_is_signed(dev: RunningDev) -> None:
    ready = dev.ready
    identity = {"api_key": ready["api_key"], "client_secret": ready["client_secret"]}
    request = ExecuteRequest(workflow_id=ready["workflows"]["echo"])
    request.data.update({f"k{number}": number for number in range(50)})
    stream_request = ExecuteStreamRequest(workflow_id=ready["workflows"]["echo"])
    for named in ({}, {"tenant": ready["organization_id"]}, {"token": ready["token"]}):
        arguments: dict[str, Any] = identity | named
        with Client(ready["grpc_url"], **arguments, secure=False) as client:
            assert client.executions.Execute(request).success
        async with AsyncClient(ready["grpc_url"], **arguments, secure=False) as async_client:
            assert (await async_client.executions.Execute(request)).success
            events = [event async for event in async_client.executions.ExecuteStream(stream_request)]
            assert events[-1].HasField("completed")


def test_the_gateway_takes_what_is_signed_for_rest(dev: RunningDev) -> None:
    signer = RequestSigner(dev.ready["api_key"], dev.ready["client_secret"])
    body = json.dumps({"workflow_id": dev.ready["workflows"]["echo"], "metadata": {"n": uuid.uuid4().hex}})
    headers = signer.headers(
        http_method="POST", target="/api/v1/execute", content_type="application/json", message=body.encode()
    )
    url = f"{dev.ready['http_url']}/api/v1/execute"
    answer = httpx.post(url, content=body, headers=headers | {"content-type": "application/json"})
    assert answer.json()["success"]
    again = httpx.post(url, content=body, headers=headers | {"content-type": "application/json"})
    assert (again.status_code, again.json()["details"][0]["reason"]) == (401, "SIGNATURE_REPLAYED")
