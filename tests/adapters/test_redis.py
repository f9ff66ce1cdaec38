"""Changes, told from one replica to another over a real Valkey."""

from __future__ import annotations

import asyncio
from pathlib import Path

from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.adapters.redis import Changes
from gateway.local.valkey import LocalValkey


async def test_every_replica_hears_of_a_change(tmp_path: Path) -> None:
    async with LocalValkey(tmp_path) as server:
        clients = [Redis.from_url(server.url) for _ in range(2)]
        heard: list[asyncio.Queue[str | None]] = [asyncio.Queue(), asyncio.Queue()]
        replicas = [
            Changes(client, {"keys": queue.put_nowait}) for client, queue in zip(clients, heard, strict=True)
        ]
        for replica in replicas:
            replica.start()
        for queue in heard:
            assert await queue.get() is None  # subscribed: what was told before is unknown
        await replicas[0].publish("keys", "gw_live_a")
        assert [await queue.get() for queue in heard] == ["gw_live_a", "gw_live_a"]
        for replica, client in zip(replicas, clients, strict=True):
            await replica.close()
            await client.aclose()


async def test_listening_goes_on_whatever_is_told(tmp_path: Path) -> None:
    """Neither a message that is none of ours nor a fault of who listens may leave a replica deaf."""
    async with LocalValkey(tmp_path) as server:
        client = Redis.from_url(server.url)
        heard: asyncio.Queue[tuple[str, str | None]] = asyncio.Queue()

        def fail(name: str | None) -> None:
            heard.put_nowait(("failing", name))
            if name is not None:
                msg = "a fault"
                raise RuntimeError(msg)

        changes = Changes(client, {"keys": lambda name: heard.put_nowait(("keys", name)), "failing": fail})
        changes.start()
        assert {await heard.get(), await heard.get()} == {("keys", None), ("failing", None)}
        await client.publish("n8n-gateway:keys", b"\xff\xfe")
        assert await heard.get() == ("keys", None)
        with capture_logs() as logs:
            await client.publish("n8n-gateway:failing", "x")
            assert await heard.get() == ("failing", "x")
            # It subscribes anew, and so tells that changes may have been missed.
            assert {await heard.get(), await heard.get()} == {("keys", None), ("failing", None)}
        assert [line["event"] for line in logs] == ["listening to changes failed"]
        await client.publish("n8n-gateway:keys", "gw_live_a")
        assert await heard.get() == ("keys", "gw_live_a")
        await changes.close()
        await client.aclose()


async def test_without_redis_this_replica_still_knows(tmp_path: Path) -> None:
    client = Redis.from_url(f"unix://{tmp_path / 'none'}")
    heard: list[str | None] = []
    replica = Changes(client, {"keys": heard.append})
    replica.start()
    with capture_logs() as logs:
        await replica.publish("keys", "gw_live_a")
    assert heard == ["gw_live_a"]
    assert [line["event"] for line in logs] == ["change not published"]
    await replica.close()
    await client.aclose()


async def test_listening_ends_whenever_it_is_told_to(tmp_path: Path) -> None:
    """redis-py loses a cancellation that comes while it connects: in any turn of the loop it must end."""
    async with LocalValkey(tmp_path) as server:
        for turns in range(25):
            client = Redis.from_url(server.url)
            replica = Changes(client, {"keys": lambda _key: None})
            replica.start()
            for _ in range(turns):
                await asyncio.sleep(0)
            await asyncio.wait_for(replica.close(), 30)
            await client.aclose()
