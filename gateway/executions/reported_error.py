"""An error that n8n reports, as it is written down: bounded, and without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson
from protobuf import Message, message_to_json_value

from gateway.adapters.n8n import Redactor
from gateway.gen.n8ngateway.v1.internal_service_pb import LogErrorRequest

_MESSAGE_CHARACTERS = 4096
_NAME_CHARACTERS = 255
_KEPT_BYTES = 64 << 10
# What the gateway itself gives out, whoever it belongs to: keys, handles, signing secrets, runs' tokens.
_GIVEN_OUT = re.compile(
    r"gw_(?:live|test)_[a-z2-7]{16}_[A-Za-z0-9_-]+|gw_handle_[a-z2-7]{32,}|whsec_[A-Za-z0-9+/=]{24,}"
    r"|[0-9a-f-]{36}\.[0-9a-f-]{36}\.[0-9a-f]{64}"
)
_MASK = "[redacted]"


class ReportedError:
    """What a LogErrorRequest says, whichever of its forms it has."""

    def __init__(self, request: LogErrorRequest) -> None:
        self._request = request
        self._execution = _object(request.execution)
        self._workflow = _object(request.workflow)
        self._trigger = _object(request.trigger)

    @property
    def n8n_execution_id(self) -> str:
        """n8n's own id of the execution; empty when it is not told."""
        return _name(self._execution.get("id"))

    async def row(self, secrets: Iterable[str]) -> dict[str, Any]:
        """What `log_error` takes; without `secrets` and what the gateway gives out."""
        redactor = Redactor(secrets)
        request = self._request
        error = _inner(self._execution, "error") or _inner(self._trigger, "error")
        said = request.error_message or error.get("message") or ""
        metadata = {
            name: await _bounded(value, redactor)
            for name, value in (
                ("metadata", _object(request.metadata)),
                ("execution", self._execution),
                ("trigger", self._trigger),
            )
            if value
        }
        node = self._execution.get("lastNodeExecuted") or _inner(error, "node").get("name")
        return {
            "n8n_execution_id": self.n8n_execution_id,
            "workflow_id": await _plain(request.workflow_id or _name(self._workflow.get("id")), redactor),
            "workflow_name": await _plain(_name(self._workflow.get("name")), redactor),
            "node_name": await _plain(_name(node), redactor),
            "error_message": (await _plain(str(said), redactor))[:_MESSAGE_CHARACTERS],
            "metadata": metadata,
        }


async def _plain(text: str, redactor: Redactor) -> str:
    return _GIVEN_OUT.sub(_MASK, await redactor.clean_long_text(text.replace("\0", "\ufffd")))


async def _bounded(value: Any, redactor: Redactor) -> Any:
    """The value; its JSON text, or the beginning of that, if it is none any more or too long to be kept."""
    text = await _plain(orjson.dumps(value).decode().replace("\\u0000", "\\ufffd"), redactor)
    if len(text.encode()) > _KEPT_BYTES:
        return text.encode()[:_KEPT_BYTES].decode(errors="ignore")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # a secret went beyond one of its strings
        return text


def _object(message: Message | None) -> dict[str, Any]:
    value = message_to_json_value(message) if message is not None else {}
    return value if isinstance(value, dict) else {}


def _inner(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _name(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)[:_NAME_CHARACTERS] if isinstance(value, str | int) else ""
