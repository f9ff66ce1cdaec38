"""The one pool of connections that all which is kept in Redis shares."""

from __future__ import annotations

from redis.asyncio import Redis


def redis_pool(url: str) -> Redis:
    """Connections to the Redis at a URL, as many as are needed. How long a call may take, its caller says.

    With a timeout of its own, redis-py loses a cancellation that comes as a command is sent: asyncio.wait_for
    does, before Python 3.12. So that of the URL does not count, either.
    """
    redis: Redis = Redis.from_url(url)
    redis.connection_pool.connection_kwargs["socket_timeout"] = None
    return redis
