"""What replicas tell each other at once (Redis publish and subscribe), over one connection a process.

Nothing is kept: who does not listen does not hear. A handler is therefore called with None whenever something
may have been missed, and has to look for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from gateway.adapters.redis.availability import within
from gateway.rpc.periodic import stop

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

    Handler = Callable[[bytes | None], None]

log = structlog.get_logger("gateway.redis")

_ALWAYS = "n8n-gateway:replicas"
"""Keeps the connection open while nothing else is listened to."""
_SUBSCRIBE_SECONDS = 5.0
PING_SECONDS = 10.0
"""How long Redis may say nothing before it is asked to. After twice that the connection is left."""
_PUBLISH_SECONDS = 2.0
_RETRY_SECONDS = 0.5


class Channels:
    """Channels by name. `start` it in the loop that uses it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._handlers: dict[str, list[Handler]] = {_ALWAYS: []}
        self._stale: set[str] = set()
        """Channels whose subscription is not as it should be."""
        self._lost = False
        """Whether it is logged that nothing is heard."""
        self._heard_at = 0.0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen from now on."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop listening."""
        await stop(self._task)

    async def publish(self, channel: str, data: bytes) -> int:
        """Tell who listens; the answer is how many processes do. Raises Unavailable."""
        async with within(_PUBLISH_SECONDS):
            return int(await self._redis.publish(channel, data))

    @contextlib.contextmanager
    def listen(self, channel: str, handler: Handler) -> Iterator[None]:
        """Call `handler` with what is published, and with None as soon as it is listened to."""
        handlers = self._handlers.setdefault(channel, [])
        handlers.append(handler)
        if len(handlers) == 1:
            self._turn(channel)
        try:
            yield
        finally:
            handlers.remove(handler)
            if not handlers:
                del self._handlers[channel]
                self._turn(channel)

    def _turn(self, channel: str) -> None:
        self._stale.add(channel)
        self._changed.set()

    async def _run(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await self._converse(pubsub)
            except (RedisError, OSError) as error:
                if not self._lost:
                    log.warning("not listening to other replicas", error=type(error).__name__)
                self._lost = True
            except Exception:
                if not self._lost:
                    log.exception("not listening to other replicas")
                self._lost = True
            await asyncio.sleep(_RETRY_SECONDS)

    async def _converse(self, pubsub: PubSub) -> None:
        """Hand over what comes, and keep to what is listened to, until the connection breaks."""
        self._stale.clear()
        async with asyncio.timeout(_SUBSCRIBE_SECONDS):
            await pubsub.subscribe(*self._handlers)
        self._heard_at = time.monotonic()
        hearing = asyncio.create_task(self._hear(pubsub))
        try:
            while not hearing.done():
                turned = asyncio.create_task(self._changed.wait())
                await asyncio.wait(
                    [hearing, turned], timeout=PING_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                turned.cancel()
                self._changed.clear()
                if time.monotonic() - self._heard_at > 2 * PING_SECONDS:
                    raise ConnectionError("Redis is silent")
                async with asyncio.timeout(_SUBSCRIBE_SECONDS):
                    await self._keep_to(pubsub)
        finally:
            hearing.cancel()
            await asyncio.wait([hearing])
        hearing.result()

    async def _keep_to(self, pubsub: PubSub) -> None:
        """Listen to what is wanted now, and to nothing else; where nothing has changed, ask for an answer."""
        stale, self._stale = self._stale, set()
        wanted = [channel for channel in stale if channel in self._handlers]
        unwanted = [channel for channel in stale if channel not in self._handlers]
        if wanted:
            await pubsub.subscribe(*wanted)
        if unwanted:
            await pubsub.unsubscribe(*unwanted)
        if not stale:
            await pubsub.ping()

    async def _hear(self, pubsub: PubSub) -> None:
        async for message in pubsub.listen():
            self._heard_at = time.monotonic()
            if message["type"] not in ("message", "subscribe"):
                continue
            if self._lost:
                log.info("listening to other replicas again")
                self._lost = False
            data = message["data"] if message["type"] == "message" else None
            for handler in tuple(self._handlers.get(message["channel"].decode(), ())):
                try:
                    handler(data)
                except Exception:
                    log.exception("message of another replica not understood")
