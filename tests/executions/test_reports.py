"""What workflows report, without secrets."""

from __future__ import annotations

import json

import pytest

from gateway.adapters.n8n import Redactor
from gateway.executions.reports import _event
from gateway.gen.n8ngateway.v1.internal_service_pb import ReportProgressRequest

redactor = Redactor(["-1001234567890", 'able":"to be cut'])


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"chat": {"id": -1001234567890}}, {"chat": {"id": -9999999999999}}),
        ({"able": "to be cut here"}, '{"[redacted] here"}'),
        ({"able": "to do so"}, {"able": "to do so"}),
    ],
)
async def test_json_is_told_whatever_the_secrets_in_it_are(told: object, shown: object) -> None:
    event = await _event(ReportProgressRequest.from_json(json.dumps({"json": told})), redactor)
    assert event is not None
    assert event.value.content is not None
    assert json.loads(event.value.content.value.to_json()) == shown  # type: ignore[union-attr]
