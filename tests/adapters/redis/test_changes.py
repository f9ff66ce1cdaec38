"""Changes, told from one replica to another over a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.adapters.redis.changes import Changes
from gateway.adapters.redis.channels import Channels
from gateway.local.valkey import LocalValkey


@asynccontextmanager
async def replica(url: str, **forgets: Callable[[str | None], None]) -> AsyncIterator[Changes]:
    async with Redis.from_url(url) as client:
        channels = Channels(client)
        channels.start()
        changes = Changes(channels, forgets)
        try:
            with changes.listen():
                yield changes
        finally:
            await channels.close()


async def test_every_replica_hears_of_a_change(tmp_path: Path) -> None:
    first: asyncio.Queue[str | None] = asyncio.Queue()
    second: asyncio.Queue[str | None] = asyncio.Queue()
    async with (
        LocalValkey(tmp_path) as server,
        replica(server.url, keys=first.put_nowait) as changes,
        replica(server.url, keys=second.put_nowait),
    ):
        for queue in (first, second):
            assert await queue.get() is None  # subscribed: what was told before is unknown
        await changes.publish("keys", "gw_live_a")
        assert await first.get() == await first.get() == await second.get() == "gw_live_a"


async def test_listening_goes_on_whatever_is_told(tmp_path: Path) -> None:
    """Neither a message that is none of ours nor a fault of who listens may leave a replica deaf."""
    heard: asyncio.Queue[str | None] = asyncio.Queue()

    def fail(name: str | None) -> None:
        if name is not None:
            msg = "a fault"
            raise RuntimeError(msg)

    async with (
        LocalValkey(tmp_path) as server,
        replica(server.url, keys=heard.put_nowait, failing=fail),
        Redis.from_url(server.url) as client,
    ):
        assert await heard.get() is None
        await client.publish("n8n-gateway:keys", b"\xff\xfe")
        assert await heard.get() is None
        with capture_logs() as logs:
            await client.publish("n8n-gateway:failing", "x")
            await client.publish("n8n-gateway:keys", "gw_live_a")
            assert await heard.get() == "gw_live_a"
        assert [line["event"] for line in logs] == ["message of another replica not understood"]


async def test_without_redis_this_replica_still_knows(tmp_path: Path) -> None:
    heard: list[str | None] = []
    with capture_logs() as logs:
        async with replica(f"unix://{tmp_path / 'none'}", keys=heard.append) as changes:
            await changes.publish("keys", "gw_live_a")
    assert heard == ["gw_live_a"]
    assert "change not published" in [line["event"] for line in logs]
