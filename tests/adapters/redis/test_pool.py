"""The connections to Redis, to one that takes them and says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.adapters.redis.pool import redis_pool

TURNS = 40
"""More turns of the event loop than it takes to connect and to send a command."""


@pytest.fixture
async def silent_url() -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_call_can_be_broken_off_at_any_time(silent_url: str, turns: int) -> None:
    """Or else what waits for Redis only so long waits for as long as it says nothing."""
    async with redis_pool(f"{silent_url}?socket_timeout=5") as redis:
        call = asyncio.create_task(redis.ping())
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call], timeout=20)
        broken_off = call.cancelled()
        while not call.done():
            call.cancel()
            await asyncio.sleep(0)
    assert broken_off
