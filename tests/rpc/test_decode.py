from __future__ import annotations

import pytest
from protobuf import Message
from protobuf.wkt import Struct

from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest
from gateway.gen.n8ngateway.v1.internal_service_pb import LogErrorRequest, ReportProgressRequest
from gateway.rpc.decode import decode_binary
from gateway.rpc.errors import InvalidArgument


def test_what_was_encoded_comes_back() -> None:
    request = ExecuteRequest(workflow_id="w", metadata={"k": "v"})
    assert decode_binary(ExecuteRequest, request.to_binary()) == request
    assert decode_binary(ExecuteRequest, b"") == ExecuteRequest()


def test_unknown_fields_are_kept() -> None:
    body = b"\xf8\xff\xff\xff\x0f\x01"
    assert decode_binary(ExecuteRequest, body).to_binary() == body


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a",
        b"\x0a\xff",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x00",
        b"\x0a\x02\xff\xfe",
        b"\x0f",
        b'{"workflow_id": "secret"}',
        b"\x0b" * 100_000,
        bytes(range(255, 0, -1)),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_bytes_that_are_no_message_are_refused_without_showing_them(body: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_binary(ExecuteRequest, body)
    assert caught.value.reason == "MALFORMED_MESSAGE"
    assert caught.value.message.startswith("The message is no n8ngateway.v1.ExecuteRequest: ")
    assert "secret" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def nested(levels: int, opening: str = '{"a":', closing: str = "}") -> str:
    """JSON with so many objects or arrays in one another."""
    return opening * levels + "1" + closing * levels


@pytest.mark.parametrize("levels", [1, 29, 30])
def test_json_of_30_levels_is_read(levels: int) -> None:
    request = ExecuteRequest(data=Struct.from_json(nested(levels)))
    assert decode_binary(ExecuteRequest, request.to_binary()) == request
    arrays = ReportProgressRequest.from_json(f'{{"json": {nested(levels, "[", "]")}}}')
    assert decode_binary(ReportProgressRequest, arrays.to_binary()) == arrays


@pytest.mark.parametrize("levels", [31, 33, 34, 49])
def test_deeper_json_is_refused_naming_its_field(levels: int) -> None:
    request = ExecuteRequest(data=Struct.from_json(nested(levels)))
    assert refused_field(ExecuteRequest, request.to_binary()) == "data"
    error = LogErrorRequest.from_json(f'{{"metadata": {{}}, "trigger": {nested(levels)}}}')
    assert refused_field(LogErrorRequest, error.to_binary()) == "trigger"
    arrays = ReportProgressRequest.from_json(f'{{"json": {nested(levels, "[", "]")}}}')
    assert refused_field(ReportProgressRequest, arrays.to_binary()) == "json"


def test_json_too_deep_for_the_runtime_is_refused_naming_its_field() -> None:
    assert refused_field(ExecuteRequest, b"\x0a\x01w" + data_field(200)) == "data"


def test_as_many_values_as_json_may_have_are_read_and_not_many_more() -> None:
    for entries, refused in ((25_000, False), (100_001, True)):
        body = ExecuteRequest(metadata={str(number): "" for number in range(entries)}).to_binary()
        if refused:
            with pytest.raises(InvalidArgument, match="it holds more than 100000 values"):
                decode_binary(ExecuteRequest, body)
        else:
            assert len(decode_binary(ExecuteRequest, body).metadata) == entries


def test_tags_written_longer_than_needed_hide_no_depth() -> None:
    assert refused_field(ExecuteRequest, data_field(40, tag=b"\xaa\x80\x00")) == "data"


def data_field(levels: int, tag: bytes = b"\x2a") -> bytes:
    """ExecuteRequest.data with objects in objects, each behind `tag`."""
    struct = b""
    for _ in range(levels - 1):
        value = tag + with_length(struct)
        struct = b"\x0a" + with_length(b"\x0a\x01a\x12" + with_length(value))
    return b"\x12" + with_length(struct)


def with_length(content: bytes) -> bytes:
    length, prefix = len(content), b""
    while length > 0x7F:
        prefix += bytes([length & 0x7F | 0x80])
        length >>= 7
    return prefix + bytes([length]) + content


def refused_field(message_type: type[Message], body: bytes) -> str:
    with pytest.raises(InvalidArgument) as caught:
        decode_binary(message_type, body)
    [(field, problem)] = caught.value.fields.items()
    assert problem == "is JSON nested deeper than 30 levels"
    assert caught.value.message == f"{field}: {problem}"
    return field
