"""The end of a run, written down: its state, its result, and what it costs."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from gateway import metrics
from gateway.adapters.n8n import Fate, N8nFault
from gateway.gen.n8ngateway.v1.execution_pb import ExecutionState
from gateway.rpc.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    RpcError,
    Unavailable,
)
from gateway.rpc.status import DETAIL_TYPES, status_of

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.executions.output import Output

_NUL = re.compile(r"((?<!\\)(?:\\\\)*)\\u0000")
"""An escaped NUL, which jsonb has no room for."""

_executions = cache(metrics.EXECUTIONS.labels)

log = structlog.get_logger("gateway.executions")

KEPT_RESULT_BYTES = 256 << 10
"""Of a longer result, this much of its JSON text is kept."""
FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 5.0


class LeaseLost(Exception):
    """Another replica has the run, or it has ended otherwise: what became of it is not this one's to say."""


class Stopped(Unavailable):
    """The gateway stops, and nobody knows what becomes of the run in n8n."""

    def __init__(self) -> None:
        msg = "The gateway was stopped while the run was under way."
        super().__init__(msg, reason="SHUTTING_DOWN")


@dataclass(slots=True)
class Outcome:
    """How a run ended. Without an error it was a success."""

    output: Output
    error: RpcError | None = None
    n8n_execution_id: str | None = None
    duration_ms: int = 0
    units: int | None = None

    @property
    def state(self) -> ExecutionState:
        """The final state that goes with it."""
        if self.error is None:
            return ExecutionState.COMPLETED
        if isinstance(self.error, DeadlineExceeded):
            return ExecutionState.TIMED_OUT
        if isinstance(self.error, Cancelled):
            return ExecutionState.CANCELLED
        if isinstance(self.error, Stopped) or (
            isinstance(self.error, N8nFault) and self.error.fate is Fate.UNKNOWN
        ):
            return ExecutionState.UNKNOWN
        return ExecutionState.FAILED


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a run cost, and what the organization has left, in credits."""

    credits_used: int
    credits_remaining: int
    is_whole: bool = True
    """Whether the whole result could be kept."""


async def settle(
    database: Database,
    execution_id: str,
    outcome: Outcome,
    *,
    organization_id: str | None = None,
    runner: str | None = None,
    last_sequence: int | None = None,
) -> Settlement:
    """Write the outcome down; the database does so once, however often it is asked.

    While the database is away this waits and tries again, until cancelled: a run that
    has ended must not stay unsettled for want of patience. Raises NotFound for an
    execution that was never begun, and LeaseLost where another one than `runner` has it or
    it has ended otherwise.
    """
    result, truncated = _kept_result(outcome)
    arguments: dict[str, Any] = {
        "p_execution_id": execution_id,
        "p_state": f"EXECUTION_STATE_{outcome.state.name}",
        "p_duration_ms": outcome.duration_ms,
        "p_error": _kept_error(outcome.error),
        "p_n8n_execution_id": outcome.n8n_execution_id,
        "p_runner": runner,
        "p_units": outcome.units,
        "p_last_sequence": last_sequence,
        "p_organization_id": organization_id,
    }
    try:
        return await _until_written(
            database, arguments | {"p_result": result, "p_result_truncated": truncated}
        )
    except (NotFound, LeaseLost):
        raise
    except RpcError as error:
        # What the database cannot keep of a run must not keep the credits from being settled.
        log.exception("result not kept", execution_id=execution_id, reason=error.reason)
        bare = {"p_error": None, "p_n8n_execution_id": None, "p_result_truncated": result is not None}
        return await _until_written(database, arguments | bare)


async def _until_written(database: Database, arguments: dict[str, Any]) -> Settlement:
    delay = FIRST_RETRY_SECONDS
    while True:
        try:
            text = await database.call("settle_execution", None, **arguments)
        except (Unavailable, Aborted):
            log.warning(
                "settlement waits for the database", execution_id=arguments["p_execution_id"], seconds=delay
            )
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_RETRY_SECONDS)
        except FailedPrecondition as error:
            if error.reason == "LEASE_LOST":
                raise LeaseLost from error
            raise
        else:
            settled = orjson.loads(text)
            is_whole = not arguments["p_result_truncated"]
            if settled["state"] != arguments["p_state"]:
                raise LeaseLost
            _executions(arguments["p_state"].removeprefix("EXECUTION_STATE_").lower()).inc()
            return Settlement(settled["credits_used"], settled["credits_remaining"], is_whole)


def _kept_result(outcome: Outcome) -> tuple[str | None, bool]:
    """The result as JSON text that Postgres can hold, and whether it was cut."""
    text = None if outcome.error else outcome.output.json()
    if text is None:
        return None, False
    if len(text) <= KEPT_RESULT_BYTES:
        return _storable(text.decode()), outcome.output.truncated
    return orjson.dumps(text[:KEPT_RESULT_BYTES].decode(errors="ignore")).decode(), True


def _kept_error(error: RpcError | None) -> str | None:
    if error is None:
        return None
    status = status_of(error, request_id="")
    return _storable(status.to_json(registry=DETAIL_TYPES, use_proto_field_name=True))


def _storable(json_text: str) -> str:
    if "\\u0000" not in json_text:  # a hundredth of the pattern's price
        return json_text
    return _NUL.sub(r"\1\\ufffd", json_text)
