"""The limiter: counts over all replicas through Redis, and by itself while Redis is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gateway.rpc.errors import Unavailable
from gateway.rpc.quota import Decision

if TYPE_CHECKING:
    from gateway.adapters.redis_replicas import Replicas
    from gateway.adapters.redis_windows import RedisWindows
    from gateway.limits.windows import LocalWindows
    from gateway.rpc.quota import Quota


class Limiter:
    """Admits calls within their quotas.

    While Redis is away, each replica admits its share: the quota divided by the number of replicas. It also
    keeps to that share for one window after Redis is back, for Redis does not know what was admitted
    meanwhile. What it admits through Redis it counts by itself as well, so that going away gives
    nobody a fresh window.
    """

    def __init__(
        self,
        shared: RedisWindows,
        local: LocalWindows,
        replicas: Replicas,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared = shared
        self._local = local
        self._replicas = replicas
        self._clock = clock

    async def take(self, quotas: Sequence[Quota]) -> Decision:
        """Count a call by all of its quotas, or by none when one of them refuses it. Raises nothing."""
        if not self._replicas.is_reachable:
            return self._take_share(quotas)
        if self._is_wary(quotas):
            decision = self._share(quotas)
            if not decision.is_admitted:
                return decision
        try:
            standings = await self._shared.take(quotas)
        except Unavailable:
            self._replicas.lost()
            return self._take_share(quotas)
        decision = Decision(tuple(quotas), standings, is_shared=True)
        if decision.is_admitted:
            self._local.count(quotas)
        return decision

    def _take_share(self, quotas: Sequence[Quota]) -> Decision:
        decision = self._share(quotas)
        if decision.is_admitted:
            self._local.count(quotas)
            standings = (s._replace(remaining=s.remaining - 1) for s in decision.standings)
            return decision._replace(standings=tuple(standings))
        return decision

    def _share(self, quotas: Sequence[Quota]) -> Decision:
        standings = self._local.standings(quotas, share=self._replicas.count)
        return Decision(tuple(quotas), standings, is_shared=False)

    def _is_wary(self, quotas: Sequence[Quota]) -> bool:
        since = self._clock() - self._replicas.back_since
        return any(since < quota.seconds for quota in quotas)
