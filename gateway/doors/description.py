"""The API as an OpenAPI document: REST and Connect, from the committed descriptors."""

from __future__ import annotations

import importlib.resources
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from protobuf import DescService
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

from gateway.doors.rest import HTTP_STATUS_BY_REASON
from gateway.gen.n8ngateway.v1 import health_service_pb
from gateway.rpc import api
from gateway.rpc.errors import DOMAIN
from gateway.transcoding import service_bindings
from gateway.transcoding.fields import Json
from gateway.transcoding.openapi import About, Comments, openapi_document, openapi_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protobuf import DescMethod

    from gateway.transcoding.openapi import Security

_SCHEMES: dict[str, dict[str, Json]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A session token of Clerk.",
    },
    "api_key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "A key of an organization, as CreateApiKey shows it once, on a signed request.",
    },
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Signature",
        "description": (
            "`v2=` and the hex HMAC-SHA256 of the request by the key's client secret, with `X-Timestamp` and "
            "`X-Nonce` beside it. Beside a session token as well, where the organization asks for both."
        ),
    },
    "internal": {
        "type": "apiKey",
        "in": "header",
        "name": "X-N8N-Internal-Auth",
        "description": "The secret that the gateway shares with n8n.",
    },
    "platform": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Platform-Token",
        "description": "The secret of who operates the gateway, where one is set.",
    },
}
_OF_CALLERS: Security = [
    {"bearer": []},
    {"api_key": [], "signature": []},
    {"bearer": [], "api_key": [], "signature": []},
]
_OF_THE_PLATFORM: Security = [{"platform": []}]
_SECURITY_BY_SERVICE: dict[str, Security] = {
    api.HEALTH.type_name: [],
    api.INTERNAL.type_name: [{"internal": []}],
}
_PLATFORM_ALONE = frozenset({"AddCredits", "RefundExecution"})
_PLATFORM_TOO = frozenset(
    {
        "ListOrganizations",
        "GetOrganization",
        "RegisterWorkflow",
        "GetWorkflow",
        "UpdateWorkflow",
        "ActivateWorkflow",
        "DeactivateWorkflow",
        "DeleteWorkflow",
        "GetExecution",
        "WatchExecution",
        "GetCreditBalance",
        "ListCreditEntries",
        "ExportCreditEntries",
        "GetUsage",
        "ExportUsage",
    }
)
_IDEMPOTENCY_KEY: dict[str, Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "In place of `idempotency_key`; where both are given they must be the same.",
    "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
}
_LAST_EVENT_ID: dict[str, Json] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The sequence of the last event that the caller has, as an EventSource sends it: "
    "the stream goes on after it, or after `after_sequence` if that is more.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,9}$"},
}
_HEADERS_BY_METHOD: dict[str, list[dict[str, Json]]] = {
    "Execute": [_IDEMPOTENCY_KEY],
    "ExecuteStream": [_IDEMPOTENCY_KEY],
    "StartExecution": [_IDEMPOTENCY_KEY],
    "WatchExecution": [_LAST_EVENT_ID],
}
_EXECUTIONS = api.EXECUTION.type_name

_ABOUT = """\
A multi-tenant gateway in front of private n8n instances. Every method is served over REST, at its own path,
and over Connect, at `/package.Service/Method`.

REST prints field names in snake_case and takes lowerCamelCase too. Unknown fields and parameters are refused
by name. Every error is a google.rpc.Status whose google.rpc.ErrorInfo has a reason (domain `{domain}`); some
reasons have an HTTP status of their own:

{reasons}
"""


@cache
def describe_api() -> bytes:
    """The document as JSON, the same bytes for the same version."""
    serialized = (importlib.resources.files("gateway.gen") / "descriptors.binpb").read_bytes()
    registry = FileDescriptorSet.from_binary(serialized).to_registry()
    services = [element for element in registry if isinstance(element, DescService)]
    services.sort(key=lambda service: service.type_name)
    reasons = "\n".join(f"- {reason}: {status}" for reason, status in sorted(HTTP_STATUS_BY_REASON.items()))
    about = About(
        title="n8n-gateway",
        version=version("n8n-gateway"),
        description=_ABOUT.format(domain=DOMAIN, reasons=reasons),
        security_schemes=_SCHEMES,
        security=_security_of,
        request_headers=_headers_of,
        error_details=[health_service_pb.GetReadinessResponse.desc()],
    )
    document = openapi_document(
        service_bindings(services),
        about,
        comments=Comments.from_descriptor_set(serialized),
        connect=services,
    )
    return openapi_json(document)


def _headers_of(method: DescMethod) -> Sequence[dict[str, Json]]:
    return _HEADERS_BY_METHOD.get(method.name, []) if method.parent.type_name == _EXECUTIONS else []


def _security_of(method: DescMethod) -> Security:
    if method.name in _PLATFORM_ALONE:
        return _OF_THE_PLATFORM
    of_callers = [*_OF_CALLERS, *_OF_THE_PLATFORM] if method.name in _PLATFORM_TOO else _OF_CALLERS
    return _SECURITY_BY_SERVICE.get(method.parent.type_name, of_callers)
