"""Redis, or Valkey: one connection pool for all that the replicas share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from gateway.rpc.errors import Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger("gateway.redis")

_CHANNEL = "n8n-gateway:"
API_KEYS = "api-keys"
ORGANIZATIONS = "organizations"
N8N_INSTANCES = "n8n-instances"
"""Topics of changes: public ids of keys, ids of organizations, ids of those whose n8n is another one."""
_NONCE = "n8n-gateway:nonce:"
_NONCE_SECONDS = 2.0
_PUBLISH_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_CANCEL_SECONDS = 0.1


async def ping(redis: Redis) -> None:
    """Raises Unavailable when Redis does not answer."""
    try:
        await redis.ping()
    except RedisError:
        raise unavailable() from None


def unavailable() -> Unavailable:
    """The error of everything that needs Redis while it is away."""
    return Unavailable("Redis does not answer.", reason="REDIS_UNREACHABLE", retry_after=1)


class Nonces:
    """What may be used once, by whichever replica."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def take(self, name: str, seconds: int) -> bool:
        """Take a nonce for so long, and say whether nobody had it.

        Raises Unavailable when Redis cannot be asked: nothing that may be a replay goes on.
        """
        try:
            async with asyncio.timeout(_NONCE_SECONDS):
                return bool(await self._redis.set(_NONCE + name, b"", nx=True, ex=seconds))
        except (RedisError, OSError) as error:
            log.warning("nonce not taken", error=type(error).__name__)
            msg = "Nobody can tell now whether this signed request is a replay: try again."
            raise Unavailable(msg, reason="REPLAY_PROTECTION_AWAY", retry_after=1) from None


class Changes:
    """Tells every replica of what is no longer as it was (Redis publish and subscribe), by topics.

    `forgets` has for each topic what is called with the name of the thing that changed, and with None
    when some changes may have been missed. Without Redis nobody else is told, and nothing raises: each
    replica then finds out as its own memory ages.
    """

    def __init__(self, redis: Redis, forgets: Mapping[str, Callable[[str | None], None]]) -> None:
        self._redis = redis
        self._forgets = dict(forgets)
        self._listening: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen, from now on, to what other replicas tell."""
        self._listening = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Stop listening."""
        # redis-py loses a cancellation that comes while it connects.
        while self._listening is not None and not self._listening.done():
            self._listening.cancel()
            await asyncio.wait([self._listening], timeout=_CANCEL_SECONDS)

    async def publish(self, topic: str, name: str) -> None:
        """Tell of a change, here at once and to the others as far as they can be reached."""
        self._forgets[topic](name)
        try:
            async with asyncio.timeout(_PUBLISH_SECONDS):
                await self._redis.publish(_CHANNEL + topic, name)
        except (RedisError, OSError) as error:
            log.warning("change not published", topic=topic, error=type(error).__name__)

    async def _listen(self) -> None:
        while True:
            try:
                await self._hear()
            except (RedisError, OSError):
                pass
            except Exception:
                log.exception("listening to changes failed")
            await asyncio.sleep(_RETRY_SECONDS)

    async def _hear(self) -> None:
        async with self._redis.pubsub() as channel:
            await channel.subscribe(*(_CHANNEL + topic for topic in self._forgets))
            async for message in channel.listen():
                forget = self._forgets[message["channel"].decode().removeprefix(_CHANNEL)]
                # A subscription, the first or one after a broken connection: who knows what was told before.
                forget(_name(message["data"]) if message["type"] == "message" else None)


def _name(told: bytes) -> str | None:
    """What changed; None, as for something unknown, where no replica of ours can have told it."""
    try:
        return told.decode()
    except UnicodeDecodeError:
        return None


@contextmanager
def told() -> Iterator[None]:
    """Tell the faults of a connection, and of one that takes too long, as `unavailable`."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise unavailable() from error
