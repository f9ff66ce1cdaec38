"""The gateway's doors, each called by a real client, in one shape: JSON objects with proto names."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import grpc
import httpx
from connectrpc.client import ConnectClientSync
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from google.protobuf.json_format import MessageToDict, ParseDict
from n8n_gateway_client import Client, error_info
from n8n_gateway_client.v1 import execution_service_pb2

from gateway.gen.n8ngateway.v1 import execution_event_pb, execution_service_pb
from gateway.rpc.errors import Code
from gateway.rpc.status import DETAIL_TYPES
from gateway.transcoding.gen.google.rpc.error_details_pb import ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message as GoogleMessage
    from protobuf import Message

Json = dict[str, Any]

SECONDS = 60


class Refused(Exception):
    """The outcome of a call that is not OK."""

    def __init__(self, code: Code, reason: str, metadata: dict[str, str]) -> None:
        super().__init__(f"{code.name} {reason} {metadata}")
        self.code = code
        self.reason = reason
        self.metadata = metadata


class Door(ABC):
    """Execute, ExecuteStream and Watch; all raise Refused, a stream after the events that came before."""

    @abstractmethod
    def execute(self, request: Json) -> Json:
        """Return the ExecuteResponse to a request given with proto names."""

    @abstractmethod
    def stream(self, request: Json) -> Generator[Json]:
        """Yield each ExecutionEvent when it arrives; closed before its end, it disconnects."""

    @abstractmethod
    def watch(self, execution_id: str, after: int) -> Generator[Json]:
        """Yield each event of a run after a sequence, those to come included."""


class GrpcDoor(Door):
    """The Python client package."""

    def __init__(self, ready: Json) -> None:
        self._client = Client(ready["grpc_url"], token=ready["token"], secure=False)

    def execute(self, request: Json) -> Json:
        message = ParseDict(request, execution_service_pb2.ExecuteRequest())
        try:
            return _google_json(self._client.executions.Execute(message, timeout=SECONDS))
        except grpc.RpcError as error:
            raise _refused_by_grpc(error) from None

    def stream(self, request: Json) -> Generator[Json]:
        message = ParseDict(request, execution_service_pb2.ExecuteStreamRequest())
        return self._events(self._client.executions.ExecuteStream(message, timeout=SECONDS))

    def watch(self, execution_id: str, after: int) -> Generator[Json]:
        message = execution_service_pb2.WatchExecutionRequest(execution_id=execution_id, after_sequence=after)
        return self._events(self._client.executions.WatchExecution(message, timeout=SECONDS))

    def _events(self, call: Any) -> Generator[Json]:
        try:
            for event in call:
                yield _google_json(event)
        except grpc.RpcError as error:
            raise _refused_by_grpc(error) from None
        finally:
            call.cancel()


class ConnectDoor(Door):
    """connectrpc's client, with binary messages."""

    def __init__(self, ready: Json) -> None:
        self._client = ConnectClientSync(ready["http_url"])
        self._headers = {"Authorization": f"Bearer {ready['token']}"}

    def execute(self, request: Json) -> Json:
        message = execution_service_pb.ExecuteRequest.from_json(json.dumps(request))
        method: MethodInfo[Any, Any] = MethodInfo(
            name="Execute",
            service_name="n8ngateway.v1.ExecutionService",
            input=execution_service_pb.ExecuteRequest,
            output=execution_service_pb.ExecuteResponse,
            idempotency_level=IdempotencyLevel.UNKNOWN,
            stream_type=StreamType.UNARY,
        )
        try:
            return _json(
                self._client.execute_unary(
                    request=message, method=method, headers=self._headers, timeout_ms=SECONDS * 1000
                )
            )
        except ConnectError as error:
            raise _refused_by_connect(error) from None

    def stream(self, request: Json) -> Generator[Json]:
        message = execution_service_pb.ExecuteStreamRequest.from_json(json.dumps(request))
        return self._events("ExecuteStream", message)

    def watch(self, execution_id: str, after: int) -> Generator[Json]:
        message = execution_service_pb.WatchExecutionRequest(execution_id=execution_id, after_sequence=after)
        return self._events("WatchExecution", message)

    def _events(self, name: str, message: Message) -> Generator[Json]:
        method: MethodInfo[Any, Any] = MethodInfo(
            name=name,
            service_name="n8ngateway.v1.ExecutionService",
            input=type(message),
            output=execution_event_pb.ExecutionEvent,
            idempotency_level=IdempotencyLevel.UNKNOWN,
            stream_type=StreamType.SERVER_STREAM,
        )
        events = self._client.execute_server_stream(
            request=message, method=method, headers=self._headers, timeout_ms=SECONDS * 1000
        )
        assert isinstance(events, Generator)
        try:
            for event in events:
                yield _json(event)
        except ConnectError as error:
            raise _refused_by_connect(error) from None
        finally:
            events.close()


class RestDoor(Door):
    """httpx on the REST paths; streams as server-sent events."""

    def __init__(self, ready: Json) -> None:
        headers = {"Authorization": f"Bearer {ready['token']}"}
        self.http = httpx.Client(base_url=ready["http_url"], headers=headers, timeout=SECONDS)

    def execute(self, request: Json) -> Json:
        response = self.http.post("/api/v1/execute", json=request)
        answer: Json = response.json()
        if not response.is_success:
            raise _refused_by_rest(answer)
        return answer

    def stream(self, request: Json) -> Generator[Json]:
        return self._events("POST", "/api/v1/execute/stream", json=request)

    def watch(self, execution_id: str, after: int) -> Generator[Json]:
        path = f"/api/v1/executions/{execution_id}/events"
        return self._events("GET", path, headers={"Last-Event-ID": str(after)})

    def _events(self, method: str, path: str, **options: Any) -> Generator[Json]:
        headers = {"Accept": "text/event-stream"} | options.pop("headers", {})
        with self.http.stream(method, path, headers=headers, **options) as response:
            if not response.is_success:
                response.read()
                raise _refused_by_rest(response.json())
            yield from _server_sent_events(response)


DOORS: dict[str, type[GrpcDoor | ConnectDoor | RestDoor]] = {
    "grpc": GrpcDoor,
    "connect": ConnectDoor,
    "rest": RestDoor,
}


def _server_sent_events(response: httpx.Response) -> Iterator[Json]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data: Json = json.loads(line.removeprefix("data:"))
            if name == "error":
                raise _refused_by_rest(data)
            yield data
        elif not line:
            name = ""


def _refused_by_rest(status: Json) -> Refused:
    for detail in status.get("details", ()):
        if detail["@type"].endswith("/google.rpc.ErrorInfo"):
            return Refused(Code(status["code"]), detail["reason"], detail.get("metadata", {}))
    return Refused(Code(status["code"]), "", {})


def _refused_by_connect(error: ConnectError) -> Refused:
    code = Code[error.code.name.replace("CANCELED", "CANCELLED")]
    for detail in error.details:
        info = detail._any.unpack(ErrorInfo)
        if info is not None:
            return Refused(code, info.reason, dict(info.metadata))
    return Refused(code, "", {})


def _refused_by_grpc(error: grpc.RpcError) -> Refused:
    info = error_info(error)
    return Refused(Code[info.code.name], info.reason, dict(info.metadata))


def _google_json(message: GoogleMessage) -> Json:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _json(message: Message) -> Json:
    text = message.to_json(use_proto_field_name=True, always_emit_implicit=True, registry=DETAIL_TYPES)
    plain: Json = json.loads(text)
    return plain
