"""What the metrics tell after calls through every door, and what they must not."""

from __future__ import annotations

import uuid

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.wire.clients import Client
from tests.wire.conftest import World, call

LIST = "/n8ngateway.v1.WorkflowService/ListWorkflows"


class Scrape:
    """The metrics at one moment."""

    def __init__(self, world: World) -> None:
        text = httpx.get(world.dev.ready["metrics_url"]).raise_for_status().text
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == f"n8n_gateway_{name}" and labels.items() <= sample.labels.items()
        )


def test_every_door_is_measured(client: Client, world: World) -> None:
    ok, refused = {"method": LIST, "code": "OK"}, {"method": LIST, "code": "UNAUTHENTICATED"}
    before = Scrape(world)
    call(client, world, "ListWorkflows", {})
    call(client, world, "ListWorkflows", {}, headers={"Authorization": "Bearer no-token-at-all"})
    after = Scrape(world)
    for labels in (ok, refused):
        assert after.value("calls_total", **labels) == before.value("calls_total", **labels) + 1
    assert (
        after.value("call_seconds_count", method=LIST) == before.value("call_seconds_count", method=LIST) + 2
    )


def test_runs_and_their_parts_are_measured(world: World, client: Client) -> None:
    before = Scrape(world)
    call(client, world, "Execute", world.request("echo"))
    after = Scrape(world)
    for name, labels in (
        ("executions_total", {"state": "completed"}),
        ("n8n_seconds_count", {"outcome": "answered"}),
        ("database_seconds_count", {"function": "settle_execution"}),
        ("rate_limit_decisions_total", {"policy": "organization", "outcome": "admitted"}),
        ("authentications_total", {"kind": "user", "outcome": "ok"}),
    ):
        assert before.value(name, **labels) < after.value(name, **labels)
    assert after.value("calls_running") == 0
    assert after.value("streams_open") == 0
    assert after.value("database_connections", state="idle") >= 1
    assert after.value("replicas") >= 1


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
