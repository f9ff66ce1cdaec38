"""What the OpenAPI document says of this gateway alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.doors.description import describe_api


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(describe_api())


@pytest.mark.parametrize(
    ("path", "method", "header"),
    [
        ("/api/v1/execute", "post", "Idempotency-Key"),
        ("/api/v1/execute/stream", "post", "Idempotency-Key"),
        ("/n8ngateway.v1.ExecutionService/Execute", "post", "Idempotency-Key"),
        ("/api/v1/executions/{execution_id}/events", "get", "Last-Event-ID"),
    ],
)
def test_headers_that_a_method_reads_are_told(document: Any, path: str, method: str, header: str) -> None:
    parameters = document["paths"][path][method]["parameters"]
    assert [each["in"] for each in parameters if each["name"] == header] == ["header"]


def test_others_read_none(document: Any) -> None:
    told = json.dumps(document["paths"]["/api/v1/workflows"])
    assert "Idempotency-Key" not in told
    assert "Last-Event-ID" not in told


@pytest.mark.parametrize("resource", ["Organization", "Workflow", "Webhook"])
def test_an_update_may_name_its_resource(document: Any, resource: str) -> None:
    schema = document["components"]["schemas"][f"connect.{resource}Input"]
    assert "readOnly" not in schema["properties"]["id"]
    assert schema["properties"]["createdAt"]["readOnly"] is True
