"""What the metrics tell after calls through every door, and what they must not."""

from __future__ import annotations

import uuid

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.wire.clients import Client
from tests.wire.conftest import World, call

LIST = "/n8ngateway.v1.WorkflowService/ListWorkflows"


def value(world: World, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    text = httpx.get(world.dev.ready["metrics_url"]).raise_for_status().text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"n8n_gateway_{name}" and labels.items() <= sample.labels.items()
    )


def test_every_door_is_measured(client: Client, world: World) -> None:
    ok, refused = {"method": LIST, "code": "OK"}, {"method": LIST, "code": "UNAUTHENTICATED"}
    before = value(world, "calls_total", **ok), value(world, "calls_total", **refused)
    timed = value(world, "call_seconds_count", method=LIST)
    call(client, world, "ListWorkflows", {})
    call(client, world, "ListWorkflows", {}, headers={"Authorization": "Bearer no-token-at-all"})
    after = value(world, "calls_total", **ok), value(world, "calls_total", **refused)
    assert after == (before[0] + 1, before[1] + 1)
    assert value(world, "call_seconds_count", method=LIST) == timed + 2


def test_runs_and_their_parts_are_measured(world: World, client: Client) -> None:
    names = [
        ("executions_total", {"state": "completed"}),
        ("n8n_seconds_count", {"outcome": "answered"}),
        ("database_seconds_count", {"function": "settle_execution"}),
        ("rate_limit_decisions_total", {"policy": "organization", "outcome": "admitted"}),
        ("authentications_total", {"kind": "user", "outcome": "ok"}),
    ]
    before = [value(world, name, **labels) for name, labels in names]
    call(client, world, "Execute", world.request("echo"))
    after = [value(world, name, **labels) for name, labels in names]
    assert all(b < a for b, a in zip(before, after, strict=True))
    assert value(world, "calls_running") == 0
    assert value(world, "streams_open") == 0
    assert value(world, "database_connections", state="idle") >= 1
    assert value(world, "replicas") >= 1


def test_metrics_tell_nothing_of_tenants_and_callers(world: World) -> None:
    secret = f"gw_live_{'a' * 16}_{'a' * 52}"
    httpx.get(f"{world.dev.ready['http_url']}/api/v1/workflows", headers={"X-API-Key": secret})
    text = httpx.get(world.dev.ready["metrics_url"]).text
    ready = world.dev.ready
    hidden = [ready["organization_id"], ready["token"], ready["api_key"], secret, "user_dev", "127.0.0.1"]
    assert [part for part in [*hidden, *world.workflows.values()] if part in text] == []


def test_metrics_are_not_for_callers(world: World) -> None:
    answer = httpx.get(f"{world.dev.ready['http_url']}/metrics", headers=world.dev.bearer)
    assert answer.status_code == 404
    other = world.dev.ready["metrics_url"].replace("/metrics", f"/{uuid.uuid4()}")
    assert httpx.get(other).status_code == 404
