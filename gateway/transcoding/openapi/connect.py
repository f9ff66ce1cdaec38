"""The operations of the Connect protocol: POST for each method, GET for those without side effects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from protobuf import DescMethod
from protobuf.wkt.google.protobuf.descriptor_pb import MethodOptions

from gateway.transcoding.fields import Json
from gateway.transcoding.negotiation import JSON
from gateway.transcoding.openapi.comments import Comments
from gateway.transcoding.openapi.names import Form, Role
from gateway.transcoding.openapi.rest import describe
from gateway.transcoding.openapi.schemas import Schemas
from gateway.transcoding.openapi.values import Schema

FORM: Final = Form(Role.OUTPUT, proto_names=False, defaults=False, prefix="connect.")
"""How Connect writes messages: lowerCamel names, and only fields that are set."""

_PROTO: Final = "application/proto"
_STREAMS: Final = ("application/connect+json", "application/connect+proto")
_ERROR: Final[Schema] = {"$ref": "#/components/responses/ConnectError"}
_UNSUPPORTED: Final[Schema] = {"description": "The media type or encoding is not served. There is no body."}
_VERSION: Final[Schema] = {
    "name": "Connect-Protocol-Version",
    "in": "header",
    "schema": {"type": "string", "const": "1"},
}
_TIMEOUT: Final[Schema] = {
    "name": "Connect-Timeout-Ms",
    "in": "header",
    "description": "Milliseconds that the caller waits.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,10}$"},
}


@dataclass(frozen=True, slots=True)
class ConnectOperations:
    """Describes methods as the Connect protocol serves them at ``/package.Service/Method``."""

    schemas: Schemas
    comments: Comments

    def operations(self, method: DescMethod) -> dict[str, Schema]:
        """The operations of a method by their HTTP method, without ids and security."""
        if method.method_kind != "unary":
            return {"post": self._stream(method)}
        operations = {"post": self._post(method)}
        if method.idempotency == MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS:
            operations["get"] = self._get(method)
        return operations

    def _described(self, method: DescMethod) -> Schema:
        return describe(method, self.comments) | {"tags": [tag_of(method)]}

    def _post(self, method: DescMethod) -> Schema:
        content: Schema = {JSON: {"schema": self._request(method)}, _PROTO: {}}
        return {
            **self._described(method),
            "parameters": [_VERSION, _TIMEOUT],
            "requestBody": {"required": True, "content": content},
            "responses": self._responses(method),
        }

    def _get(self, method: DescMethod) -> Schema:
        message: Schema = {
            "name": "message",
            "in": "query",
            "required": True,
            "description": "The request, as JSON.",
            "content": {JSON: {"schema": self._request(method)}},
        }
        parameters: list[Json] = [
            message,
            _query("encoding", "json", required=True),
            _query("connect", "v1"),
            _TIMEOUT,
        ]
        return {
            **self._described(method),
            "parameters": parameters,
            "responses": self._responses(method),
        }

    def _stream(self, method: DescMethod) -> Schema:
        envelopes = "Messages in envelopes: one byte of flags and four of length before each."
        request: Schema = {"description": envelopes, "required": True, "content": _enveloped()}
        success: Schema = {"description": envelopes, "content": _enveloped()}
        return {
            **self._described(method),
            "parameters": [_VERSION, _TIMEOUT],
            "requestBody": request,
            "responses": {"200": success, "415": _UNSUPPORTED, "default": _ERROR},
        }

    def _request(self, method: DescMethod) -> Schema:
        return self.schemas.message(method.input, replace(FORM, role=Role.INPUT))

    def _responses(self, method: DescMethod) -> Schema:
        schema = self.schemas.message(method.output, FORM)
        success: Schema = {"description": "The answer.", "content": {JSON: {"schema": schema}, _PROTO: {}}}
        return {"200": success, "415": _UNSUPPORTED, "default": _ERROR}


def tag_of(method: DescMethod) -> str:
    """The tag of a method's Connect operations."""
    return f"{method.parent.name} (Connect)"


def _enveloped() -> Schema:
    return {media_type: {} for media_type in _STREAMS}


def _query(name: str, value: str, *, required: bool = False) -> Schema:
    parameter: Schema = {"name": name, "in": "query", "schema": {"type": "string", "const": value}}
    return parameter | ({"required": True} if required else {})
