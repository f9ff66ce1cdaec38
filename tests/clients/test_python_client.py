"""The client against a real gRPC server that answers with what it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from n8n_gateway_client import AsyncClient, Client, FieldViolation, error_info
from n8n_gateway_client.v1.execution_event_pb2 import ExecutionChunk, ExecutionEvent
from n8n_gateway_client.v1.execution_service_pb2 import ExecuteRequest, ExecuteResponse, ExecuteStreamRequest
from n8n_gateway_client.v1.execution_service_pb2_grpc import (
    ExecutionServiceServicer,
    add_ExecutionServiceServicer_to_server,
)

IDENTITY = ("authorization", "x-api-key", "x-tenant-id")


def identity_of(context: grpc.ServicerContext) -> dict[str, str]:
    metadata = context.invocation_metadata()
    return {name: str(value) for name, value in metadata if name in IDENTITY}


class Executions(ExecutionServiceServicer):
    """Answers with the identity that came, or fails as the workflow's id says."""

    def Execute(  # noqa: N802 (the name of the RPC)
        self, request: ExecuteRequest, context: grpc.ServicerContext
    ) -> ExecuteResponse:
        if request.workflow_id:
            context.set_trailing_metadata((("grpc-status-details-bin", FAILURES[request.workflow_id]),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "No credits are left.")
        response = ExecuteResponse(success=True)
        response.data.struct_value.update(identity_of(context))
        return response

    def ExecuteStream(  # noqa: N802 (the name of the RPC)
        self, request: ExecuteStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[ExecutionEvent]:
        assert not request.workflow_id
        for sequence, (name, value) in enumerate(sorted(identity_of(context).items()), 1):
            chunk = ExecutionChunk(text=f"{name}: {value}")
            yield ExecutionEvent(sequence=sequence, chunk=chunk)


def packed(detail: Message) -> any_pb2.Any:
    result = any_pb2.Any()
    result.Pack(detail)
    return result


FAILURES = {
    "details": status_pb2.Status(
        code=code_pb2.FAILED_PRECONDITION,
        message="No credits are left.",
        details=[
            packed(
                error_details_pb2.ErrorInfo(
                    reason="INSUFFICIENT_CREDITS", domain="n8n-gateway", metadata={"price": "3"}
                )
            ),
            packed(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(field="credits", description="is too low")
                    ]
                )
            ),
            packed(
                error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000))
            ),
            packed(error_details_pb2.RequestInfo(request_id="request-1")),
        ],
    ).SerializeToString(),
    "garbage": b"\xff\xff\xff",
    "garbage in a detail": status_pb2.Status(
        details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")]
    ).SerializeToString(),
}


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    add_ExecutionServiceServicer_to_server(Executions(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def sent(response: ExecuteResponse) -> dict[str, str]:
    return {name: value.string_value for name, value in response.data.struct_value.fields.items()}


REQUEST = ExecuteRequest()
STREAM_REQUEST = ExecuteStreamRequest()


def test_identity_is_sent_with_unary_and_streaming_calls(target: str) -> None:
    with Client(target, token="t0", api_key="k0", tenant="o0", secure=False) as client:
        assert sent(client.executions.Execute(REQUEST)) == {
            "authorization": "Bearer t0",
            "x-api-key": "k0",
            "x-tenant-id": "o0",
        }
        events = list(client.executions.ExecuteStream(STREAM_REQUEST))
    assert [event.chunk.text for event in events] == [
        "authorization: Bearer t0",
        "x-api-key: k0",
        "x-tenant-id: o0",
    ]


def test_no_identity_sends_none(target: str) -> None:
    with Client(target, secure=False) as client:
        assert sent(client.executions.Execute(REQUEST)) == {}


def test_token_provider_is_asked_for_each_call(target: str) -> None:
    tokens = iter(["t1", "t2"])
    with Client(target, token_provider=lambda: next(tokens), secure=False) as client:
        assert sent(client.executions.Execute(REQUEST)) == {"authorization": "Bearer t1"}
        assert [e.chunk.text for e in client.executions.ExecuteStream(STREAM_REQUEST)] == [
            "authorization: Bearer t2"
        ]


def test_metadata_of_a_call_goes_first(target: str) -> None:
    def never() -> str:
        raise AssertionError("the token was asked for")

    with Client(target, token_provider=never, tenant="o0", secure=False) as client:
        own = (("authorization", "Bearer own"), ("x-tenant-id", "own"))
        assert sent(client.executions.Execute(REQUEST, metadata=own)) == {
            "authorization": "Bearer own",
            "x-tenant-id": "own",
        }


def test_what_the_provider_raises_the_call_raises(target: str) -> None:
    def provider() -> str:
        raise LookupError("signed out")

    with Client(target, token_provider=provider, secure=False) as client, pytest.raises(LookupError):
        client.executions.Execute(REQUEST)


async def test_asyncio_with_a_provider_of_either_kind(target: str) -> None:
    async def provider() -> str:
        await asyncio.sleep(0)
        return "later"

    async with AsyncClient(target, token_provider=provider, tenant="o0", secure=False) as client:
        assert sent(await client.executions.Execute(REQUEST)) == {
            "authorization": "Bearer later",
            "x-tenant-id": "o0",
        }
        events = client.executions.ExecuteStream(STREAM_REQUEST)
        assert [event.chunk.text async for event in events] == [
            "authorization: Bearer later",
            "x-tenant-id: o0",
        ]
    async with AsyncClient(target, token_provider=lambda: "now", secure=False) as client:
        assert sent(await client.executions.Execute(REQUEST)) == {"authorization": "Bearer now"}


async def test_error_info_reads_all_details(target: str) -> None:
    request = ExecuteRequest(workflow_id="details")
    with Client(target, secure=False) as client, pytest.raises(grpc.RpcError) as raised:
        client.executions.Execute(request)
    async with AsyncClient(target, secure=False) as async_client:
        with pytest.raises(grpc.RpcError) as raised_async:
            await async_client.executions.Execute(request)
    for error in (raised.value, raised_async.value):
        info = error_info(error)
        assert info.code is grpc.StatusCode.FAILED_PRECONDITION
        assert (info.message, info.reason, info.domain) == (
            "No credits are left.",
            "INSUFFICIENT_CREDITS",
            "n8n-gateway",
        )
        assert info.metadata == {"price": "3"}
        assert info.field_violations == (FieldViolation("credits", "is too low"),)
        assert (info.retry_after, info.request_id) == (1.5, "request-1")
        assert (
            str(info)
            == "FAILED_PRECONDITION (INSUFFICIENT_CREDITS): No credits are left.\n  credits: is too low"
        )


@pytest.mark.parametrize("kind", ["garbage", "garbage in a detail"])
def test_error_info_survives_details_that_are_none(target: str, kind: str) -> None:
    request = ExecuteRequest(workflow_id=kind)
    with Client(target, secure=False) as client, pytest.raises(grpc.RpcError) as raised:
        client.executions.Execute(request)
    info = error_info(raised.value)
    assert (info.code, info.reason, info.retry_after) == (grpc.StatusCode.FAILED_PRECONDITION, "", None)


def test_error_info_of_a_refused_connection() -> None:
    with Client("127.0.0.1:1", secure=False) as client, pytest.raises(grpc.RpcError) as raised:
        client.executions.Execute(REQUEST)
    info = error_info(raised.value)
    assert (info.code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "")


@pytest.mark.parametrize(
    "arguments",
    [{"token": "t", "token_provider": lambda: "t"}, {"secure": False, "root_certificates": b"pem"}],
    ids=["two tokens", "certificates without TLS"],
)
def test_arguments_that_exclude_each_other(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not both|of no use"):
        Client("127.0.0.1:1", **arguments)


@pytest.fixture(scope="module")
def certificate() -> tuple[bytes, bytes]:
    """Return a certificate for 127.0.0.1 that signs itself, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return signed.public_bytes(pem), private


async def test_tls_with_a_private_authority(certificate: tuple[bytes, bytes]) -> None:
    chain, key = certificate
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    add_ExecutionServiceServicer_to_server(Executions(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    server.start()
    try:
        with Client(f"127.0.0.1:{port}", token="t", root_certificates=chain) as client:
            assert sent(client.executions.Execute(REQUEST)) == {"authorization": "Bearer t"}
        async with AsyncClient(f"127.0.0.1:{port}", token="t", root_certificates=chain) as async_client:
            assert sent(await async_client.executions.Execute(REQUEST)) == {"authorization": "Bearer t"}
        with Client(f"127.0.0.1:{port}", token="t") as stranger, pytest.raises(grpc.RpcError) as raised:
            stranger.executions.Execute(REQUEST)
        assert error_info(raised.value).code is grpc.StatusCode.UNAVAILABLE
    finally:
        server.stop(None).wait()


def test_no_secret_in_repr(target: str) -> None:
    with Client(target, token="the-secret", api_key="the-secret", secure=False) as client:
        shown = [
            repr(value) for value in (client, client.channel, vars(client), *vars(client.channel).values())
        ]
    assert "the-secret" not in "".join(shown)
