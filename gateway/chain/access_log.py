"""One line a call: who, what, how it ended, how long. Never a body, a token or a secret."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from gateway.rpc.errors import Code

if TYPE_CHECKING:
    from gateway.rpc.call import Call
    from gateway.rpc.errors import RpcError

log = structlog.get_logger("gateway.access")

_SERVER_FAULTS = {Code.INTERNAL, Code.DATA_LOSS, Code.UNAVAILABLE}


def log_access(call: Call, outcome: RpcError | None) -> None:
    """Log the end of a call: a fault of the gateway or its parts as a warning, all else as info."""
    principal = call.principal
    logger = log.bind()  # the same logger without its lazy front
    write = logger.warning if outcome and outcome.code in _SERVER_FAULTS else logger.info
    write(
        "call",
        request_id=call.request_id,
        method=call.method.path,
        code=outcome.code.name if outcome else "OK",
        reason=outcome.reason if outcome else None,
        ms=round((time.monotonic() - call.started) * 1000, 2),
        caller=f"{principal.kind}:{principal.subject}" if principal else None,
        impersonator=principal.impersonator if principal else None,
        tenant=call.tenant,
        address=call.address or call.peer,
    )
