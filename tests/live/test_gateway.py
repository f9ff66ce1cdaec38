"""A real n8n's workflows, run by the gateway's callers through each of its doors."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from gateway.rpc.errors import Code
from tests.live import workflows
from tests.live.doors import DOORS, Door, Json, Refused, RestDoor

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from tests.conftest import RunningDev
    from tests.live.conftest import LiveN8n

# What the fixtures take for a first installation is not the test's.
pytestmark = pytest.mark.timeout(120, func_only=True)

PRICE = 3
Expecting = Callable[[str, str], Json]
RUNNING = "EXECUTION_STATE_RUNNING"
KINDS = {"started", "node_started", "chunk", "node_finished", "completed", "failed"}


@dataclass(frozen=True)
class Registered:
    """The gateway, and its ids of n8n's workflows by their webhook paths."""

    rest: RestDoor
    ids: Mapping[str, str]

    def request(self, path: str, **data: object) -> Json:
        return {"workflow_id": self.ids[path], "data": data}

    def credits_after_a_run(self) -> int:
        """Run a workflow of PRICE credits; return what it leaves."""
        return int(self.rest.execute(self.request(workflows.ECHO))["credits_remaining"])

    @contextlib.contextmanager
    def costing(self, price: int) -> Iterator[None]:
        """Check that what is run within costs so much in all."""
        before = self.credits_after_a_run()
        yield
        assert self.credits_after_a_run() == before - price - PRICE


@pytest.fixture(scope="module")
def registered(gateway: RunningDev, n8n: LiveN8n) -> Registered:
    """Register every workflow of the live tests, and one whose webhook n8n does not know."""
    rest = RestDoor(gateway.ready)
    ids = {}
    for path in (*n8n.workflow_ids, workflows.UNKNOWN):
        workflow = {
            "name": f"live {path}",
            "webhook_path": path,
            "n8n_workflow_id": n8n.workflow_ids.get(path, ""),
            "credits_per_execution": PRICE,
        }
        answer = rest.http.post("/api/v1/workflows", json=workflow)
        assert answer.is_success, answer.text
        ids[path] = answer.json()["id"]
    return Registered(rest, ids)


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest, gateway: RunningDev) -> Door:
    return DOORS[request.param](gateway.ready)


def test_a_workflow_gets_the_input_and_answers(door: Door, registered: Registered) -> None:
    with registered.costing(PRICE):
        answer = door.execute(registered.request(workflows.ECHO, a=[1, "é"], b=None))
    assert answer["success"] is True
    assert answer["status"] == "completed"
    assert answer["data"]["echo"] == {"a": [1, "é"], "b": None}
    assert answer["credits_used"] == PRICE
    assert answer["execution_id"]


def test_a_text_answer(door: Door, registered: Registered) -> None:
    assert door.execute(registered.request(workflows.TEXT))["data"] == workflows.PLAIN_TEXT


def test_a_webhook_with_header_auth(door: Door, registered: Registered) -> None:
    answer = door.execute(registered.request(workflows.HEADER_AUTH, a=1))
    assert answer["data"]["echo"] == {"a": 1}


def test_the_internal_secret_stays_inside(door: Door, registered: Registered, n8n: LiveN8n) -> None:
    headers = door.execute(registered.request(workflows.HEADERS))["data"]
    assert workflows.SECRET_HEADER.lower() in headers
    assert n8n.internal_secret not in json.dumps(headers)


@pytest.mark.parametrize("path", [workflows.UNKNOWN, workflows.INACTIVE])
def test_a_webhook_that_n8n_does_not_know(door: Door, registered: Registered, path: str) -> None:
    with registered.costing(0), pytest.raises(Refused) as refused:
        door.execute(registered.request(path))
    assert refused.value.code is Code.FAILED_PRECONDITION
    assert refused.value.reason == "N8N_WEBHOOK_NOT_REGISTERED"


def test_a_failing_workflow_costs_nothing(door: Door, registered: Registered) -> None:
    with registered.costing(0), pytest.raises(Refused) as refused:
        door.execute(registered.request(workflows.FAIL))
    assert refused.value.code is Code.UNKNOWN
    assert refused.value.reason == "WORKFLOW_FAILED"
    assert refused.value.metadata["execution_id"]


def test_a_stream_in_the_order_of_its_nodes(door: Door, registered: Registered) -> None:
    with registered.costing(PRICE):
        events = list(door.stream(registered.request(workflows.STREAM, q="hi")))
    node = ["node_started", "chunk", "node_finished"]
    assert [_kind(event) for event in events] == ["started", *node, *node, *node, "completed"]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    first, second, third = _chunks(events)
    assert [chunk["node_name"] for chunk in (first, second, third)] == ["First", "Second", "Third"]
    assert first["json"]["echo"] == {"q": "hi"}
    assert second["json"]["part"] == 2
    assert third["text"] == workflows.PLAIN_TEXT
    assert events[-1]["completed"]["credits_used"] == PRICE


def test_events_arrive_while_n8n_still_runs(door: Door, registered: Registered, n8n: LiveN8n) -> None:
    """The first part comes out five seconds before the workflow's end, and n8n itself is asked then."""
    stream = door.stream(registered.request(workflows.SLOW_STREAM))
    events = []
    for event in stream:
        events.append(event)
        if "chunk" in event:
            break
    execution_id = str(_chunks(events)[0]["json"]["executionId"])
    with workflows.N8nApi(n8n.base_url, n8n.api_key) as api:
        assert api.execution_status(execution_id) in workflows.UNFINISHED
        events += stream
        assert api.execution_status(execution_id) == "success"
    assert [chunk["json"]["part"] for chunk in _chunks(events)] == list(range(workflows.SLOW_STREAM_PARTS))
    assert _kind(events[-1]) == "completed"


def test_a_client_that_disconnects_watches_its_run_to_the_end(
    door: Door, registered: Registered, n8n: LiveN8n
) -> None:
    with registered.costing(PRICE), workflows.N8nApi(n8n.base_url, n8n.api_key) as api:
        workflow_id = n8n.workflow_ids[workflows.SLOW_STREAM]
        runs_before = len(api.executions(workflow_id))
        events = _until_chunk(door.stream(registered.request(workflows.SLOW_STREAM)), 2)
        run_id = events[0]["execution_id"]
        # Twice: the watch is cut as well.
        events += _until_chunk(door.watch(run_id, events[-1]["sequence"]), 1)
        assert api.running_executions(workflow_id)
        events += list(door.watch(run_id, events[-1]["sequence"]))
        assert len(api.executions(workflow_id)) == runs_before + 1
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert [chunk["json"]["part"] for chunk in _chunks(events)] == list(range(workflows.SLOW_STREAM_PARTS))
    assert events[-1]["completed"]["credits_used"] == PRICE
    assert {event["execution_id"] for event in events} == {run_id}


def test_a_client_comes_back_when_its_run_has_ended(door: Door, registered: Registered, n8n: LiveN8n) -> None:
    with registered.costing(PRICE), workflows.N8nApi(n8n.base_url, n8n.api_key) as api:
        events = _until_chunk(door.stream(registered.request(workflows.STREAM)), 1)
        run_id = events[0]["execution_id"]
        while (run := registered.rest.http.get(f"/api/v1/executions/{run_id}").json())["state"] == RUNNING:
            time.sleep(0.1)
        assert run["credits_used"] == PRICE
        assert api.execution_status(str(_chunks(events)[0]["json"]["executionId"])) == "success"
        events += list(door.watch(run_id, events[-1]["sequence"]))
    assert [event["sequence"] for event in events] == list(range(1, run["last_sequence"] + 1))
    assert [chunk["node_name"] for chunk in _chunks(events)] == ["First", "Second", "Third"]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_parts_of_a_stream_arrive_in_reads_of_their_own(registered: Registered, accept: str) -> None:
    request = registered.request(workflows.STREAM)
    with registered.rest.http.stream(
        "POST", "/api/v1/execute/stream", json=request, headers={"Accept": accept}
    ) as response:
        assert response.headers["content-type"].startswith(accept)
        reads = list(response.iter_raw())
    first = next(number for number, read in enumerate(reads) if b'"First"' in read)
    third = next(number for number, read in enumerate(reads) if b'"Third"' in read)
    assert first < third


def test_a_failure_in_mid_stream_costs_nothing(door: Door, registered: Registered) -> None:
    events: list[Json] = []
    with registered.costing(0), pytest.raises(Refused) as refused:
        events.extend(door.stream(registered.request(workflows.STREAM_FAIL, q=1)))
    assert [_kind(event) for event in events] == [
        "started",
        "node_started",
        "chunk",
        "node_finished",
        "failed",
    ]
    assert _chunks(events)[0]["json"]["echo"] == {"q": 1}
    failed = events[-1]["failed"]
    assert failed["credits_used"] == 0
    assert failed["status"]["code"] == Code.UNKNOWN
    assert refused.value.code is Code.UNKNOWN
    assert refused.value.reason == "WORKFLOW_FAILED"
    assert refused.value.metadata["node"] == "Stop"


def test_a_stream_that_n8n_refuses(door: Door, registered: Registered) -> None:
    with registered.costing(0), pytest.raises(Refused) as refused:
        list(door.stream(registered.request(workflows.UNKNOWN)))
    assert refused.value.reason == "N8N_WEBHOOK_NOT_REGISTERED"


def test_a_stream_without_parts_completes(door: Door, registered: Registered) -> None:
    events = list(door.stream(registered.request(workflows.STREAM_EMPTY)))
    assert [_kind(event) for event in events] == ["started", "completed"]


def test_a_streaming_workflow_answers_at_once_too(door: Door, registered: Registered) -> None:
    answer = door.execute(registered.request(workflows.STREAM))
    first, second, third = answer["data"]
    assert (first["echo"], second["part"], third) == ({}, 2, workflows.PLAIN_TEXT)


@pytest.fixture(scope="module")
def expecting(registered: Registered) -> Expecting:
    """Register a workflow anew that says what it answers with; give the request that runs it."""

    def register(path: str, mode: str) -> Json:
        workflow = {
            "name": f"{mode} {path} {uuid.uuid4()}",
            "webhook_path": path,
            "response_mode": f"RESPONSE_MODE_{mode}",
            "credits_per_execution": PRICE,
        }
        answer = registered.rest.http.post("/api/v1/workflows", json=workflow)
        assert answer.is_success, answer.text
        return {"workflow_id": answer.json()["id"]}

    return register


def test_a_stream_where_one_is_expected(door: Door, registered: Registered, expecting: Expecting) -> None:
    with registered.costing(2 * PRICE):
        events = list(door.stream(expecting(workflows.STREAM, "STREAMING")))
        nothing = list(door.stream(expecting(workflows.STREAM_EMPTY, "STREAMING")))
    assert [chunk["node_name"] for chunk in _chunks(events)] == ["First", "Second", "Third"]
    assert [_kind(event) for event in nothing] == ["started", "completed"]


def test_a_document_where_a_stream_is_expected(
    door: Door, registered: Registered, expecting: Expecting
) -> None:
    request = expecting(workflows.ECHO, "STREAMING")
    with registered.costing(0):
        with pytest.raises(Refused) as refused:
            door.execute(request)
        events: list[Json] = []
        with pytest.raises(Refused) as refused_stream:
            events.extend(door.stream(request))
    for refusal in (refused.value, refused_stream.value):
        assert (refusal.code, refusal.reason) == (Code.FAILED_PRECONDITION, "N8N_RESPONSE_MISMATCH")
    assert [_kind(event) for event in events] == ["started", "failed"]


def test_a_stream_that_never_begins(door: Door, registered: Registered, expecting: Expecting) -> None:
    """The workflow answers when it is done, long after a stream would have begun."""
    request = expecting(workflows.LATE, "STREAMING")
    changes = {"idle_timeout_seconds": 1}
    patched = registered.rest.http.patch(f"/api/v1/workflows/{request['workflow_id']}", json=changes)
    assert patched.is_success, patched.text
    with registered.costing(0), pytest.raises(Refused) as refused:
        door.execute(request)
    assert (refused.value.code, refused.value.reason) == (Code.DEADLINE_EXCEEDED, "N8N_FIRST_BYTE_TIMEOUT")


def test_a_stream_where_a_document_is_expected(
    door: Door, registered: Registered, expecting: Expecting
) -> None:
    with registered.costing(PRICE):
        data = door.execute(expecting(workflows.STREAM_FAIL, "DOCUMENT"))["data"]
    lines = [json.loads(line) for line in data.splitlines()]
    assert [line["type"] for line in lines] == ["begin", "item", "end", "error"]


def _until_chunk(stream: Generator[Json], number: int) -> list[Json]:
    """Read until so many chunks have come, then disconnect."""
    events = []
    with contextlib.closing(stream):
        for event in stream:
            events.append(event)
            if len(_chunks(events)) == number:
                return events
    pytest.fail("the stream ended before")


def _kind(event: Json) -> str:
    [kind] = KINDS & event.keys()
    return kind


def _chunks(events: list[Json]) -> list[dict[str, Any]]:
    return [event["chunk"] for event in events if "chunk" in event]
