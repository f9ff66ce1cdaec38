"""The `Database` port with a watch on it: how long calls take, and whether the database is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from gateway import metrics
from gateway.rpc.errors import Unavailable

if TYPE_CHECKING:
    from gateway.adapters.database import Database, Json
    from gateway.rpc.principal import Principal

_seconds = cache(metrics.DATABASE_SECONDS.labels)


class WatchedDatabase:
    """Measures every call of `database`, and tells `report` whether it was answered."""

    def __init__(self, database: Database, report: Callable[[bool], None]) -> None:
        self._database = database
        self._report = report

    async def call(self, function: str, principal: Principal | None, /, **arguments: Json) -> str:
        """See `Database.call`."""
        started = time.perf_counter()
        try:
            answer = await self._database.call(function, principal, **arguments)
        except Unavailable:
            metrics.DATABASE_FAILURES.labels(function).inc()
            self._report(False)
            raise
        finally:
            _seconds(function).observe(time.perf_counter() - started)
        self._report(True)
        return answer

    async def ping(self) -> None:
        """See `Database.ping`."""
        try:
            await self._database.ping()
        except Unavailable:
            self._report(False)
            raise
        self._report(True)

    async def close(self) -> None:
        """See `Database.close`."""
        await self._database.close()
