"""A run is read out at a replica that does not run it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.rpc.errors import Code
from tests.replicas.conftest import Replica, StartReplica, register
from tests.stub_n8n import StubN8n


@pytest.fixture(autouse=True)
def gate(stub_n8n: StubN8n) -> Iterator[None]:
    stub_n8n.close_gate()
    yield
    stub_n8n.open_gate()


def kinds(events: list[dict[str, Any]]) -> list[str]:
    known = ("started", "node_started", "chunk", "node_finished", "failed", "completed")
    return [next(kind for kind in known if kind in event) for event in events]


def whole(replica: Replica, workflow_id: str) -> list[dict[str, Any]]:
    with replica.stream({"workflow_id": workflow_id}) as lines:
        return list(lines)


def test_every_replica_tells_the_same(first: Replica, second: Replica, workflows: dict[str, str]) -> None:
    told = whole(first, workflows["stream"])
    run = told[0]["execution_id"]
    assert [event["sequence"] for event in told] == list(range(1, 12))
    assert second.events(run) == told
    assert first.events(run) == told


def test_a_stream_is_resumed_at_every_sequence(
    first: Replica, second: Replica, workflows: dict[str, str]
) -> None:
    told = whole(first, workflows["stream"])
    run = told[0]["execution_id"]
    for after in range(len(told) + 1):
        assert second.events(run, after) == told[after:]
    assert second.events(run, **{"Last-Event-ID": "4"}) == told[4:]


def test_the_later_of_two_places_counts(first: Replica, second: Replica, workflows: dict[str, str]) -> None:
    """A browser that reconnects says where it is beside the address that it began with."""
    told = whole(first, workflows["stream"])
    run = told[0]["execution_id"]
    assert second.events(run, 2, **{"Last-Event-ID": "7"}) == told[7:]


def test_a_run_under_way_is_followed(
    first: Replica, second: Replica, workflows: dict[str, str], stub_n8n: StubN8n
) -> None:
    with first.stream({"workflow_id": workflows["gated"]}) as here:
        begin = [next(here), next(here)]
        run = begin[0]["execution_id"]
        with second.watch(run) as there, second.watch(run, 1) as later:
            assert [next(there), next(there), next(later)] == [*begin, begin[1]]
            stub_n8n.open_gate()
            rest = list(here)
            assert list(there) == rest
            assert list(later) == rest
    assert kinds(begin + rest) == ["started", "chunk", "chunk", "completed"]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson", "application/json"])
def test_a_watch_is_answered_before_there_is_an_event(
    first: Replica, second: Replica, workflows: dict[str, str], stub_n8n: StubN8n, accept: str
) -> None:
    """The gate is opened by the head of the answer: a browser's EventSource is open then."""
    with first.stream({"workflow_id": workflows["gated"]}) as here:
        begin = [next(here), next(here)]
        run = begin[0]["execution_id"]
        headers = {"Accept": accept, "Last-Event-ID": "2"}
        with contextlib.ExitStack() as open_streams:
            watches = [
                open_streams.enter_context(replica.raw_watch(run, **headers)) for replica in (first, second)
            ]
            assert [watch.headers["content-type"] for watch in watches] == [accept] * 2
            stub_n8n.open_gate()
            told = [watch.read() for watch in watches]
            assert [text.count(b'"sequence"') for text in told] == [2, 2], told
        assert kinds(list(here)) == ["chunk", "completed"]


def test_a_stream_is_answered_while_its_run_waits_for_its_turn(
    first: Replica, second: Replica, stub_n8n: StubN8n
) -> None:
    workflow_id = register(first, "gated", concurrency_limit=1)
    with first.stream({"workflow_id": workflow_id}) as running:
        next(running)
        with second.stream({"workflow_id": workflow_id}) as waiting:
            stub_n8n.open_gate()
            assert kinds(list(waiting)) == ["started", "chunk", "chunk", "completed"]


def test_a_run_that_nobody_reads_is_followed_too(
    first: Replica, second: Replica, workflows: dict[str, str], stub_n8n: StubN8n
) -> None:
    """Its client has gone after the first event."""
    with first.stream({"workflow_id": workflows["gated"]}) as here:
        run = next(here)["execution_id"]
    with second.watch(run) as there:
        assert kinds([next(there), next(there)]) == ["started", "chunk"]
        stub_n8n.open_gate()
        assert kinds(list(there)) == ["chunk", "completed"]


def test_events_that_had_to_make_room_are_missed_by_who_has_not_read_them_alone(
    first: Replica, start_replica: StartReplica, workflows: dict[str, str], stub_n8n: StubN8n
) -> None:
    """A run of the same organization puts out more than Redis may keep of all runs."""
    tight = start_replica(EXECUTION_EVENTS_MEGABYTES="1")
    flood = register(tight, "flood")
    with first.stream({"workflow_id": workflows["gated"]}) as here:
        begin = [next(here), next(here)]
        run = begin[0]["execution_id"]
        with tight.watch(run) as there:
            assert [next(there), next(there)] == begin
            ended = tight.post("/execute", {"workflow_id": flood}).raise_for_status().json()
            assert ended["status"] == "completed"
            [late] = tight.events(run)
            assert late["details"][0]["reason"] == "EVENTS_EXPIRED"
            assert late["details"][0]["metadata"] == {"first_kept": "3"}
            stub_n8n.open_gate()
            rest = list(here)
            assert list(there) == rest
    assert kinds(begin + rest) == ["started", "chunk", "chunk", "completed"]


def test_a_watch_of_a_run_that_failed_ends_well(
    first: Replica, second: Replica, workflows: dict[str, str]
) -> None:
    with first.stream({"workflow_id": workflows["stream-fail"]}) as lines:
        *told, error = list(lines)
    assert error["error"]["code"] == Code.UNKNOWN
    run = told[0]["execution_id"]
    assert second.events(run) == told
    assert kinds(told)[-1] == "failed"


def test_a_short_run_is_told_from_what_is_stored(
    first: Replica, second: Replica, workflows: dict[str, str]
) -> None:
    answer = first.post("/execute", {"workflow_id": workflows["text"]}).json()
    for replica in (first, second):
        events = replica.events(answer["execution_id"])
        assert kinds(events)[-2:] == ["chunk", "completed"]
        chunk = events[-2]["chunk"]
        assert chunk.get("text", chunk.get("json")) == answer["data"]


def test_what_is_beyond_the_end_is_refused(
    first: Replica, workflows: dict[str, str], stub_n8n: StubN8n
) -> None:
    with first.stream({"workflow_id": workflows["gated"]}) as here:
        run = next(here)["execution_id"]
        next(here)
        refused = first.get(f"/executions/{run}/events", after_sequence=3)
        assert (refused.status_code, refused.json()["code"]) == (400, Code.OUT_OF_RANGE)
        stub_n8n.open_gate()
        list(here)


@pytest.mark.parametrize("header", ["x", "-1", "1.5", "12345678901"])
def test_a_place_that_is_none_is_refused(first: Replica, workflows: dict[str, str], header: str) -> None:
    run = first.post("/execute", {"workflow_id": workflows["echo"]}).json()["execution_id"]
    [refused] = first.events(run, **{"Last-Event-ID": header})
    assert refused["code"] == Code.INVALID_ARGUMENT


def test_a_run_that_is_not_there_is_not_found(second: Replica) -> None:
    for path in (f"/executions/{uuid.uuid4()}", f"/executions/{uuid.uuid4()}/events"):
        assert second.get(path).status_code == 404


def test_the_newest_sequence_is_told_where_the_run_is(
    first: Replica, workflows: dict[str, str], stub_n8n: StubN8n
) -> None:
    with first.stream({"workflow_id": workflows["gated"]}) as here:
        run = next(here)["execution_id"]
        next(here)
        running = first.get(f"/executions/{run}").json()
        assert (running["state"], running["last_sequence"]) == ("EXECUTION_STATE_RUNNING", 2)
        stub_n8n.open_gate()
        list(here)
    ended = first.get(f"/executions/{run}").json()
    assert (ended["state"], ended["result"]) == ("EXECUTION_STATE_COMPLETED", ["first!", "second!"])
