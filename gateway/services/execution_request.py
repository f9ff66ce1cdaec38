"""What a request to run a workflow says, in whichever of its forms."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import orjson
from protobuf.wkt import Struct

from gateway.rpc.errors import InvalidArgument
from gateway.transcoding import Options, json_encoder

if TYPE_CHECKING:
    from gateway.gen.n8ngateway.v1.execution_service_pb import (
        ExecuteRequest,
        ExecuteStreamRequest,
        StartExecutionRequest,
    )
    from gateway.rpc.call import Call

    Request = ExecuteRequest | ExecuteStreamRequest | StartExecutionRequest

IDEMPOTENCY_HEADER = "idempotency-key"
LONGEST_IDEMPOTENCY_KEY = 255

_encode_struct = json_encoder(Struct.desc(), Options())


def payload_of(request: Request) -> bytes:
    """The JSON that n8n gets. Raises InvalidArgument for a struct that JSON has no words for."""
    field = "payload" if request.payload is not None else "data"
    try:
        return _encode_struct(request.data or request.payload or Struct())
    except ValueError:
        problem = "holds a number that is none, or a value of no kind: JSON has no words for it"
        raise InvalidArgument(
            f"{field} {problem}.", reason="INVALID_FIELD", fields={field: problem}
        ) from None


def idempotency_key_of(request: Request, call: Call) -> str | None:
    """The caller's key, from the message or the header. Raises InvalidArgument when these differ."""
    header = call.metadata.get(IDEMPOTENCY_HEADER, "")
    if request.idempotency_key and header and request.idempotency_key != header:
        problem = "differs from the header Idempotency-Key"
    elif len(header) > LONGEST_IDEMPOTENCY_KEY or not (header.isascii() and header.isprintable()):
        problem = f"has at most {LONGEST_IDEMPOTENCY_KEY} printable ASCII characters"
    else:
        return request.idempotency_key or header or None
    raise InvalidArgument(
        f"idempotency_key {problem}.",
        reason="INVALID_FIELD",
        fields={"idempotency_key": problem},
    )


def agreed_credits(request: Request) -> int | None:
    """The most that the caller pays; None for any price."""
    return request.credits if request.has_field("credits") else None


def fingerprint_of(request: Request, payload: bytes) -> str:
    """What makes two requests the same one, whichever door they came through."""
    rest = [request.organization_id, request.workflow_id, agreed_credits(request), request.metadata]
    canonical = orjson.dumps([orjson.loads(payload), *rest], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()
