"""A script on a connection of its own: a third of what a call through redis-py's pool costs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hiredis import pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.connection import AbstractConnection

    Argument = int | str | bytes


class RedisScript:
    """Runs a Lua script, for one caller at a time, where `redis` is.

    A kept connection that turns out to be lost is made anew, and asked again: what it did not answer may have
    been done. What breaks off a call (an error, a cancellation) ends the connection with it: its answer may
    still come, or its server may be no primary any more.
    """

    def __init__(self, redis: Redis, text: str) -> None:
        pool = redis.connection_pool
        self._make = pool.connection_class
        # How long a call may take is for its caller to say: a limit of its own would double the price.
        self._arguments = {**pool.connection_kwargs, "socket_timeout": None}
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._connection: AbstractConnection | None = None

    async def run(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """What the script answers. Raises RedisError, OSError."""
        [answer] = await self.run_all([(keys, arguments)])
        return answer

    async def run_all(self, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """What the script answers to each of several calls, sent together. Raises as `run` does."""
        commands = [(len(keys), *keys, *arguments) for keys, arguments in calls]
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                return await self._run(connection, commands)
            except (RedisConnectionError, OSError):
                pass
        return await self._run(self._make(**self._arguments), commands)

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            await self._connection.disconnect()

    async def _run(
        self, connection: AbstractConnection, commands: Sequence[tuple[Argument, ...]]
    ) -> list[Any]:
        try:
            answers = await _ask(connection, [("EVALSHA", self._digest, *command) for command in commands])
            if all(isinstance(answer, NoScriptError) for answer in answers):
                answers = await _ask(connection, [("EVAL", self._text, *command) for command in commands])
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        refused = next((answer for answer in answers if isinstance(answer, ResponseError)), None)
        if refused is not None:
            await connection.disconnect(nowait=True)
            raise refused
        if self._connection is None:
            self._connection = connection
        else:
            await connection.disconnect()
        return answers


async def _ask(connection: AbstractConnection, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
    """The answers, errors among them."""
    packed = b"".join([pack_command(command) for command in commands])  # type: ignore[arg-type] # of any length
    try:
        await connection.send_packed_command(packed, check_health=False)
    except RuntimeError as error:
        # uvloop, of a connection that was reset.
        raise RedisConnectionError(str(error)) from error
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(await connection.read_response(timeout=math.inf))
        except ResponseError as error:
            answers.append(error)
    return answers
