"""What the gRPC door tells of itself, to the clients that grpcio brings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.conftest import RunningDev

VERSIONS = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
SERVICES = [
    f"n8ngateway.v1.{name}"
    for name in (
        "ApiKeyService", "CreditService", "ExecutionService", "HealthService", "InternalService",
        "OrganizationService", "WebhookService", "WorkflowService",
    )
]  # fmt: skip
SECONDS = 20


@pytest.fixture
def channel(dev: RunningDev) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(dev.ready["grpc_url"]) as opened:
        yield opened


def ask(channel: grpc.Channel, version: str, *requests: reflection_pb2.ServerReflectionRequest) -> list[Any]:
    """The answers to questions on one stream. Both versions have the same messages on the wire."""
    stream = channel.stream_stream(
        f"/{version}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return list(stream(iter(requests), timeout=SECONDS))


def files(answer: Any) -> dict[str, FileDescriptorProto]:
    assert answer.WhichOneof("message_response") == "file_descriptor_response", answer
    parsed = map(FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
    return {file.name: file for file in parsed}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_service_is_listed(channel: grpc.Channel, version: str) -> None:
    [answer] = ask(channel, version, reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = [service.name for service in answer.list_services_response.service]
    assert sorted(listed) == sorted([*SERVICES, "grpc.health.v1.Health", *VERSIONS])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("symbol", [*SERVICES, "grpc.health.v1.Health", *VERSIONS])
def test_every_listed_service_has_its_file(channel: grpc.Channel, version: str, symbol: str) -> None:
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    [answer] = ask(channel, version, asked)
    package, _, name = symbol.rpartition(".")
    assert any(
        file.package == package and name in [service.name for service in file.service]
        for file in files(answer).values()
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_several_questions_are_answered_in_their_order(channel: grpc.Channel, version: str) -> None:
    symbols = ["n8ngateway.v1.Workflow", "n8ngateway.v1.ExecutionService.Execute"]
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
    asked += [reflection_pb2.ServerReflectionRequest(file_by_filename="buf/validate/validate.proto")]
    answers = ask(channel, version, *asked)
    assert [answer.original_request for answer in answers] == asked
    names = [
        "n8ngateway/v1/workflow.proto",
        "n8ngateway/v1/execution_service.proto",
        "buf/validate/validate.proto",
    ]
    assert all(name in files(answer) for name, answer in zip(names, answers, strict=True))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "asked",
    [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="n8ngateway.v1.Nothing"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="../../etc/passwd"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=""),
    ],
)
def test_what_is_not_there_is_not_found(
    channel: grpc.Channel, version: str, asked: reflection_pb2.ServerReflectionRequest
) -> None:
    [answer] = ask(channel, version, asked)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_a_client_that_knows_nothing_can_make_a_call(channel: grpc.Channel) -> None:
    """As grpcurl does: every file that a service needs is there, and its messages can be built."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    for name in SERVICES:
        for method in pool.FindServiceByName(name).methods:
            assert GetMessageClass(method.input_type)()
            assert GetMessageClass(method.output_type)()
    method = pool.FindMethodByName("n8ngateway.v1.HealthService.GetHealth")
    call = channel.unary_unary(
        "/n8ngateway.v1.HealthService/GetHealth",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    assert call(GetMessageClass(method.input_type)(), timeout=SECONDS).status == "healthy"


def test_comments_are_not_needed_for_the_files_to_be_those_of_the_contract(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    for proto in (Path(__file__).parents[2] / "proto").rglob("*.proto"):
        name = proto.relative_to(proto.parents[2]).as_posix()
        assert database.FindFileByName(name).package == "n8ngateway.v1"


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_health_is_serving(channel: grpc.Channel, service: str) -> None:
    answer = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=service), timeout=SECONDS
    )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_health_of_what_is_not_there_is_not_found(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="no.Such"), timeout=SECONDS
        )
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_can_be_watched(channel: grpc.Channel) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_v1alpha_works_with_the_stub_of_grpcio(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    [answer] = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=SECONDS
    )
    assert len(answer.list_services_response.service) == len(SERVICES) + 3
