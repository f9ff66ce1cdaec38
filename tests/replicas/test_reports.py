"""What workflows report of their progress, to whichever replica."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.rpc.errors import Code
from tests.replicas.conftest import INTERNAL_SECRET, SECONDS, Replica
from tests.replicas.test_watch import kinds
from tests.stub_n8n import StubN8n


@pytest.fixture(autouse=True)
def gate(stub_n8n: StubN8n) -> Iterator[None]:
    stub_n8n.close_gate()
    yield
    stub_n8n.open_gate()


def report(replica: Replica, execution_id: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    url = f"{replica.url}/internal/executions/{execution_id}/events"
    return httpx.post(url, json=body, headers=headers, timeout=SECONDS)


def test_a_report_is_a_chunk_of_the_stream(
    first: Replica, second: Replica, workflows: dict[str, str], stub_n8n: StubN8n
) -> None:
    with first.stream({"workflow_id": workflows["gated"]}) as lines:
        events = [next(lines), next(lines)]
        run = events[0]["execution_id"]
        token = stub_n8n.headers["gated"]["x-gateway-execution-token"]
        n8n = {"X-N8N-Internal-Auth": INTERNAL_SECRET, "X-Gateway-Execution-Token": token}
        here = report(first, run, {"node_name": "N", "text": "half way"}, **n8n)
        there = report(second, run, {"json": {"n": 1}, "n8n_execution_id": "77", "units": 4}, **n8n)
        silent = report(second, run, {"units": 3}, **n8n)
        assert [answer.json()["sequence"] for answer in (here, there, silent)] == [3, 4, 4]
        assert first.get(f"/executions/{run}").json()["n8n_execution_id"] == "77"
        stub_n8n.open_gate()
        events += list(lines)
    assert kinds(events) == ["started", *["chunk"] * 4, "completed"]
    assert [event["sequence"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert (events[2]["chunk"]["text"], events[2]["chunk"]["node_name"]) == ("half way", "N")
    assert events[3]["chunk"]["json"] == {"n": 1}
    stored = first.get(f"/executions/{run}").json()
    assert (stored["result"], stored["n8n_execution_id"]) == (["first!", "second!"], "77")
    assert second.events(run) == events
    for replica in (first, second):
        refused = report(replica, run, {"text": "too late"}, **n8n)
        assert refused.json()["code"] == Code.FAILED_PRECONDITION


def test_a_run_whose_n8n_id_was_reported_is_stopped_in_n8n_too(
    first: Replica, second: Replica, workflows: dict[str, str], stub_n8n: StubN8n
) -> None:
    before = stub_n8n.calls["/api/v1/executions/77/stop"]
    with first.stream({"workflow_id": workflows["endless"]}) as lines:
        run = next(lines)["execution_id"]
        next(lines)
        token = stub_n8n.headers["endless"]["x-gateway-execution-token"]
        n8n = {"X-N8N-Internal-Auth": INTERNAL_SECRET, "X-Gateway-Execution-Token": token}
        assert report(second, run, {"n8n_execution_id": "77"}, **n8n).json()["sequence"] == 2
        cancelled = second.post(f"/executions/{run}/cancel", {}).raise_for_status().json()
        assert cancelled["n8n_stopped"]
        assert cancelled["execution"]["state"] == "EXECUTION_STATE_CANCELLED"
    assert stub_n8n.calls["/api/v1/executions/77/stop"] == before + 1


def test_a_report_tells_no_secret_of_its_run(
    first: Replica, second: Replica, workflows: dict[str, str], stub_n8n: StubN8n
) -> None:
    with first.stream({"workflow_id": workflows["gated"]}) as lines:
        run = next(lines)["execution_id"]
        next(lines)
        token = stub_n8n.headers["gated"]["x-gateway-execution-token"]
        n8n = {"X-N8N-Internal-Auth": INTERNAL_SECRET, "X-Gateway-Execution-Token": token}
        both = f"<{token}> and <{INTERNAL_SECRET}>"
        data = base64.b64encode(both.encode()).decode()
        for replica, body in (
            (first, {"text": both}),
            (second, {"json": {"a": both}}),
            (first, {"data": data}),
        ):
            report(
                replica, run, body | {"node_name": token, "content_type": f"text/{token}"}, **n8n
            ).raise_for_status()
        stub_n8n.open_gate()
        chunks = [event["chunk"] for event in lines if "chunk" in event]
    clean = "<[redacted]> and <[redacted]>"
    assert [chunk["node_name"] for chunk in chunks[:3]] == ["[redacted]"] * 3
    assert [chunk["content_type"] for chunk in chunks[:3]] == ["text/[redacted]"] * 3
    assert (chunks[0]["text"], chunks[1]["json"]) == (clean, {"a": clean})
    assert base64.b64decode(chunks[2]["data"]).decode() == clean


def test_a_report_needs_the_token_of_its_run(
    first: Replica, workflows: dict[str, str], stub_n8n: StubN8n
) -> None:
    with first.stream({"workflow_id": workflows["gated"]}) as lines:
        run = next(lines)["execution_id"]
        next(lines)
        token = stub_n8n.headers["gated"]["x-gateway-execution-token"]
        auth = {"X-N8N-Internal-Auth": INTERNAL_SECRET}
        for execution_id, headers, status in (
            (run, {"X-Gateway-Execution-Token": token}, 401),
            (run, auth, 403),
            (run, auth | {"X-Gateway-Execution-Token": token[:-1]}, 403),
            (str(uuid.uuid4()), auth | {"X-Gateway-Execution-Token": token}, 403),
        ):
            assert report(first, execution_id, {"text": "x"}, **headers).status_code == status
        stub_n8n.open_gate()
        assert kinds(list(lines)) == ["chunk", "completed"]
