"""A replica that stands still for longer than its leases, and then goes on as if nothing had been."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from tests.conftest import RunningDev
from tests.replicas.conftest import SECONDS, Replica, StartReplica, register
from tests.replicas.test_runs import COMPLETED, UNKNOWN, background, until
from tests.replicas.test_watch import kinds
from tests.stub_n8n import StubN8n


@pytest.fixture(autouse=True)
def gate(stub_n8n: StubN8n) -> Iterator[None]:
    stub_n8n.close_gate()
    yield
    stub_n8n.open_gate()


@pytest.fixture
def paused(start_replica: StartReplica) -> Iterator[Replica]:
    """A replica that tests pause, and that has ended after them."""
    replica = start_replica()
    yield replica
    replica.kill()


def events_and_error(lines: Iterator[dict[str, Any]]) -> tuple[list[dict[str, Any]], Any]:
    told = list(lines)
    errors = [line["error"] for line in told if "error" in line]
    return [line for line in told if "error" not in line], errors[0] if errors else None


def test_its_run_is_ended_by_another_and_not_by_itself_again(
    paused: Replica, second: Replica, stub_n8n: StubN8n, dev: RunningDev
) -> None:
    """n8n has answered with success meanwhile, which nobody could know of when the run was ended."""
    workflow_id = register(second, "gated")
    calls, account = stub_n8n.calls["gated"], second.credits(dev.ready["organization_id"])
    with paused.stream({"workflow_id": workflow_id}) as lines:
        begin = [next(lines), next(lines)]
        run = begin[0]["execution_id"]
        paused.pause()
        until(second, run, UNKNOWN)
        stub_n8n.open_gate()
        told = second.events(run)
        paused.resume()
        rest, error = events_and_error(lines)
    assert kinds(told) == ["started", "chunk", "failed"]
    assert begin + rest == told
    assert error["details"][0]["reason"] == "OUTCOME_UNKNOWN"
    assert paused.events(run) == told
    assert until(paused, run, UNKNOWN).get("credits_used", 0) == 0
    assert second.credits(dev.ready["organization_id"]) == account
    assert stub_n8n.calls["gated"] == calls + 1


def test_its_run_is_sent_again_by_another_and_charged_once(
    paused: Replica, second: Replica, stub_n8n: StubN8n, dev: RunningDev
) -> None:
    policy = {"is_idempotent": True, "unknown_outcome_policy": "UNKNOWN_OUTCOME_POLICY_RETRY"}
    workflow_id = register(second, "gated", **policy)
    calls, account = stub_n8n.calls["gated"], second.credits(dev.ready["organization_id"])
    with paused.stream({"workflow_id": workflow_id}) as lines:
        begin = [next(lines), next(lines)]
        run = begin[0]["execution_id"]
        paused.pause()
        with second.watch(run, 2) as watched:
            again = [next(watched), next(watched)]
            stub_n8n.open_gate()
            again += list(watched)
        assert until(second, run, COMPLETED)["credits_used"] == 1
        paused.resume()
        rest, error = events_and_error(lines)
    assert kinds(again) == ["started", "chunk", "chunk", "completed"]
    assert (rest, error) == (again, None)
    assert paused.events(run) == second.events(run) == begin + again
    assert until(paused, run, COMPLETED)["credits_used"] == 1
    left = second.credits(dev.ready["organization_id"])
    assert left == account | {
        "balance": account["balance"] - 1,
        "available": account["available"] - 1,
    }
    assert stub_n8n.calls["gated"] == calls + 2
    answer = paused.post("/execute", {"workflow_id": workflow_id})
    assert answer.json()["data"] == ["first!", "second!"]


async def test_a_run_that_was_ended_before_it_was_sent_is_not_sent(
    paused: Replica, second: Replica, stub_n8n: StubN8n, dev: RunningDev
) -> None:
    """The replica stands still between the charge and n8n, here while it reads what it is to send."""
    workflow_id = register(second, "echo", credential_mode="CREDENTIAL_MODE_INLINE")
    calls, account = stub_n8n.calls["echo"], second.credits(dev.ready["organization_id"])
    connection = await asyncpg.connect(dev.ready["database_url"])
    async with connection.transaction():
        await connection.execute("lock table public.tenant_secrets")
        call, answers = background(lambda: paused.post("/execute", {"workflow_id": workflow_id}))
        async with asyncio.timeout(SECONDS):
            waiting = "select exists (select from pg_locks where not granted)"
            while not await connection.fetchval(waiting):  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0)
        paused.pause()
    await connection.close()
    (run,) = second.get("/executions", workflow_id=workflow_id).json()["executions"]
    until(second, run["id"], UNKNOWN)
    paused.resume()
    call.join()
    assert answers[0].json()["details"][0]["reason"] == "OUTCOME_UNKNOWN"
    assert stub_n8n.calls["echo"] == calls
    assert second.credits(dev.ready["organization_id"]) == account
