"""ExecuteStream through every door and in every form: what comes, in which order, and when."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from gateway.rpc.errors import Code
from tests.wire.clients import Client
from tests.wire.conftest import Mint, World, call
from tests.wire.signing import SigningKey
from tests.wire.test_unary import N8N_FAULTS

EVENTS = ("started", "node_started", "chunk", "node_finished", "failed", "completed")


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [next(kind for kind in EVENTS if kind in message) for message in messages]


def contents(messages: list[dict[str, Any]]) -> list[Any]:
    chunks = [message["chunk"] for message in messages if "chunk" in message]
    return [next(chunk[kind] for kind in ("json", "text", "data") if kind in chunk) for chunk in chunks]


def test_a_stream_is_told_event_by_event(stream_client: Client, world: World) -> None:
    outcome = call(stream_client, world, "ExecuteStream", world.request("stream"))
    assert outcome.code is Code.OK
    node = ["node_started", "chunk", "node_finished"]
    assert kinds(outcome.messages) == ["started", *node * 3, "completed"]
    assert contents(outcome.messages) == [{"n": 1}, {"n": 2}, 'plain, with "quotes" and ☃']
    assert [message["sequence"] for message in outcome.messages] == list(range(1, 12))
    assert len({message["execution_id"] for message in outcome.messages}) == 1
    assert outcome.messages[2]["chunk"]["node_name"] == "A"
    assert outcome.messages[-1]["completed"]["credits_used"] == 1


@pytest.mark.parametrize(
    ("webhook", "content"),
    [("echo", {"echo": {}, "executionId": "7"}), ("text", "plain ☃ text"), ("list", [1, 2.5, {"n": None}])],
)
def test_a_document_is_one_chunk(stream_client: Client, world: World, webhook: str, content: Any) -> None:
    outcome = call(stream_client, world, "ExecuteStream", world.request(webhook))
    assert kinds(outcome.messages) == ["started", "chunk", "completed"]
    assert contents(outcome.messages) == [content]


def test_nothing_is_no_chunk(stream_client: Client, world: World) -> None:
    outcome = call(stream_client, world, "ExecuteStream", world.request("empty"))
    assert kinds(outcome.messages) == ["started", "completed"]


@pytest.mark.parametrize(("webhook", "code", "reason", "_status"), N8N_FAULTS)
def test_a_failed_run_is_told_and_then_is_the_outcome(
    stream_client: Client, world: World, webhook: str, code: Code, reason: str, _status: int
) -> None:
    outcome = call(stream_client, world, "ExecuteStream", world.request(webhook))
    assert (outcome.code, outcome.reason) == (code, reason)
    assert kinds(outcome.messages)[0] == "started"
    failed = outcome.messages[-1]["failed"]
    assert failed["status"]["code"] == code
    assert failed["credits_used"] == 0


@pytest.mark.usefixtures("unreachable_n8n")
def test_n8n_away_is_unavailable(stream_client: Client, world: World) -> None:
    outcome = call(stream_client, world, "ExecuteStream", world.request("echo"))
    assert outcome.code is Code.UNAVAILABLE
    assert outcome.reason in {"N8N_UNREACHABLE", "N8N_CIRCUIT_OPEN"}


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        ({"workflow_id": str(uuid.uuid4())}, Code.NOT_FOUND, "WORKFLOW_NOT_FOUND"),
        ({"workflow_id": "no-uuid"}, Code.INVALID_ARGUMENT, "INVALID_FIELD"),
    ],
)
def test_what_is_refused_before_it_runs_has_no_events(
    stream_client: Client, world: World, request_: dict[str, Any], code: Code, reason: str
) -> None:
    outcome = call(stream_client, world, "ExecuteStream", request_)
    assert (outcome.code, outcome.reason, outcome.messages) == (code, reason, [])
    assert outcome.http_status in (None, 404, 400)


def test_without_a_token_nobody_gets_in(stream_client: Client, world: World) -> None:
    outcome = call(stream_client, world, "ExecuteStream", world.request("echo"), headers={})
    assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, "TOKEN_MISSING")


def test_a_stream_ends_with_its_users_membership(
    stream_client: Client, client_of: Callable[[str], Client], world: World, mint: Mint
) -> None:
    """The user belongs to several organizations, so that the call itself acts for none of them."""
    user = f"user_{uuid.uuid4().hex}"
    headers = {"Authorization": f"Bearer {mint(user)}"}
    rest, of = client_of("rest"), {"organization_id": world.dev.ready["organization_id"]}
    made = call(rest, world, "CreateOrganization", {"organization": {"name": "Own"}}, headers=headers)
    assert made.code is Code.OK
    member = {"profile_id": user, "role": "MEMBER_ROLE_MEMBER"}
    assert call(rest, world, "AddMember", of | {"member": member}).code is Code.OK
    assert call(rest, world, "AcceptInvitation", of, headers=headers).code is Code.OK
    world.stub.close_gate()
    before = world.stub.calls["gated"]
    request = world.request("gated", **of)
    try:
        with ThreadPoolExecutor(1) as threads:
            streaming = threads.submit(call, stream_client, world, "ExecuteStream", request, headers=headers)
            while world.stub.calls["gated"] == before and not streaming.done():
                time.sleep(0.01)
            assert call(rest, world, "RemoveMember", of | {"profile_id": user}).code is Code.OK
            outcome = streaming.result()
    finally:
        world.stub.open_gate()
    assert (outcome.code, outcome.reason) == (Code.NOT_FOUND, "ORGANIZATION_NOT_FOUND")
    assert kinds(outcome.messages)[0] == "started"
    assert "second!" not in contents(outcome.messages)


def test_a_deadline_ends_the_stream(stream_client: Client, world: World) -> None:
    """After what there was to tell, for which a busy machine takes longer."""
    world.stub.close_gate()
    for timeout in (0.5, 5, 30):
        outcome = call(stream_client, world, "ExecuteStream", world.request("gated"), timeout=timeout)
        assert outcome.code is Code.DEADLINE_EXCEEDED
        if contents(outcome.messages):
            break
    world.stub.open_gate()
    assert contents(outcome.messages) == ["first!"]


def test_a_replay_is_the_stored_result(stream_client: Client, world: World) -> None:
    request = world.request("echo", data={"again": True}, idempotency_key=str(uuid.uuid4()))
    first = call(stream_client, world, "ExecuteStream", request)
    second = call(stream_client, world, "ExecuteStream", request)
    assert contents(first.messages) == contents(second.messages)
    assert kinds(second.messages) == kinds(first.messages)


def test_a_second_call_tells_the_events_of_the_first(stream_client: Client, world: World) -> None:
    """The gate is opened when it has told what came before it."""
    request = world.request("gated", idempotency_key=str(uuid.uuid4()))
    before = world.stub.calls["gated"]
    world.stub.close_gate()
    try:
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(call, stream_client, world, "ExecuteStream", request)
            while world.stub.calls["gated"] == before:
                assert not first.done(), first.result()
                time.sleep(0.01)
            impatient = call(stream_client, world, "ExecuteStream", request, timeout=0.5)
            assert impatient.code is Code.DEADLINE_EXCEEDED
            world.stub.open_gate()
            second = call(stream_client, world, "ExecuteStream", request)
            told = first.result()
    finally:
        world.stub.open_gate()
    assert contents(told.messages) == ["first!", "second!"]
    assert second.messages == told.messages
    assert impatient.messages == told.messages[: len(impatient.messages)]
    assert world.stub.calls["gated"] == before + 1


def test_a_replay_of_nothing_is_no_chunk(stream_client: Client, world: World) -> None:
    request = world.request("empty", idempotency_key=str(uuid.uuid4()))
    first = call(stream_client, world, "ExecuteStream", request)
    second = call(stream_client, world, "ExecuteStream", request)
    assert kinds(first.messages) == kinds(second.messages) == ["started", "completed"]


@pytest.mark.parametrize(
    ("accept", "start"),
    [("text/event-stream", "data: "), ("application/x-ndjson", ""), ("application/json", "")],
)
def test_events_arrive_while_n8n_still_runs(world: World, accept: str, start: str) -> None:
    """The gate is opened by what arrives: were events held back to the end, this would never end."""
    world.stub.close_gate()
    opened = threading.Event()
    received = ""
    url = f"{world.dev.ready['http_url']}/api/v1/execute/stream"
    headers = world.dev.bearer | {"accept": accept}
    with httpx.stream("POST", url, json=world.request("gated"), headers=headers, timeout=20) as response:
        assert response.headers["content-type"].startswith(accept)
        for text in response.iter_text():
            received += text
            if '"first!"' in received and not opened.is_set():
                assert '"second!"' not in received
                opened.set()
                world.stub.open_gate()
    assert opened.is_set()
    assert '"second!"' in received
    assert start in received


def test_a_revoked_key_ends_its_open_streams(stream_client: Client, world: World) -> None:
    """The stream says nothing by itself: it would end only with the gate, which stays closed."""
    world.stub.close_gate()
    keys = f"{world.dev.ready['http_url']}/api/v1/organizations/{world.dev.ready['organization_id']}/api-keys"
    made = httpx.post(keys, json={"name": "stream"}, headers=world.dev.bearer).raise_for_status().json()
    before = world.stub.calls["gated"]
    as_key: dict[str, Any] = {"headers": {}, "signed": SigningKey.of(made).headers}
    try:
        with ThreadPoolExecutor(1) as threads:
            streaming = threads.submit(
                call, stream_client, world, "ExecuteStream", world.request("gated"), **as_key
            )
            while world.stub.calls["gated"] == before and not streaming.done():
                time.sleep(0.01)
            httpx.post(f"{keys}/{made['api_key']['id']}/revoke", headers=world.dev.bearer).raise_for_status()
            outcome = streaming.result()
    finally:
        world.stub.open_gate()
    assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, "API_KEY_REVOKED")
    assert kinds(outcome.messages)[:1] == ["started"]


def test_a_caller_that_leaves_does_not_stop_the_run(world: World) -> None:
    """The run that was left goes on: its key answers with its end."""
    world.stub.close_gate()
    request = world.request("gated", idempotency_key=str(uuid.uuid4()))
    url = f"{world.dev.ready['http_url']}/api/v1/execute"
    headers = world.dev.bearer | {"accept": "application/x-ndjson"}
    with httpx.stream("POST", f"{url}/stream", json=request, headers=headers, timeout=20) as response:
        next(line for line in response.iter_lines() if '"first!"' in line)
    world.stub.open_gate()
    answer = httpx.post(url, json=request, headers=world.dev.bearer, timeout=20)
    assert answer.raise_for_status().json()["data"] == ["first!", "second!"]
