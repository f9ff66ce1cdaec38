"""Runs that another replica had, taken from a real queue by one that the database gives them to."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from protobuf import Oneof
from redis.asyncio import Redis

from gateway.adapters.n8n import N8n
from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.redis.event_streams import Batch, EventStreams
from gateway.adapters.redis.run_queue import RunQueue
from gateway.adapters.vault import SealedVault
from gateway.executions import runner as module
from gateway.executions.attempt import Caller, Limits
from gateway.executions.dispatcher import Dispatcher
from gateway.executions.publisher import Publisher
from gateway.executions.run import Job
from gateway.executions.runner import Runner
from gateway.executions.token import ExecutionTokens
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent, ExecutionStarted
from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.local.valkey import LocalValkey
from tests.adapters.databases import Tenant, new_tenant
from tests.executions.test_runner import stored
from tests.stub_n8n import StubN8n
from tests.supabase.test_lifecycle import expire, set_workflow, sweep

QUEUE_BYTES = 1 << 20
SECONDS = 60


class Taking:
    """A replica that takes runs from a Valkey of its own."""

    def __init__(self, database: PostgresDatabase, n8n: N8n, valkey: LocalValkey, redis: Redis) -> None:
        self.valkey = valkey
        self.streams = EventStreams(redis)
        self.publisher = Publisher(self.streams, "taking")
        caller = Caller(lambda *_: nullcontext(n8n), Limits(), stored, ExecutionTokens("t" * 64))
        self.runner = Runner(database, caller, self.publisher, replica="taking", lease_seconds=SECONDS)
        vault: Any = SealedVault(database, [("k", os.urandom(32))])
        endings: Any = None
        queue = RunQueue(redis, QUEUE_BYTES)
        self.dispatcher = Dispatcher(database, queue, self.runner, vault, endings, capacity=2)


@pytest.fixture
async def taking(database: PostgresDatabase, stub_n8n: StubN8n, tmp_path: Path) -> AsyncIterator[Taking]:
    async with (
        LocalValkey(tmp_path) as valkey,
        Redis.from_url(valkey.url) as redis,
        N8n(stub_n8n.url, internal_secret="s" * 64) as n8n,
    ):
        replica = Taking(database, n8n, valkey, redis)
        replica.publisher.start()
        yield replica
        await replica.runner.drain(SECONDS)
        await replica.dispatcher.close()
        await replica.publisher.close(SECONDS)
        await replica.streams.close()


async def left_behind(taking: Taking, tenant: Tenant, superuser: Any, *, events: int) -> str:
    """A run that a replica has sent, published so many events of, and left."""
    await set_workflow(
        superuser, tenant, is_idempotent=True, unknown_outcome_policy="UNKNOWN_OUTCOME_POLICY_RETRY"
    )
    begun = await tenant.begin(p_execution_id=str(uuid_utils.uuid7()), p_runner="another", p_lease_seconds=60)
    run: str = begun["execution_id"]
    workflow = Workflow(id=tenant.workflow_id, webhook_path="echo")
    await taking.dispatcher.store(Job(run, workflow, 1, b"{}", "", tenant.organization_id))
    told = [
        ExecutionEvent(execution_id=run, sequence=number, event=Oneof("started", ExecutionStarted()))
        for number in range(1, events + 1)
    ]
    await taking.streams.append("another", [Batch(run, tenant.organization_id, told)])
    await expire(superuser, run)
    assert await sweep(tenant) == [(run, "RETRY")]
    await taking.dispatcher.enqueue_again(run)
    return run


async def test_a_run_whose_numbers_nobody_knows_is_given_back(
    taking: Taking,
    database: PostgresDatabase,
    superuser: Any,
    stub_n8n: StubN8n,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis gives it out, and then stands still with the events that it has had before."""
    monkeypatch.setattr(module, "CLAIMED_WITHIN_SECONDS", 0.1)
    tenant = await new_tenant(database, balance=10)
    run = await left_behind(taking, tenant, superuser, events=4)
    sent = stub_n8n.calls["echo"]
    async with superuser.transaction():
        await superuser.execute("select from reservations where execution_id = $1 for update", run)
        await taking.dispatcher.turn()
        os.kill(taking.valkey.pid, signal.SIGSTOP)
    try:
        await taking.dispatcher.close()
    finally:
        os.kill(taking.valkey.pid, signal.SIGCONT)
    assert (stub_n8n.calls["echo"], dict(taking.runner.runs)) == (sent, {})
    assert await sweep(tenant) == [(run, "RETRY")]
    await taking.dispatcher.enqueue_again(run)
    await taking.dispatcher.turn()
    await taking.dispatcher.close()
    assert [taken.log.last > 4 for taken in taking.runner.runs.values()] == [True]
    await taking.runner.drain(SECONDS)
    await taking.publisher.close(SECONDS)
    assert stub_n8n.calls["echo"] == sent + 1
    assert [event.sequence for event in await taking.streams.read(run, 0)] == [1, 2, 3, 4, 5, 6, 7]
