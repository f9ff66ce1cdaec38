"""The limiter: counts over all replicas through Redis, and by itself while Redis is away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.limits.windows import LocalWindows
from gateway.rpc.errors import Unavailable
from gateway.rpc.quota import Decision

if TYPE_CHECKING:
    from gateway.adapters.redis.replicas import Replicas
    from gateway.adapters.redis.windows import RedisWindows
    from gateway.rpc.quota import Quota


class Limiter:
    """Admits calls within their quotas.

    While Redis is away, each replica admits its share: the quota divided by the number of replicas. What it
    admits through Redis it counts by itself as well, so that going away gives nobody a fresh window; and
    what it admits alone it owes to Redis, which is told with the next call of that quota.
    """

    def __init__(self, shared: RedisWindows, replicas: Replicas) -> None:
        self._shared = shared
        self._replicas = replicas
        self._own = LocalWindows()
        self._owed = LocalWindows()

    async def take(self, quotas: Sequence[Quota]) -> Decision:
        """Count a call by all of its quotas, or by none when one of them refuses it. Raises nothing."""
        if not self._replicas.is_reachable:
            return self._take_share(quotas)
        owed = [self._owed.forget(quota) for quota in quotas] if self._owed else ()
        try:
            standings = await self._shared.take(quotas, owed)
        except Unavailable:
            self._replicas.lost()
            for quota, calls in zip(quotas, owed, strict=False):
                self._owed.count([quota], calls)
            return self._take_share(quotas)
        self._replicas.found()
        decision = Decision(tuple(quotas), standings, is_shared=True)
        if decision.is_admitted:
            self._own.count(quotas)
        return decision

    def _take_share(self, quotas: Sequence[Quota]) -> Decision:
        standings = self._own.standings(quotas, share=self._replicas.count)
        decision = Decision(tuple(quotas), standings, is_shared=False)
        if not decision.is_admitted:
            return decision
        self._own.count(quotas)
        self._owed.count(quotas)
        left = (standing._replace(remaining=standing.remaining - 1) for standing in standings)
        return decision._replace(standings=tuple(left))
