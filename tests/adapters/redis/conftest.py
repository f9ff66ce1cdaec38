"""One Valkey for all of these tests, empty before each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.local.valkey import LocalValkey


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def valkey(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with LocalValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
async def redis(valkey: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey) as client:
        await client.flushall()
        yield client
