"""Real clients of every door, brought to one shape: bytes in, an outcome out.

Requests are given as encoded bytes, so that a test can also send what no client would.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import httpx
from connectrpc.client import ConnectClientSync
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from protobuf import Message
from pyqwest import SyncClient

from gateway.rpc.errors import Code
from gateway.rpc.status import DETAIL_TYPES
from gateway.transcoding.gen.google.api.annotations_pb import ext_http
from gateway.transcoding.gen.google.rpc.error_details_pb import BadRequest, ErrorInfo, RequestInfo
from gateway.transcoding.gen.google.rpc.status_pb import Status

SECONDS = 20.0


@dataclass
class Outcome:
    """What a caller gets: messages as ProtoJSON objects with proto names, and how it ended."""

    code: Code
    messages: list[dict[str, Any]] = field(default_factory=list)
    message: str = ""
    reason: str | None = None
    fields: list[str] = field(default_factory=list)
    request_id: str | None = None
    http_status: int | None = None


@dataclass(frozen=True)
class Sent:
    """What a signature covers of a request, as it goes over the wire."""

    http_method: str
    target: str
    content_type: str
    message: bytes


class Client(Protocol):
    """One door in one encoding."""

    json: bool

    def sent(self, method: Any, body: bytes) -> Sent:
        """What `call` sends."""
        ...

    def call(
        self,
        method: Any,
        body: bytes,
        *,
        headers: Mapping[str, str],
        timeout: float | None = None,
    ) -> Outcome:
        """Call `method` (a DescMethod), unary or server stream, with an encoded request."""
        ...


class GrpcClient:
    """grpcio; its bytes go out as they are."""

    json = False

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)

    def sent(self, method: Any, body: bytes) -> Sent:
        return Sent("POST", f"/{method.parent.type_name}/{method.name}", "application/grpc", body)

    def call(
        self, method: Any, body: bytes, *, headers: Mapping[str, str], timeout: float | None = None
    ) -> Outcome:
        path = f"/{method.parent.type_name}/{method.name}"
        metadata = [(name.lower(), value) for name, value in headers.items()]
        output = method.output.type
        messages: list[dict[str, Any]] = []
        try:
            if method.method_kind == "unary":
                response, _ = self._channel.unary_unary(path).with_call(
                    body, metadata=metadata, timeout=SECONDS if timeout is None else timeout
                )
                messages.append(_plain(output.from_binary(response)))
            else:
                stream = self._channel.unary_stream(path)(
                    body, metadata=metadata, timeout=SECONDS if timeout is None else timeout
                )
                messages.extend(_plain(output.from_binary(response)) for response in stream)
        except grpc.RpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            status = Status.from_binary(trailers.get("grpc-status-details-bin", b""))
            code = Code(error.code().value[0])
            return _failed(code, error.details() or "", list(status.details), messages)
        return Outcome(Code.OK, messages)


class _Codec:
    """Sends bytes as they are; reads responses in its encoding."""

    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        return self._name

    def encode(self, message: bytes) -> bytes:
        return message

    def decode(self, data: bytes | bytearray, message_class: type[Message]) -> Message:
        data = bytes(data)
        return (
            message_class.from_json(data, registry=DETAIL_TYPES)
            if self._name == "json"
            else message_class.from_binary(data)
        )


class ConnectClient:
    """connectrpc's client, speaking Connect or gRPC-Web."""

    def __init__(self, url: str, protocol: ProtocolType, encoding: str, *, use_get: bool = False) -> None:
        self.json = encoding == "json"
        self._use_get = use_get
        self._encoding, self._protocol = encoding, protocol
        self._client = ConnectClientSync(
            url, codec=_Codec(encoding), protocol=protocol, http_client=SyncClient()
        )

    def sent(self, method: Any, body: bytes) -> Sent:
        unary = method.method_kind == "unary"
        target = f"/{method.parent.type_name}/{method.name}"
        if self._use_get and unary and method.idempotency.name == "NO_SIDE_EFFECTS":
            return Sent("GET", target, "", body)
        kind = {ProtocolType.CONNECT: "" if unary else "connect+", ProtocolType.GRPC_WEB: "grpc-web+"}
        return Sent("POST", target, f"application/{kind[self._protocol]}{self._encoding}", body)

    def call(
        self, method: Any, body: bytes, *, headers: Mapping[str, str], timeout: float | None = None
    ) -> Outcome:
        unary = method.method_kind == "unary"
        info: MethodInfo[Any, Any] = MethodInfo(
            name=method.name,
            service_name=method.parent.type_name,
            input=bytes,
            output=method.output.type,
            idempotency_level=IdempotencyLevel[method.idempotency.name.replace("IDEMPOTENCY_", "")],
            stream_type=StreamType.UNARY if unary else StreamType.SERVER_STREAM,
        )
        timeout_ms = int((SECONDS if timeout is None else timeout) * 1000)
        messages: list[dict[str, Any]] = []
        try:
            if unary:
                response = self._client.execute_unary(
                    request=body,
                    method=info,
                    headers=dict(headers),
                    timeout_ms=timeout_ms,
                    use_get=self._use_get,
                )
                messages.append(_plain(response))
            else:
                stream = self._client.execute_server_stream(
                    request=body, method=info, headers=dict(headers), timeout_ms=timeout_ms
                )
                messages.extend(_plain(response) for response in stream)
        except ConnectError as error:
            code = Code[error.code.name.replace("CANCELED", "CANCELLED")]
            return _failed(code, error.message, [detail._any for detail in error.details], messages)
        return Outcome(Code.OK, messages)


class RestClient:
    """httpx on the REST paths; a stream in one of its three forms."""

    json = True

    def __init__(self, url: str, accept: str = "application/json") -> None:
        self._client = httpx.Client(base_url=url, timeout=SECONDS)
        self._accept = accept

    def sent(self, method: Any, body: bytes) -> Sent:
        verb, path, content, params = _rest_request(method, body)
        target = self._client.build_request(verb, path, params=params).url.raw_path.decode()
        return Sent(verb, target, "application/json", content or b"")

    def call(
        self, method: Any, body: bytes, *, headers: Mapping[str, str], timeout: float | None = None
    ) -> Outcome:
        verb, path, content, params = _rest_request(method, body)
        sent = {"accept": self._accept, "content-type": "application/json", **headers}
        if timeout is not None:
            sent["connect-timeout-ms"] = str(int(timeout * 1000))
        with self._client.stream(verb, path, content=content, params=params, headers=sent) as response:
            if response.status_code >= 400:
                response.read()
                return _rest_failed(response.json(), [], response)
            if method.method_kind == "unary":
                response.read()
                return Outcome(Code.OK, [response.json()], http_status=response.status_code)
            return _rest_stream(response, self._accept)


def _rest_request(method: Any, body: bytes) -> tuple[str, str, bytes | None, dict[str, str]]:
    """The verb, path, body and query of a request, by the method's first binding."""
    rule = method.proto.options[ext_http]
    verb, path = rule.pattern.field.upper(), rule.pattern.value
    if rule.body == "*" and "{" not in path:
        return verb, path, body, {}
    request = json.loads(body or b"{}")
    for name in [part.split("}")[0] for part in path.split("{")[1:]]:
        *parents, leaf = name.split(".")
        holder = request
        for parent in parents:
            holder = holder[parent]
        path = path.replace(f"{{{name}}}", str(holder.pop(leaf, "")))
    if rule.body == "*":
        return verb, path, json.dumps(request).encode(), {}
    if rule.body:
        content = json.dumps(request.pop(rule.body, {})).encode()
        return verb, path, content, request
    return verb, path, None, request


def _rest_stream(response: httpx.Response, accept: str) -> Outcome:
    elements = list(_stream_elements(response, accept))
    messages = [element for element in elements if "error" not in element]
    if elements and "error" in elements[-1]:
        return _rest_failed(elements[-1]["error"], messages, response)
    return Outcome(Code.OK, messages, http_status=response.status_code)


def _stream_elements(response: httpx.Response, accept: str) -> Iterator[dict[str, Any]]:
    if accept == "application/x-ndjson":
        for line in response.iter_lines():
            yield json.loads(line)
    elif accept == "text/event-stream":
        event = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                yield {"error": data} if event == "error" else data
            elif not line:
                event = ""
    else:
        response.read()
        yield from response.json()


def _rest_failed(status: dict[str, Any], messages: list[dict[str, Any]], response: httpx.Response) -> Outcome:
    outcome = Outcome(
        Code(status["code"]),
        messages,
        status["message"],
        http_status=response.status_code,
        request_id=response.headers.get("x-request-id"),
    )
    for detail in status.get("details", ()):
        kind = detail["@type"].rpartition(".")[2]
        if kind == "ErrorInfo":
            outcome.reason = detail["reason"]
        elif kind == "BadRequest":
            outcome.fields += [v["field"] for v in detail["field_violations"]]
    return outcome


def _failed(code: Code, message: str, details: list[Any], messages: list[dict[str, Any]]) -> Outcome:
    outcome = Outcome(code, messages, message)
    for detail in details:
        if (info := detail.unpack(ErrorInfo)) is not None:
            outcome.reason = info.reason
        if (request := detail.unpack(RequestInfo)) is not None:
            outcome.request_id = request.request_id
        if (bad := detail.unpack(BadRequest)) is not None:
            outcome.fields += [violation.field for violation in bad.field_violations]
    return outcome


def _plain(message: Message) -> dict[str, Any]:
    text = message.to_json(use_proto_field_name=True, always_emit_implicit=True, registry=DETAIL_TYPES)
    plain: dict[str, Any] = json.loads(text)
    return plain
