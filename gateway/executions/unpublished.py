"""The events of a run that Redis had no room for, from the replica that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import structlog

from gateway.adapters.redis.event_streams import packed, unpacked
from gateway.executions.publisher import BATCH_BYTES
from gateway.rpc.errors import RpcError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.adapters.database import Database
    from gateway.executions.peers import Peers
    from gateway.executions.run import Run
    from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent

log = structlog.get_logger("gateway.executions")

KIND = "events"
"""What the replica of a run is asked."""
MOST_BYTES = 4 << 20
"""Of an answer: all of a replica wait in one connection, which Redis cuts where they are too large."""


class Unpublished:
    """Reads what a run's replica keeps of it until it can be published."""

    def __init__(self, database: Database, runs: Mapping[str, Run], peers: Peers) -> None:
        self._database = database
        self._runs = runs
        self._peers = peers
        peers.answer(KIND, self._tell)

    async def read(self, execution_id: str, after: int) -> list[ExecutionEvent]:
        """The next events above a sequence, not always all; none where nobody has them any more.

        Raises what `Database.call` raises.
        """
        text = await self._database.call("find_runner", None, p_execution_id=execution_id)
        runner = orjson.loads(text)["runner"]
        if runner is None:
            return []
        try:
            return [*unpacked(await self._peers.ask(runner, KIND, execution_id, orjson.dumps(after)))]
        except RpcError as error:
            log.info("events not told", execution_id=execution_id, reason=error.reason)
            return []

    async def _tell(self, execution_id: str, data: bytes) -> bytes:
        run = self._runs.get(execution_id)
        after: int = orjson.loads(data)
        events = run.log.kept_after(after, BATCH_BYTES)[0] if run else []
        if not events or events[0].sequence != after + 1:
            return b""
        told = packed(events)
        return told if len(told) <= MOST_BYTES else b""
