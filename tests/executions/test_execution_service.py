"""Beginning a run on a database that takes its time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from gateway.adapters.database import Json
from gateway.adapters.n8n import N8n
from gateway.adapters.redis.event_streams import EventStreams
from gateway.executions.ending import Endings
from gateway.executions.lease_clock import lease_clock
from gateway.executions.publisher import Publication, Publisher
from gateway.executions.run import Job, Run
from gateway.executions.runner import Runner
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent
from gateway.gen.n8ngateway.v1.execution_pb import Execution, ExecutionState
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest, ExecuteStreamRequest
from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.rpc.errors import Unavailable, Unknown
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from gateway.services.execution import ExecutionService
from tests.calls import call_of
from tests.executions.accounts import PRICE, Accounts
from tests.executions.test_runner import Accepting, caller, n8n
from tests.executions.test_watch import RUN, TEXT, LostRun, event, redis, streams, watcher

__all__ = ["n8n", "redis", "streams"]

OWNER = Principal(Kind.USER, "user_1", DatabaseRole.AUTHENTICATED, "{}")


class Beginning(Accounts):
    """Begins runs, too, each some moments after it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun_at = 0.0

    async def call(self, function: str, principal: Principal | None, /, **arguments: Json) -> str:
        if function != "begin_execution":
            return await super().call(function, principal, **arguments)
        self.begun_at = lease_clock()
        await asyncio.sleep(0.01)
        return json.dumps(
            {
                "replayed": False,
                "state": "EXECUTION_STATE_RUNNING",
                "organization_id": "01936f5e-7c00-7000-8000-000000000001",
                "credits": PRICE,
                "workflow": {"webhook_path": "gated"},
            }
        )


class Keeping:
    """Sees what runs there are."""

    def __init__(self) -> None:
        self.runs: asyncio.Queue[Run] = asyncio.Queue()

    def keep(self, run: Run) -> None:
        self.runs.put_nowait(run)


async def test_a_lease_counts_from_before_it_was_asked_for(n8n: N8n) -> None:
    """Or a process that stands still until it reads the answer would take an old lease for a new one."""
    accounts, publisher, keeping = Beginning(), Publisher(Accepting(), "this replica"), Keeping()
    publisher.start()
    runner = Runner(accounts, caller(n8n), publisher, replica="this replica")
    parts: Any = accounts, runner, keeping, None, None
    executing = asyncio.create_task(
        ExecutionService(*parts).execute(ExecuteRequest(), call_of(principal=OWNER))
    )
    run = await asyncio.wait_for(keeping.runs.get(), 60)
    assert run.leased_at <= accounts.begun_at
    await runner.drain(0)
    await asyncio.gather(executing, return_exceptions=True)
    await publisher.close(1)


class Begun:
    """A runner that begins one run, and lets it be."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.runs = {RUN: run}

    async def begin(self, _execution_id: str, _begin: object) -> Run:
        return self.run


def begun(streams: EventStreams) -> Run:
    publication = Publication(Publisher(streams, "this replica"), RUN, "tenant")
    return Run(Job(RUN, Workflow(), 1, b"{}", ""), publication)


async def test_the_stream_of_a_run_that_was_lost_ends_with_its_error(streams: EventStreams) -> None:
    """Its replica stood still with one event that nobody else knew of."""
    lost, run = LostRun(), begun(streams)
    parts: Any = lost, Begun(run), None, watcher(streams, run, lost), None
    reading = ExecutionService(*parts).execute_stream(ExecuteStreamRequest(), call_of(principal=OWNER))
    run.log.append(TEXT)
    run.log.show(1)
    assert [each.sequence for each in await anext(reading)] == [1]
    await Endings(lost, streams, "sweeper").tell(RUN)
    run.log.abandon()
    assert [(each.sequence, each.event and each.event.field) for each in await anext(reading)] == [
        (2, "failed")
    ]
    with pytest.raises(Unknown) as caught:
        await anext(reading)
    assert caught.value.reason == "OUTCOME_UNKNOWN"


@pytest.mark.parametrize(
    ("state", "error"), [(ExecutionState.UNKNOWN, Unknown), (ExecutionState.RUNNING, Unavailable)]
)
async def test_a_stream_without_an_end_ends_with_an_error(
    streams: EventStreams, state: ExecutionState, error: type[Unknown | Unavailable]
) -> None:
    class Incomplete:
        async def watch(self, *_: object, **__: object) -> AsyncIterator[list[ExecutionEvent]]:
            yield [event(1, TEXT)]

    class Known(LostRun):
        async def call(self, function: str, _principal: Principal | None, /, **_: Json) -> str:
            assert function == "get_execution"
            return Execution(id=RUN, state=state).to_json(use_proto_field_name=True)

    run = begun(streams)
    run.log.abandon()
    parts: Any = Known(), Begun(run), None, Incomplete(), None
    service = ExecutionService(*parts)
    reading: Any = service.execute_stream(ExecuteStreamRequest(), call_of(principal=OWNER))
    async with aclosing(reading) as batches:
        assert [each.sequence for each in await anext(batches)] == [1]
        with pytest.raises(error) as caught:
            await anext(batches)
    assert caught.value.metadata == {"execution_id": RUN}
