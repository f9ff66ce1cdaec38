"""What replicas tell each other, over a real Valkey."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from structlog.testing import capture_logs

from gateway.adapters.redis import channels as module
from gateway.adapters.redis.channels import Channels
from gateway.adapters.redis.pool import redis_pool
from gateway.local.valkey import LocalValkey


class Failing(PubSub):
    """Fails in a way that nobody has thought of."""

    async def subscribe(self, *_channels: Any, **_handlers: Any) -> None:
        msg = "a fault of the client"
        raise RuntimeError(msg)


class FailingAtFirst(Redis):
    """The first conversation fails."""

    conversations = 0

    def pubsub(self, **options: Any) -> PubSub:
        self.conversations += 1
        return Failing(self.connection_pool) if self.conversations == 1 else super().pubsub(**options)


async def test_listening_goes_on_after_any_fault(tmp_path: Path) -> None:
    async with LocalValkey(tmp_path) as server:
        client = FailingAtFirst.from_url(server.url)
        channels = Channels(client)
        heard: asyncio.Queue[bytes | None] = asyncio.Queue()
        with capture_logs() as logs, channels.listen("a channel", heard.put_nowait):
            channels.start()
            assert await asyncio.wait_for(heard.get(), 30) is None
            assert await channels.publish("a channel", b"told") == 1
            assert await asyncio.wait_for(heard.get(), 30) == b"told"
        assert [(line["event"], line["log_level"]) for line in logs] == [
            ("not listening to other replicas", "error"),
            ("listening to other replicas again", "info"),
        ]
        await channels.close()
        await client.aclose()


class AwayAtFirst(Redis):
    """Cannot be reached for some conversations."""

    conversations = 0

    def pubsub(self, **options: Any) -> PubSub:
        self.conversations += 1
        if self.conversations <= 3:
            msg = "refused"
            raise ConnectionRefusedError(msg)
        return super().pubsub(**options)


async def test_that_nothing_is_heard_is_logged_once_and_so_is_its_end(tmp_path: Path) -> None:
    async with LocalValkey(tmp_path) as server:
        client = AwayAtFirst.from_url(server.url)
        channels = Channels(client)
        heard: asyncio.Queue[bytes | None] = asyncio.Queue()
        with capture_logs() as logs, channels.listen("a channel", heard.put_nowait):
            channels.start()
            assert await asyncio.wait_for(heard.get(), 30) is None
        assert [(line["event"], line["log_level"]) for line in logs] == [
            ("not listening to other replicas", "warning"),
            ("listening to other replicas again", "info"),
        ]
        await channels.close()
        await client.aclose()


async def test_a_connection_on_which_nothing_comes_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one to a host that has gone without a word."""
    monkeypatch.setattr(module, "PING_SECONDS", 0.5)
    heard: asyncio.Queue[bytes | None] = asyncio.Queue()
    async with LocalValkey(tmp_path) as server:
        client = redis_pool(server.url)
        channels = Channels(client)
        with capture_logs() as logs, channels.listen("a channel", heard.put_nowait):
            channels.start()
            assert await asyncio.wait_for(heard.get(), 30) is None
            await asyncio.sleep(6 * module.PING_SECONDS)
            assert not logs  # what answers is kept
            os.kill(server.pid, signal.SIGSTOP)
            try:
                async with asyncio.timeout(30):
                    while not logs:  # noqa: ASYNC110 - a log tells nobody
                        await asyncio.sleep(0.05)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            assert await asyncio.wait_for(heard.get(), 30) is None
        await channels.close()
        await client.aclose()
