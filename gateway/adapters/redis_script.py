"""A script on a connection of its own: a third of what a call through redis-py's pool costs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.connection import AbstractConnection


class RedisScript:
    """Runs a Lua script, for one caller at a time, where `redis` is.

    A connection that was lost while nobody used it is made anew. What breaks off a call (an error, a
    cancellation) ends the connection with it, as its answer may still come.
    """

    def __init__(self, redis: Redis, text: str) -> None:
        pool = redis.connection_pool
        self._make = pool.connection_class
        # How long a call may take is for its caller to say: a limit of its own would double the price.
        self._arguments = {**pool.connection_kwargs, "socket_timeout": None}
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._connection: AbstractConnection | None = None

    async def run(self, keys: Sequence[str], arguments: Sequence[int | str]) -> Any:
        """What the script answers. Raises RedisError, OSError."""
        command = (len(keys), *keys, *arguments)
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(RedisConnectionError, OSError):
                return await self._run(connection, command)
        return await self._run(self._make(**self._arguments), command)

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            await self._connection.disconnect()

    async def _run(self, connection: AbstractConnection, command: tuple[int | str, ...]) -> Any:
        try:
            try:
                answer = await _ask(connection, "EVALSHA", self._digest, *command)
            except NoScriptError:
                answer = await _ask(connection, "EVAL", self._text, *command)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        if self._connection is None:
            self._connection = connection
        else:
            await connection.disconnect()
        return answer


async def _ask(connection: AbstractConnection, *command: int | str) -> Any:
    await connection.send_packed_command(connection.pack_command(*command), check_health=False)
    return await connection.read_response(timeout=math.inf)
