"""Scripts on a connection of their own."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvloop
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.adapters.redis.script import RedisScript
from gateway.adapters.redis.windows import RedisWindows
from gateway.local.valkey import LocalValkey
from gateway.rpc.quota import Quota

ECHO = "return {KEYS[1], ARGV[1]}"


@pytest.fixture
async def script(redis: Redis) -> AsyncIterator[RedisScript]:
    made = RedisScript(redis, ECHO)
    yield made
    await made.close()


async def connections(redis: Redis) -> set[str]:
    return {client["id"] for client in await redis.client_list()}


async def test_one_connection_serves_call_after_call(redis: Redis, script: RedisScript) -> None:
    await redis.script_flush()
    before = await connections(redis)
    assert await script.run(["k"], [1]) == [b"k", b"1"]
    mine = await connections(redis) - before
    for number in range(5):
        assert await script.run(["k"], [number]) == [b"k", b"%d" % number]
    assert await connections(redis) - before == mine
    assert len(mine) == 1


async def test_a_connection_that_was_lost_is_made_anew(redis: Redis, script: RedisScript) -> None:
    before = await connections(redis)
    await script.run(["k"], [1])
    (mine,) = await connections(redis) - before
    await redis.client_kill_filter(_id=mine)
    assert await script.run(["k"], [2]) == [b"k", b"2"]


async def test_a_script_that_is_forgotten_is_told_again(redis: Redis, script: RedisScript) -> None:
    await script.run(["k"], [1])
    await redis.script_flush()
    assert await script.run(["k"], [2]) == [b"k", b"2"]


async def test_an_answer_is_nobody_elses(redis: Redis) -> None:
    waiting = RedisScript(redis, "local n = 0 for i = 1, 3000000 do n = n + i end return ARGV[1]")
    async with asyncio.timeout(30):
        running = asyncio.create_task(waiting.run([], ["first"]))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await waiting.run([], ["second"]) == b"second"
    await waiting.close()


@pytest.mark.parametrize("error", ["ERR no", "READONLY no primary any more"])
async def test_an_error_of_the_script_is_told(redis: Redis, error: str) -> None:
    """Its connection is let go: it may lead to a server that is no primary any more."""
    before = await connections(redis)
    broken = RedisScript(redis, f"return redis.error_reply('{error}')")
    for _ in range(2):
        with pytest.raises(ResponseError, match="no"):
            await broken.run([], [])
    async with asyncio.timeout(10):
        while await connections(redis) != before:  # noqa: ASYNC110 - what is waited for is in the server
            await asyncio.sleep(0.01)


def test_a_connection_that_was_reset_is_made_anew(tmp_path: Path) -> None:
    """As a firewall or a host that was restarted ends it; uvloop tells that in its own way."""
    uvloop.run(_take_after_a_reset(tmp_path))


async def _take_after_a_reset(directory: Path) -> None:
    async with LocalValkey(directory) as valkey:
        url = urlsplit(valkey.url)
        accepted: list[asyncio.StreamWriter] = []

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(writer)
            back, forth = await asyncio.open_connection(url.hostname, url.port)

            async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                while data := await source.read(2**16):
                    target.write(data)

            await asyncio.gather(copy(reader, forth), copy(back, writer), return_exceptions=True)
            forth.close()

        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        redis = Redis.from_url(valkey.url.replace(f":{url.port}", f":{port}"))
        windows, quota = RedisWindows(redis, timeout=10), Quota("organization", "o", 5, 60)
        assert [standing.remaining for standing in await windows.take([quota])] == [4]
        connection = accepted[-1].get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted[-1].transport.abort()
        kept = windows._script._connection
        assert kept is not None
        async with asyncio.timeout(10):
            while not kept._writer.transport.is_closing():  # noqa: ASYNC110 - in the client
                await asyncio.sleep(0.01)
        assert [standing.remaining for standing in await windows.take([quota])] == [3]
        await windows.close()
        await redis.aclose()
        server.close()


async def test_callers_at_one_time_are_kept_apart(script: RedisScript) -> None:
    answers = await asyncio.gather(*(script.run(["k"], [number]) for number in range(8)))
    assert answers == [[b"k", b"%d" % number] for number in range(8)]


async def test_several_calls_go_together(redis: Redis, script: RedisScript) -> None:
    await redis.script_flush()
    calls = [(["k"], [b"\x00" * number]) for number in range(5)]
    for _ in range(2):
        assert await script.run_all(calls) == [[b"k", b"\x00" * number] for number in range(5)]


async def test_an_error_of_one_call_is_that_of_all_and_leaves_no_answer_behind(redis: Redis) -> None:
    script = RedisScript(redis, "return redis.call('INCRBY', KEYS[1], ARGV[1])")
    with pytest.raises(ResponseError, match="not an integer"):
        await script.run_all([(["n"], [1]), (["n"], ["x"]), (["n"], [2])])
    assert await script.run(["n"], [0]) == 3
    await script.close()
