"""The protocols of the Connect door, as far as a plain unary call needs them.

Connect protocol, "Unary-Request" and "Unary-Response"; gRPC-Web, "Protocol differences vs gRPC over HTTP2".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from connectrpc._protocol import ConnectWireError
from connectrpc._protocol_grpc import GRPCWebEnvelopeWriter
from connectrpc.codec import proto_binary_codec
from connectrpc.errors import ConnectError
from connectrpc.request import Headers

from gateway.doors.connect.gzip import WORTHWHILE, compress
from gateway.doors.connect.http import in_envelopes, in_small_envelope, only_message
from gateway.transcoding.negotiation import accepts_gzip

if TYPE_CHECKING:
    from gateway.doors.asgi import RawHeaders
    from gateway.rpc.call import Call

_OK = 200
_LONGEST_TIMEOUT = 10
_GRPC_TIMEOUT = re.compile(r"[0-9]{1,8}[HMSmun]")
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_VARY = (b"vary", b"Accept-Encoding")
_TRAILERS = GRPCWebEnvelopeWriter(proto_binary_codec(), None)
_WELL = _TRAILERS.end(Headers(), None)


class Answer(NamedTuple):
    """A whole response, but for the length of its body in its headers."""

    status: int
    headers: RawHeaders
    body: bytes


class Wire(Protocol):
    """One protocol. An `encoding` is the name of a form of messages; `door` is what the chain knows it by."""

    door: str

    def content_types(self, encoding: str) -> list[str]:
        """Those of requests with such messages; answers have the first of them."""

    def is_plain(self, metadata: Mapping[str, str]) -> bool:
        """Whether the headers are well-formed, and announce an uncompressed message."""

    def message(self, body: bytes) -> bytes | None:
        """The request's message; None if it does not come as it is in a plain call."""

    def timeout(self, metadata: Mapping[str, str]) -> float | None:
        """How many seconds a call with plain headers may take, if the caller says so."""

    async def answer(self, call: Call, encoding: str, outcome: bytes | ConnectError) -> Answer:
        """What a call is answered with that ended with a message, or with an error."""


class _Connect:
    """Connect: the message is the body, and an error is told in JSON."""

    door = "connect"

    def content_types(self, encoding: str) -> list[str]:
        return [f"application/{encoding}"]

    def is_plain(self, metadata: Mapping[str, str]) -> bool:
        timeout = metadata.get("connect-timeout-ms")
        return (
            metadata.get("content-encoding", "identity") == "identity"
            and metadata.get("connect-protocol-version", "1") == "1"
            and (timeout is None or (timeout.isdigit() and len(timeout) <= _LONGEST_TIMEOUT))
        )

    def message(self, body: bytes) -> bytes | None:
        return body

    def timeout(self, metadata: Mapping[str, str]) -> float | None:
        timeout = metadata.get("connect-timeout-ms")
        return int(timeout) / 1000 if timeout else None

    async def answer(self, call: Call, encoding: str, outcome: bytes | ConnectError) -> Answer:
        if isinstance(outcome, ConnectError):
            wire = ConnectWireError.from_exception(outcome)
            status, form, body = wire.to_http_status().code, "json", wire.to_json_bytes()
        else:
            status, form, body = _OK, encoding, outcome
        headers = [
            (b"content-type", f"application/{form}".encode()),
            _VARY,
            *_raw(call.response_metadata),
            *_raw(call.leading_metadata),
            *((b"trailer-" + name, value) for name, value in _raw(call.trailing_metadata)),
        ]
        if len(body) >= WORTHWHILE and accepts_gzip(call.metadata.get("accept-encoding", "").encode()):
            body = await compress(body)
            headers.append((b"content-encoding", b"gzip"))
        return Answer(status, headers, body)


class _GrpcWeb:
    """gRPC-Web in binary: messages are in envelopes, and trailers are the last of them."""

    door = "grpc-web"

    def content_types(self, encoding: str) -> list[str]:
        named = f"application/grpc-web+{encoding}"
        return [named, "application/grpc-web"] if encoding == "proto" else [named]

    def is_plain(self, metadata: Mapping[str, str]) -> bool:
        timeout = metadata.get("grpc-timeout")
        return metadata.get("grpc-encoding", "identity") == "identity" and (
            timeout is None or _GRPC_TIMEOUT.fullmatch(timeout) is not None
        )

    def message(self, body: bytes) -> bytes | None:
        return only_message(body)

    def timeout(self, metadata: Mapping[str, str]) -> float | None:
        timeout = metadata.get("grpc-timeout")
        return int(timeout[:-1]) * _SECONDS[timeout[-1]] if timeout else None

    async def answer(self, call: Call, encoding: str, outcome: bytes | ConnectError) -> Answer:
        accepted = call.metadata.get("grpc-accept-encoding", "")
        compresses = any(coding.strip() == "gzip" for coding in accepted.split(","))
        if isinstance(outcome, ConnectError):
            body = _TRAILERS.end(Headers(call.trailing_metadata), ConnectWireError.from_exception(outcome))
        else:
            body = await in_small_envelope(outcome) if compresses else in_envelopes([outcome])
            body += _TRAILERS.end(Headers(call.trailing_metadata), None) if call.trailing_metadata else _WELL
        headers = [
            (b"content-type", f"application/grpc-web+{encoding}".encode()),
            (b"grpc-encoding", b"gzip" if compresses else b"identity"),
            *_raw(call.response_metadata),
            *_raw(call.leading_metadata),
        ]
        return Answer(_OK, headers, body)


WIRES: tuple[Wire, ...] = (_Connect(), _GrpcWeb())


def _raw(metadata: Iterable[tuple[str, str]]) -> RawHeaders:
    return [(name.encode(), value.encode()) for name, value in metadata]
