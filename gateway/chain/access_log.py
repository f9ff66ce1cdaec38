"""One line a call: who, what, how it ended, how long. Never a body, a token or a secret."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from gateway.rpc.errors import Code

if TYPE_CHECKING:
    from gateway.rpc.call import Call
    from gateway.rpc.errors import RpcError

    Fields = Mapping[str, Any]

LOGGER = "gateway.access"
log = structlog.get_logger(LOGGER)

_SERVER_FAULTS = {Code.INTERNAL, Code.DATA_LOSS, Code.UNAVAILABLE}
_REMEMBERED = 4096


class Lines(Protocol):
    """Writes lines of which most comes again and again, and is rendered once."""

    def render(self, event: str, fields: Fields) -> bytes:
        """What lines have in common."""

    def write(self, rendered: bytes, own: dict[str, Any]) -> None:
        """Write one line of a rendered part and fields of its own."""


class AccessLog:
    """Logs the end of each call: a fault of the gateway or its parts as a warning, all else as info.

    Calls that went well, as most do, are written to `lines` if there are any, all others to the logger.
    """

    def __init__(self, lines: Lines | None = None) -> None:
        self._lines = lines
        self._rendered = lru_cache(_REMEMBERED)(self._render)

    def __call__(self, call: Call, outcome: RpcError | None) -> None:
        """Log one call."""
        principal = call.principal
        caller, impersonator = (principal.name, principal.impersonator) if principal else (None, None)
        told = call.method.path, caller, impersonator, call.tenant, call.address or call.peer
        hundredths = int((time.monotonic() - call.started) * 100_000)
        own = {"request_id": call.request_id, "ms": hundredths / 100}
        if outcome is None and self._lines is not None:
            self._lines.write(self._rendered(*told), own)
            return
        write = log.warning if outcome and outcome.code in _SERVER_FAULTS else log.info
        write("call", **own, **_fields(*told, outcome))

    def _render(self, *told: Any) -> bytes:
        assert self._lines is not None  # noqa: S101 (it is what asks)
        return self._lines.render("call", _fields(*told))


def _fields(
    method: str,
    caller: str | None,
    impersonator: str | None,
    tenant: str | None,
    address: str | None,
    outcome: RpcError | None = None,
) -> dict[str, Any]:
    """What the lines of many calls have in common."""
    return {
        "method": method,
        "code": outcome.code.name if outcome else "OK",
        "reason": outcome.reason if outcome else None,
        "caller": caller,
        "impersonator": impersonator,
        "tenant": tenant,
        "address": address,
    }
