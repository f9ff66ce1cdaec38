"""Runs that any replica may take up, cancel or wait for."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uuid_utils

from gateway.rpc.errors import Code
from tests.replicas.conftest import INTERNAL_SECRET, SECONDS, CallDirectly, Replica, StartReplica, register
from tests.replicas.test_watch import kinds
from tests.stub_n8n import StubN8n

PENDING, RUNNING, COMPLETED, CANCELLED, UNKNOWN = (
    f"EXECUTION_STATE_{name}" for name in ("PENDING", "RUNNING", "COMPLETED", "CANCELLED", "UNKNOWN")
)


@pytest.fixture(autouse=True)
def gate(stub_n8n: StubN8n) -> Iterator[None]:
    stub_n8n.close_gate()
    yield
    stub_n8n.open_gate()


def until(replica: Replica, execution_id: str, *states: str) -> dict[str, Any]:
    """The execution, as soon as it is in one of these states."""
    give_up = time.monotonic() + SECONDS
    while time.monotonic() < give_up:
        execution: dict[str, Any] = replica.get(f"/executions/{execution_id}").raise_for_status().json()
        if execution["state"] in states:
            return execution
    pytest.fail(f"still {execution['state']}")


def background(work: Callable[[], httpx.Response]) -> tuple[threading.Thread, list[httpx.Response]]:
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    return thread, answers


def start(replica: Replica, workflow_id: str, **fields: Any) -> dict[str, Any]:
    answer = replica.post("/executions", {"workflow_id": workflow_id} | fields)
    execution: dict[str, Any] = answer.raise_for_status().json()
    return execution


def test_a_started_run_is_queued_and_run(first: Replica, second: Replica, workflows: dict[str, str]) -> None:
    queued = start(first, workflows["echo"], data={"n": 1}, metadata={"for": "me"})
    assert queued["state"] in (PENDING, RUNNING, COMPLETED)
    ended = until(second, queued["id"], COMPLETED)
    assert ended["result"]["echo"] == {"n": 1}
    assert (ended["credits_used"], ended["metadata"]) == (1, {"for": "me"})
    assert kinds(second.events(queued["id"]))[-2:] == ["chunk", "completed"]


def test_lists_are_narrowed(first: Replica, workflows: dict[str, str]) -> None:
    label = uuid.uuid4().hex
    runs = [start(first, workflows["echo"], metadata={"label": label})["id"] for _ in range(3)]
    first.post("/execute", {"workflow_id": workflows["stream-fail"], "metadata": {"label": label}})
    for run in runs:
        until(first, run, COMPLETED)
    found = first.get("/executions", metadata=f"label={label}").json()["executions"]
    assert [execution["id"] for execution in found[1:]] == runs[::-1]
    assert found[0]["error"]["details"]
    page = first.get("/executions", metadata=f"label={label}", page_size=3).json()
    assert len(page["executions"]) == 3
    rest = first.get(
        "/executions", metadata=f"label={label}", page_size=3, page_token=page["next_page_token"]
    ).json()
    assert [execution["id"] for execution in rest["executions"]] == runs[:1]
    twice = first.get("/executions", metadata=["label=another", f"label={label}"])
    assert twice.status_code == httpx.codes.BAD_REQUEST
    assert "metadata has two values for one name" in twice.text
    failed = first.get("/executions", metadata=f"label={label}", states="EXECUTION_STATE_FAILED").json()
    assert [execution["workflow_id"] for execution in failed["executions"]] == [workflows["stream-fail"]]


def test_a_key_waits_for_the_run_it_began(
    first: Replica, second: Replica, workflows: dict[str, str], stub_n8n: StubN8n
) -> None:
    """On the same replica and on another, by a unary call, a stream and a start."""
    body = {"workflow_id": workflows["gated"], "idempotency_key": uuid.uuid4().hex}
    before = stub_n8n.calls["gated"]
    calls = [
        background(lambda replica=replica: replica.post("/execute", body))
        for replica in (first, first, second)
    ]  # type: ignore[misc]
    while stub_n8n.calls["gated"] == before:
        assert any(thread.is_alive() for thread, _ in calls)
    with second.stream(body) as lines:
        events = [next(lines), next(lines)]
        assert start(first, **body)["state"] == RUNNING
        stub_n8n.open_gate()
        events += list(lines)
    answers = []
    for thread, answer in calls:
        thread.join(SECONDS)
        answers += answer
    assert [answer.status_code for answer in answers] == [200] * 3
    first_answer = answers[0].json()
    assert first_answer["data"] == ["first!", "second!"]
    assert all(answer.json() == first_answer for answer in answers)
    assert {event["execution_id"] for event in events} == {first_answer["execution_id"]}
    assert kinds(events) == ["started", "chunk", "chunk", "completed"]
    assert stub_n8n.calls["gated"] == before + 1


def test_a_waiting_call_gets_the_failure_too(first: Replica, second: Replica, stub_n8n: StubN8n) -> None:
    workflow_id = register(first, "hang", timeout_seconds=2)
    body = {"workflow_id": workflow_id, "idempotency_key": uuid.uuid4().hex}
    before = stub_n8n.calls["hang"]
    thread, answers = background(lambda: first.post("/execute", body))
    while stub_n8n.calls["hang"] == before:
        assert thread.is_alive()
    waited = second.post("/execute", body)
    thread.join(SECONDS)
    assert (waited.status_code, waited.json()["message"]) == (504, answers[0].json()["message"])


def test_a_run_that_was_never_sent_keeps_no_key(
    first: Replica, second: Replica, workflows: dict[str, str], stub_n8n: StubN8n
) -> None:
    """Who was told to come back does so with the key, and has a run of its own."""
    body = {"workflow_id": register(first, "migrating"), "idempotency_key": uuid.uuid4().hex}
    before, tried = stub_n8n.calls["migrating"], set()
    for replica in (first, second, first):
        refused = replica.post("/execute", body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        info = next(detail for detail in refused.json()["details"] if "reason" in detail)
        assert info["reason"] == "N8N_STARTING"
        tried.add(info["metadata"]["execution_id"])
    assert (len(tried), stub_n8n.calls["migrating"] - before) == (3, 3)
    assert first.post("/execute", body | {"data": {"other": 1}}).status_code == 409
    first.post("/execute", {"workflow_id": workflows["echo"]}).raise_for_status()


def test_a_run_that_a_proxy_answered_keeps_its_key(
    first: Replica, second: Replica, workflows: dict[str, str], stub_n8n: StubN8n
) -> None:
    """Nobody is told to come back, and whoever does is told the same: n8n may have run it."""
    body = {"workflow_id": register(first, "proxy-503"), "idempotency_key": uuid.uuid4().hex}
    before, tried = stub_n8n.calls["proxy-503"], set()
    for replica in (first, second, first):
        refused = replica.post("/execute", body)
        assert (refused.status_code, refused.headers.get("retry-after")) == (503, None)
        info = next(detail for detail in refused.json()["details"] if "reason" in detail)
        assert info["reason"] == "N8N_PROXY_ERROR"
        tried.add(info["metadata"]["execution_id"])
    assert (len(tried), stub_n8n.calls["proxy-503"] - before) == (1, 1)
    assert until(first, tried.pop(), UNKNOWN).get("credits_used", 0) == 0
    first.post("/execute", {"workflow_id": workflows["echo"]}).raise_for_status()


@pytest.mark.parametrize("there", [True, False])
def test_a_run_is_cancelled_from_anywhere(
    first: Replica,
    second: Replica,
    workflows: dict[str, str],
    there: bool,  # noqa: FBT001
) -> None:
    with first.stream({"workflow_id": workflows["endless"]}) as lines:
        run = next(lines)["execution_id"]
        replica = second if there else first
        cancelled = replica.post(f"/executions/{run}/cancel", {})
        assert cancelled.status_code == 200, cancelled.text
        execution = cancelled.json()["execution"]
        assert (execution["state"], execution.get("credits_used", 0)) == (CANCELLED, 0)
        assert not cancelled.json().get("n8n_stopped", False)  # n8n did not tell its execution id
        *events, error = list(lines)
    assert events[-1]["failed"]["state"] == CANCELLED
    assert error["error"]["code"] == Code.CANCELLED
    again = replica.post(f"/executions/{run}/cancel", {})
    assert (again.status_code, again.json()["execution"]["state"]) == (200, CANCELLED)


def test_a_run_that_has_ended_cannot_be_cancelled(first: Replica, workflows: dict[str, str]) -> None:
    run = first.post("/execute", {"workflow_id": workflows["echo"]}).json()["execution_id"]
    refused = first.post(f"/executions/{run}/cancel", {})
    assert refused.json()["code"] == Code.FAILED_PRECONDITION


def test_limits_hold_and_those_that_wait_go_on(first: Replica, second: Replica, stub_n8n: StubN8n) -> None:
    workflow_id = register(first, "gated", concurrency_limit=2)
    runs = [start(replica, workflow_id)["id"] for replica in (first, second) * 3]
    for run in runs[:2]:
        until(first, run, RUNNING)
    assert {until(first, run, PENDING)["state"] for run in runs[2:]} == {PENDING}
    stub_n8n.open_gate()
    for run in runs:
        assert until(second, run, COMPLETED)["result"] == ["first!", "second!"]


def test_a_call_at_the_limit_waits_for_its_turn(first: Replica, second: Replica, stub_n8n: StubN8n) -> None:
    workflow_id = register(first, "gated", concurrency_limit=1)
    run = start(first, workflow_id)["id"]
    until(first, run, RUNNING)
    thread, answers = background(lambda: second.post("/execute", {"workflow_id": workflow_id}))
    while not second.get("/executions", workflow_id=workflow_id, states=PENDING).json().get("executions"):
        assert thread.is_alive()
    stub_n8n.open_gate()
    thread.join(SECONDS)
    assert (answers[0].status_code, answers[0].json()["data"]) == (200, ["first!", "second!"])


def test_a_run_that_waits_is_cancelled_at_once(first: Replica, second: Replica, stub_n8n: StubN8n) -> None:
    workflow_id = register(first, "gated", concurrency_limit=1)
    running, waiting = (start(first, workflow_id)["id"] for _ in range(2))
    until(first, running, RUNNING)
    cancelled = second.post(f"/executions/{waiting}/cancel", {}).json()
    assert cancelled["execution"]["state"] == CANCELLED
    assert kinds(first.events(waiting)) == ["failed"]
    stub_n8n.open_gate()
    until(first, running, COMPLETED)
    assert until(first, waiting, CANCELLED)


def test_a_watch_goes_on_after_the_replica_was_killed(
    start_replica: StartReplica, second: Replica, workflows: dict[str, str]
) -> None:
    """A run of which nobody knows how it ended: nothing is lost of what was told, and it ends once."""
    doomed = start_replica()
    with doomed.stream({"workflow_id": workflows["endless"]}) as lines:
        begin = [next(lines), next(lines)]
        run = begin[0]["execution_id"]
        with second.watch(run) as watched:
            assert [next(watched), next(watched)] == begin
            doomed.kill()
            end = list(watched)
    assert kinds(end) == ["failed"]
    assert (end[0]["sequence"], end[0]["failed"]["state"]) == (3, UNKNOWN)
    assert second.events(run, 2) == end
    assert second.events(run) == begin + end
    assert until(second, run, UNKNOWN).get("credits_used", 0) == 0


def test_a_run_that_may_be_repeated_is_taken_up(
    start_replica: StartReplica, second: Replica, stub_n8n: StubN8n
) -> None:
    workflow_id = register(
        second, "gated", is_idempotent=True, unknown_outcome_policy="UNKNOWN_OUTCOME_POLICY_RETRY"
    )
    doomed = start_replica()
    before = stub_n8n.calls["gated"]
    with doomed.stream({"workflow_id": workflow_id}) as lines:
        begin = [next(lines), next(lines)]
        run = begin[0]["execution_id"]
        doomed.kill()
    with second.watch(run, 2) as rest:
        assert kinds([next(rest), next(rest)]) == ["started", "chunk"]
        stub_n8n.open_gate()
        end = list(rest)
    assert kinds(end) == ["chunk", "completed"]
    assert [event["sequence"] for event in second.events(run)] == [1, 2, 3, 4, 5, 6]
    assert stub_n8n.calls["gated"] == before + 2
    assert until(second, run, COMPLETED)["credits_used"] == 1


BY_HANDLE_AND_AGAIN = {
    "credential_mode": "CREDENTIAL_MODE_HANDLE",
    "is_idempotent": True,
    "unknown_outcome_policy": "UNKNOWN_OUTCOME_POLICY_RETRY",
}


def redeem(replica: Replica, run: str, handle: str) -> int:
    """The status that n8n gets for the handle of a run."""
    headers = {"X-N8N-Internal-Auth": INTERNAL_SECRET, "X-Gateway-Execution-Id": run}
    url = f"{replica.url}/internal/credentials/redeem"
    return httpx.post(url, json={"handle": handle}, headers=headers, timeout=SECONDS).status_code


def test_a_run_with_a_handle_is_sent_again(first: Replica, stub_n8n: StubN8n) -> None:
    workflow_id = register(first, "cut-once", **BY_HANDLE_AND_AGAIN)
    before = stub_n8n.calls["cut-once"]
    answer = first.post("/execute", {"workflow_id": workflow_id})
    assert (answer.status_code, answer.json().get("data")) == (200, {"again": True})
    assert stub_n8n.calls["cut-once"] == before + 2


def test_a_run_that_is_taken_up_has_a_handle_of_its_own(
    start_replica: StartReplica, second: Replica, stub_n8n: StubN8n
) -> None:
    """The one that the dead replica sent opens nothing any more, whether it was used or not."""
    workflow_id = register(second, "gated", **BY_HANDLE_AND_AGAIN)
    doomed = start_replica()
    with doomed.stream({"workflow_id": workflow_id}) as lines:
        run = [next(lines), next(lines)][0]["execution_id"]
        left = stub_n8n.headers["gated"]["x-gateway-credential-handle"]
        doomed.kill()
    with second.watch(run, 2) as rest:
        assert kinds([next(rest), next(rest)]) == ["started", "chunk"]
        handle = stub_n8n.headers["gated"]["x-gateway-credential-handle"]
        assert [redeem(second, run, used) for used in (left, handle, handle)] == [403, 200, 403]
        stub_n8n.open_gate()
        assert kinds(list(rest)) == ["chunk", "completed"]
    assert until(second, run, COMPLETED)["credits_used"] == 1


@pytest.mark.parametrize(
    ("arguments", "state", "reason"),
    [
        ({"p_queue": True}, "EXECUTION_STATE_FAILED", "PAYLOAD_LOST"),
        ({"p_runner": "nobody"}, UNKNOWN, "OUTCOME_UNKNOWN"),
    ],
)
def test_a_run_begun_around_the_gateway_ends_and_lets_others_run(
    first: Replica, arguments: dict[str, Any], state: str, reason: str, call_directly: CallDirectly
) -> None:
    """As a member can with its own token, where PostgREST can be reached."""
    workflow_id = register(first, "echo", concurrency_limit=1)
    around = str(uuid_utils.uuid7())
    call_directly(
        "begin_execution",
        p_execution_id=around,
        p_workflow_id=workflow_id,
        p_lease_seconds=1,
        **arguments,
    )
    behind = start(first, workflow_id, data={"n": 2})
    assert until(first, behind["id"], COMPLETED)["result"]["echo"] == {"n": 2}
    ended = until(first, around, state)
    assert ended["error"]["details"][0]["reason"] == reason
    assert ended.get("credits_used", 0) == 0
