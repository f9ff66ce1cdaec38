from __future__ import annotations

import pytest
from protobuf import Message
from protobuf.wkt import Duration

from gateway.gen.n8ngateway.v1.health_service_pb import GetReadinessResponse
from gateway.rpc.errors import BY_CODE, InvalidArgument, NotFound, RpcError, Unavailable
from gateway.rpc.status import DETAIL_TYPES, details_of, status_of
from gateway.transcoding.gen.google.rpc.error_details_pb import BadRequest, ErrorInfo, RequestInfo, RetryInfo


def test_a_bare_error_tells_its_reason_and_domain() -> None:
    assert details_of(NotFound("gone"), "") == [ErrorInfo(reason="NOT_FOUND", domain="n8n-gateway")]


def test_all_that_an_error_knows_goes_along() -> None:
    extra = GetReadinessResponse(status="unavailable")
    error = Unavailable(
        "later",
        reason="NOT_READY",
        metadata={"part": "database"},
        fields={"a.b": "is wrong", 'm["k"]': "too"},
        retry_after=1.25,
        details=[extra],
    )
    expected: list[Message] = [
        ErrorInfo(reason="NOT_READY", domain="n8n-gateway", metadata={"part": "database"}),
        BadRequest(
            field_violations=[
                BadRequest.FieldViolation(field="a.b", description="is wrong"),
                BadRequest.FieldViolation(field='m["k"]', description="too"),
            ]
        ),
        RetryInfo(retry_delay=Duration(seconds=1, nanos=250_000_000)),
        extra,
        RequestInfo(request_id="r-1"),
    ]
    assert details_of(error, "r-1") == expected


def test_no_delay_is_a_delay_too() -> None:
    details = details_of(Unavailable("now", retry_after=0), "")
    assert details[1:] == [RetryInfo(retry_delay=Duration())]


@pytest.mark.parametrize("error", BY_CODE.values())
def test_the_status_reads_back_from_the_wire(error: type[RpcError]) -> None:
    status = status_of(error("Wörds ☃", metadata={"k": "v"}), "r-1")
    again = type(status).from_binary(status.to_binary())
    assert (again.code, again.message) == (error.code, "Wörds ☃")
    assert again.details[0].unpack(ErrorInfo) == ErrorInfo(
        reason=error.code.name, domain="n8n-gateway", metadata={"k": "v"}
    )
    assert again.details[1].unpack(RequestInfo) == RequestInfo(request_id="r-1")


def test_details_print_as_json() -> None:
    error = InvalidArgument("m", fields={"f": "wrong"}, retry_after=2)
    text = status_of(error, "r").to_json(registry=DETAIL_TYPES, use_proto_field_name=True)
    for part in ("google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo", '"2s"', '"wrong"'):
        assert part in text
