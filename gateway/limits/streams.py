"""How many streams a tenant has open, over all replicas."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Coroutine
from itertools import count
from typing import TYPE_CHECKING, Any

from gateway.rpc.errors import Unavailable

if TYPE_CHECKING:
    from gateway.adapters.redis.leases import RedisLeases
    from gateway.adapters.redis.replicas import Replicas


class OpenStreams:
    """Streams by tenant, each a lease in Redis that this process renews while the stream is open.

    A process that dies takes its streams with it: their leases run out. While Redis is away, each
    replica opens its share of what a tenant may have.
    """

    def __init__(self, leases: RedisLeases, replicas: Replicas) -> None:
        self._leases = leases
        self._replicas = replicas
        self._open: dict[str, set[str]] = {}
        self._names = map(f"{secrets.token_urlsafe(6)}:{{}}".format, count())
        self._giving_back: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    async def open(self, tenant: str, most: int) -> str | None:
        """A name for one more stream of a tenant, to be closed by; None when it has as many as it may."""
        name = next(self._names)
        if not await self._is_room(tenant, name, most):
            return None
        self._open.setdefault(tenant, set()).add(name)
        return name

    def close(self, tenant: str, name: str) -> None:
        """The stream has ended."""
        streams = self._open[tenant]
        streams.discard(name)
        if not streams:
            del self._open[tenant]
        self._give_back(tenant, name)

    async def renew(self) -> None:
        """Hold on to what is open; to be called more often than leases run out."""
        with contextlib.suppress(Unavailable):
            for tenant, streams in list(self._open.items()):
                await self._leases.renew(tenant, streams)

    async def drained(self) -> None:
        """Wait until Redis knows of every end, or is known to be away."""
        await asyncio.gather(*self._giving_back)

    async def _is_room(self, tenant: str, name: str, most: int) -> bool:
        if self._replicas.is_reachable:
            try:
                is_room = await self._leases.take(tenant, name, most=most)
            except Unavailable:
                self._replicas.lost()
            except BaseException:
                self._give_back(tenant, name)
                raise
            else:
                self._replicas.found()
                return is_room
        return len(self._open.get(tenant, ())) < max(1, most // self._replicas.count)

    def _give_back(self, tenant: str, name: str) -> None:
        if self._replicas.is_reachable:
            self._in_background(self._leases.give_back(tenant, name))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        async def quietly() -> None:
            with contextlib.suppress(Unavailable):  # the lease will run out
                await work

        task = asyncio.create_task(quietly())
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)
