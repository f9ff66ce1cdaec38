"""Limits as callers of every door meet them: refusals, details, and where one stands."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import httpx
import pytest

from gateway.doors.http.server import _EXPOSED_HEADERS
from gateway.rpc.errors import Code
from gateway.transcoding.gen.google.rpc.error_details_pb import ErrorInfo, QuotaFailure, RetryInfo
from gateway.transcoding.gen.google.rpc.status_pb import Status
from tests.conftest import RunningDev, start_dev, stop_dev
from tests.stub_n8n import StubN8n
from tests.wire.clients import Client
from tests.wire.conftest import World, call
from tests.wire.signing import SigningKey

LIST = "/n8ngateway.v1.WorkflowService/ListWorkflows"
STREAM = "/n8ngateway.v1.ExecutionService/ExecuteStream"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, stub_n8n: StubN8n) -> Iterator[RunningDev]:
    """A gateway with limits that a test can reach."""
    environment = {
        "RATE_LIMIT": "1000/hour",
        "RATE_LIMIT_PER_WORKFLOW": "3/hour",
        "RATE_LIMIT_FAILED_AUTHENTICATIONS": "5/minute",
        "MAX_OPEN_STREAMS": "2",
        "REDIS_TIMEOUT_SECONDS": "20",  # a busy machine is no Redis that is away
        "ENABLE_HMAC_VALIDATION": "false",  # requests are made by hand here
    }
    directory = tmp_path_factory.mktemp("strict")
    running = start_dev(directory, "--n8n-url", stub_n8n.url, environment=environment)
    yield running
    stop_dev(running)


def limited_key(dev: RunningDev, **limit: int) -> dict[str, Any]:
    """A key of its own limit."""
    url = f"{dev.ready['http_url']}/api/v1/organizations/{dev.ready['organization_id']}/api-keys"
    answer = httpx.post(url, json={"name": "limited", "rate_limit": limit}, headers=dev.bearer)
    made: dict[str, Any] = answer.raise_for_status().json()
    assert made["api_key"]["rate_limit"] == limit
    return made


def header(dev: RunningDev, **limit: int) -> dict[str, str]:
    return {"X-API-Key": limited_key(dev, **limit)["key"]}


def test_a_key_is_held_to_its_own_limit_on_every_door(client: Client, world: World) -> None:
    key = SigningKey.of(limited_key(world.dev, requests=3, period_seconds=3600))
    outcomes = [call(client, world, "ListWorkflows", {}, headers={}, signed=key.headers) for _ in range(5)]
    assert [outcome.code for outcome in outcomes] == [Code.OK] * 3 + [Code.RESOURCE_EXHAUSTED] * 2
    assert outcomes[-1].reason == "RATE_LIMIT_EXCEEDED"
    assert outcomes[-1].http_status in (None, 429)
    assert outcomes[-1].request_id
    # Nobody else is touched by that.
    assert call(client, world, "ListWorkflows", {}).code is Code.OK


def test_one_limit_holds_over_all_doors(strict: RunningDev) -> None:
    key = header(strict, requests=2, period_seconds=3600)
    url = strict.ready["http_url"]
    assert httpx.get(f"{url}/api/v1/workflows", headers=key).status_code == 200
    assert httpx.post(f"{url}{LIST}", json={}, headers=key).status_code == 200
    assert _grpc(strict, key)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_http_tells_where_one_stands(strict: RunningDev) -> None:
    key = header(strict, requests=2, period_seconds=3600)
    url = strict.ready["http_url"]
    ways: list[tuple[str, str, dict[str, str]]] = [
        ("GET", "/api/v1/workflows", {}),
        ("POST", LIST, {"Content-Type": "application/json"}),
        ("GET", "/api/v1/workflows", {}),
        ("POST", LIST, {"Content-Type": "application/json"}),
        ("POST", LIST, {"Content-Type": "application/proto"}),
    ]
    seen = []
    for method, path, headers in ways:
        body = b"{}" if headers.get("Content-Type") == "application/json" else b""
        answer = httpx.request(method, f"{url}{path}", content=body, headers=key | headers)
        policies, standings = answer.headers["ratelimit-policy"], answer.headers["ratelimit"]
        assert '"key";q=2;w=3600' in policies
        match = re.search(r'"key";r=(\d+);t=(\d+)', standings)
        assert match
        assert 0 < int(match[2]) <= 3600
        seen.append((answer.status_code, int(match[1])))
        assert "ratelimit-mode" not in answer.headers
        if answer.status_code == 429:
            assert 3590 <= int(answer.headers["retry-after"]) <= 3600
        else:
            assert "retry-after" not in answer.headers
    assert seen == [(200, 1), (200, 0), (429, 0), (429, 0), (429, 0)]


def test_grpc_tells_it_in_trailers_and_details(strict: RunningDev) -> None:
    key = header(strict, requests=1, period_seconds=3600)
    code, trailers = _grpc(strict, key)
    assert code is grpc.StatusCode.OK
    assert '"key";r=0;t=3600' in trailers["ratelimit"]
    code, trailers = _grpc(strict, key)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert '"key";q=1;w=3600' in trailers["ratelimit-policy"]
    details = Status.from_binary(trailers["grpc-status-details-bin"]).details
    info = next(d.unpack(ErrorInfo) for d in details if d.is_type(ErrorInfo))
    assert info is not None
    assert (info.reason, info.metadata["policy"], info.metadata["limit"]) == (
        "RATE_LIMIT_EXCEEDED",
        "key",
        "1",
    )
    retry = next(d.unpack(RetryInfo) for d in details if d.is_type(RetryInfo))
    assert retry is not None
    assert retry.retry_delay is not None
    assert 3590 <= retry.retry_delay.seconds <= 3600
    quota = next(d.unpack(QuotaFailure) for d in details if d.is_type(QuotaFailure))
    assert quota is not None
    assert [v.description for v in quota.violations] == ["1 calls in 3600 seconds"]


def test_a_stream_counts_once_and_says_so_first(strict: RunningDev) -> None:
    key = header(strict, requests=2, period_seconds=3600)
    url = f"{strict.ready['http_url']}/api/v1/execute/stream"
    request = {"workflow_id": register(strict, "stream")}
    for left in (1, 0):
        answer = httpx.post(url, json=request, headers=key, timeout=20)
        assert answer.status_code == 200
        assert f'"key";r={left};' in answer.headers["ratelimit"]
    assert httpx.post(url, json=request, headers=key, timeout=20).status_code == 429


def test_browsers_may_read_the_fields() -> None:
    fields = {"ratelimit", "ratelimit-policy", "ratelimit-mode", "retry-after", "gateway-degraded"}
    assert fields <= set(_EXPOSED_HEADERS)


def _grpc(dev: RunningDev, headers: dict[str, str]) -> tuple[grpc.StatusCode, dict[str, Any]]:
    metadata = [(name.lower(), value) for name, value in headers.items()]
    with grpc.insecure_channel(dev.ready["grpc_url"]) as channel:
        try:
            _, call = channel.unary_unary(LIST).with_call(b"", metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            return error.code(), dict(error.trailing_metadata())
        return call.code(), dict(call.trailing_metadata())


def register(dev: RunningDev, webhook: str) -> str:
    workflow = {"name": f"limits {uuid.uuid4()}", "webhook_path": webhook}
    answer = httpx.post(f"{dev.ready['http_url']}/api/v1/workflows", json=workflow, headers=dev.bearer)
    workflow_id: str = answer.raise_for_status().json()["id"]
    return workflow_id


def test_one_workflow_used_up_leaves_the_others(strict: RunningDev) -> None:
    url = f"{strict.ready['http_url']}/api/v1/execute"
    one, other = register(strict, "echo"), register(strict, "text")

    def run(workflow: str) -> httpx.Response:
        return httpx.post(url, json={"workflow_id": workflow}, headers=strict.bearer, timeout=20)

    assert [run(one).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert run(one.upper()).json()["details"][0]["metadata"]["policy"] == "workflow"
    assert run(other).status_code == 200
    assert run("no workflow").status_code == 400


@contextmanager
def open_stream(dev: RunningDev, workflow: str) -> Iterator[httpx.Response]:
    url = f"{dev.ready['http_url']}/api/v1/execute/stream"
    headers = dev.bearer | {"Accept": "application/x-ndjson"}
    with httpx.stream("POST", url, json={"workflow_id": workflow}, headers=headers, timeout=20) as answer:
        yield answer


def test_only_so_many_streams_are_open_at_a_time(strict: RunningDev, stub_n8n: StubN8n) -> None:
    stub_n8n.close_gate()
    gated = register(strict, "gated")
    with open_stream(strict, gated) as first, open_stream(strict, gated) as second:
        lines = [first.iter_lines(), second.iter_lines()]
        for line in lines:
            assert json.loads(next(line))["started"]
        with open_stream(strict, register(strict, "gated")) as third:
            assert third.status_code == 429
            assert json.loads(third.read())["details"][0]["reason"] == "OPEN_STREAMS_EXCEEDED"
            assert third.headers["retry-after"] == "1"
        stub_n8n.open_gate()
        for line in lines:
            assert json.loads(list(line)[-1])["completed"]
    ended = httpx.post(
        f"{strict.ready['http_url']}/api/v1/execute/stream",
        json={"workflow_id": register(strict, "stream")},
        headers=strict.bearer,
        timeout=20,
    )
    assert ended.status_code == 200


def test_who_guesses_credentials_is_turned_away_and_its_neighbours_are_not(strict: RunningDev) -> None:
    url = f"{strict.ready['http_url']}/api/v1/workflows"
    assert httpx.get(url, headers=strict.bearer).status_code == 200  # proved good
    guesses = [httpx.get(url, headers={"X-API-Key": f"gw_live_{'a' * 16}_{'a' * 52}"}) for _ in range(7)]
    assert [answer.status_code for answer in guesses] == [401] * 5 + [429] * 2
    assert guesses[-1].json()["details"][0]["reason"] == "TOO_MANY_FAILED_AUTHENTICATIONS"
    assert int(guesses[-1].headers["retry-after"]) >= 1
    assert httpx.get(url, headers={"Authorization": "Bearer guessed"}).status_code == 429
    assert httpx.get(url, headers=strict.bearer).status_code == 200
    assert httpx.get(f"{strict.ready['http_url']}/api/v1/health").status_code == 200
    assert httpx.get(url).status_code == 401
    log = strict.log.read_text()
    assert log.count("credentials refused again and again") == 1


def test_an_organization_cannot_lift_its_own_limit(strict: RunningDev) -> None:
    url = f"{strict.ready['http_url']}/api/v1/organizations/{strict.ready['organization_id']}"
    for change in ({"rate_limit": {"requests": 10**6}}, {"max_open_streams": 10**5}):
        answer = httpx.patch(url, json=change, headers=strict.bearer)
        assert answer.status_code == 403
        assert answer.json()["details"][0]["reason"] == "PLATFORM_ONLY"
