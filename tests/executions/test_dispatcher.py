"""Runs that may be sent again: any replica knows what to send for them before n8n does."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest

from gateway.adapters.n8n import N8n
from gateway.adapters.vault import SealedVault
from gateway.executions import run as run_module
from gateway.executions.attempt import Caller, Limits
from gateway.executions.dispatcher import Dispatcher
from gateway.executions.publisher import Publisher
from gateway.executions.run import Job, Run
from gateway.executions.runner import Runner
from gateway.executions.token import ExecutionTokens
from gateway.gen.n8ngateway.v1.workflow_pb import UnknownOutcomePolicy, Workflow
from gateway.rpc.errors import Unavailable
from tests.executions.accounts import PRICE, Accounts
from tests.executions.test_runner import Accepting, stored
from tests.stub_n8n import StubN8n

ORGANIZATION = "0197a7b0-0000-7000-8000-000000000001"
PAYLOAD = b'{"to":"nobody@else.example"}'


class Shelf:
    """Keeps what runs are to be sent once `gate` is open, unless `away`; nobody hears of it if `mute`."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.asked, self.gate, self.dropped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.away = self.mute = False

    async def store(self, execution_id: str, _organization_id: str, _workflow_id: str, data: bytes) -> None:
        self.asked.set()
        await self.gate.wait()
        if self.away:
            raise Unavailable("Redis does not answer.")
        self.kept[execution_id] = data
        if self.mute:
            raise Unavailable("Redis does not answer.")

    async def drop(self, execution_id: str) -> None:
        self.kept.pop(execution_id, None)
        self.dropped.set()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def runner(stub_n8n: StubN8n) -> AsyncIterator[Runner]:
    publisher = Publisher(Accepting(), "this replica")
    publisher.start()
    async with N8n(stub_n8n.url, internal_secret="s" * 64) as n8n:
        caller = Caller(lambda *_: nullcontext(n8n), Limits(), stored, ExecutionTokens("t" * 64))
        running = Runner(Accounts(), caller, publisher, replica="this replica")
        yield running
        await running.drain(0)
    await publisher.close(1)


@pytest.fixture
def dispatcher(runner: Runner, shelf: Shelf) -> Dispatcher:
    parts: Any = Accounts(), shelf, runner, SealedVault(Accounts(), [("k", os.urandom(32))]), None
    return Dispatcher(*parts, capacity=1)


async def begin(runner: Runner, dispatcher: Dispatcher) -> Run:
    """Begin a run as ExecutionService does."""
    policy = UnknownOutcomePolicy.RETRY
    workflow = Workflow(id="w-1", webhook_path="echo", is_idempotent=True, unknown_outcome_policy=policy)
    job = Job("run of echo", workflow, PRICE, PAYLOAD, "", ORGANIZATION)

    async def charge() -> Run:
        run = runner.prepared(job)
        dispatcher.keep(run)
        return run

    return await runner.begin(job.execution_id, charge)


async def test_nothing_is_sent_before_it_is_kept(
    runner: Runner, dispatcher: Dispatcher, shelf: Shelf, stub_n8n: StubN8n, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "KEEP_SECONDS", None)
    before = stub_n8n.calls["echo"]
    run = await begin(runner, dispatcher)
    await shelf.asked.wait()
    for _ in range(100):  # turns in which it could connect
        await asyncio.sleep(0)
    assert stub_n8n.calls["echo"] == before
    shelf.gate.set()
    await run.ended()
    assert stub_n8n.calls["echo"] == before + 1
    await shelf.dropped.wait()
    assert not shelf.kept


async def test_what_is_kept_is_sealed(runner: Runner, dispatcher: Dispatcher, shelf: Shelf) -> None:
    run = await begin(runner, dispatcher)
    assert run.keeping is not None
    shelf.gate.set()
    await run.keeping
    (envelope,) = map(json.loads, shelf.kept.values())
    assert envelope["key_id"] == "k"
    assert PAYLOAD not in base64.b64decode(envelope["sealed"])
    await run.ended()


async def test_a_run_that_redis_cannot_keep_is_sent(
    runner: Runner, dispatcher: Dispatcher, shelf: Shelf
) -> None:
    shelf.away = True
    shelf.gate.set()
    run = await begin(runner, dispatcher)
    await run.ended()
    assert not run.is_stored


async def test_what_is_kept_too_late_is_dropped(
    runner: Runner, dispatcher: Dispatcher, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run does not wait for a Redis that hangs, and leaves nothing there that nobody would take."""
    monkeypatch.setattr(run_module, "KEEP_SECONDS", 0)
    run = await begin(runner, dispatcher)
    await run.ended()
    assert not run.is_leased
    shelf.gate.set()
    await shelf.dropped.wait()
    assert not shelf.kept


async def test_what_was_kept_though_nobody_heard_is_dropped(
    runner: Runner, dispatcher: Dispatcher, shelf: Shelf
) -> None:
    shelf.mute = True
    shelf.gate.set()
    run = await begin(runner, dispatcher)
    await run.ended()
    assert not run.is_stored
    await shelf.dropped.wait()
    assert not shelf.kept
