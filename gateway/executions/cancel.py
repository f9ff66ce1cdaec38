"""Cancelling runs, wherever they are."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from gateway.executions.stored import Stored, error_of, has_ended, stored_from
from gateway.gen.n8ngateway.v1.execution_pb import ExecutionState
from gateway.rpc.errors import FailedPrecondition, RpcError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.adapters.database import Database
    from gateway.executions.dispatcher import Dispatcher
    from gateway.executions.ending import Endings
    from gateway.executions.peers import Peers
    from gateway.executions.runner import Runner
    from gateway.executions.watch import Watcher
    from gateway.rpc.principal import Principal

log = structlog.get_logger("gateway.executions")

KIND = "cancel"
"""What the replica of a run is asked."""
CANCEL_SECONDS = 10.0
"""How long a run may take to end after it was told to."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A run that was cancelled, and whether n8n has stopped it too."""

    stored: Stored
    n8n_stopped: bool


class Cancellations:
    """Cancels runs: those that wait at once, those under way through the replica that has them.

    When that replica cannot be told, it learns of the cancellation as it renews its lease.
    """

    def __init__(
        self,
        database: Database,
        runner: Runner,
        watcher: Watcher,
        peers: Peers,
        dispatcher: Dispatcher,
        endings: Endings,
    ) -> None:
        self._database = database
        self._runner = runner
        self._watcher = watcher
        self._peers = peers
        self._dispatcher = dispatcher
        self._endings = endings
        peers.answer(KIND, self._cancel_here)

    async def cancel(
        self, execution_id: str, caller: Principal, look: Callable[[], Awaitable[Stored]]
    ) -> Cancelled:
        """Cancel a run and wait for its end; `look` reads what is stored of it.

        Raises FailedPrecondition when it ended otherwise, and Unavailable when it has not ended yet.
        """
        text = await self._database.call("cancel_execution", caller, p_id=execution_id)
        fields: dict[str, Any] = orjson.loads(text)
        runner = fields.pop("runner", None)
        stored = stored_from(fields)
        if has_ended(stored.execution):
            if runner is None:
                await self._dispatcher.drop(execution_id)
                await self._endings.tell(execution_id)
            return _outcome(stored)
        if not self._runner.cancel(execution_id) and runner is not None:
            await self._tell(runner, execution_id)
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                stored = await self._watcher.end(execution_id, look)
        except TimeoutError:
            msg = "The run is to be cancelled, but its replica has not done so yet: ask again."
            retry_after = self._runner.lease_seconds / 3
            raise Unavailable(msg, reason="CANCEL_PENDING", retry_after=retry_after) from None
        return _outcome(stored)

    async def _tell(self, runner: str, execution_id: str) -> None:
        try:
            await self._peers.ask(runner, KIND, execution_id)
        except RpcError as error:
            log.info("cancellation not told", execution_id=execution_id, reason=error.reason)

    async def _cancel_here(self, execution_id: str, _data: bytes) -> bytes:
        self._runner.cancel(execution_id)
        return b""


def _outcome(stored: Stored) -> Cancelled:
    execution = stored.execution
    if execution.state is not ExecutionState.CANCELLED:
        raise FailedPrecondition(
            "The run ended before it could be cancelled.",
            reason="EXECUTION_ENDED",
            metadata={"execution_id": execution.id, "state": f"EXECUTION_STATE_{execution.state.name}"},
        )
    return Cancelled(stored, error_of(execution).metadata.get("n8n_stopped") == "true")
