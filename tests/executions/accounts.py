"""A database for tests that knows one thing: how to settle an execution, once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gateway.adapters.database import Json
from gateway.rpc.errors import RpcError
from gateway.rpc.principal import Principal

PRICE = 3
BALANCE = 97


class Accounts:
    """Implements `Database`. `faults` are raised first, one a call; `gate` holds answers back."""

    def __init__(self, *faults: RpcError) -> None:
        self.faults = list(faults)
        self.calls: list[dict[str, Any]] = []
        self.settled: dict[str, dict[str, Any]] = {}
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def call(self, function: str, principal: Principal | None, /, **arguments: Json) -> str:
        assert (function, principal) == ("settle_execution", None)
        self.calls.append(dict(arguments))
        self.asked.set()
        await self.gate.wait()
        if self.faults:
            raise self.faults.pop(0)
        kept = self.settled.setdefault(str(arguments["p_execution_id"]), dict(arguments))
        used = PRICE if kept["p_state"] == "EXECUTION_STATE_COMPLETED" else 0
        return json.dumps(
            {"state": kept["p_state"], "credits_used": used, "credits_remaining": BALANCE - used}
        )

    async def ping(self) -> None:
        return

    async def close(self) -> None:
        return
