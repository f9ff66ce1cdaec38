from __future__ import annotations

import pytest

from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest
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
