"""Who changed what, through every door."""

from __future__ import annotations

import base64
import csv
import io
import json
import uuid
from typing import Any

import httpx
import pytest

from gateway.rpc.errors import Code
from tests.wire.clients import Client, GrpcClient, RestClient
from tests.wire.conftest import METHODS, Mint, World, call
from tests.wire.signing import seeded_key
from tests.wire.test_resources import register


def of(world: World, **fields: Any) -> dict[str, Any]:
    return {"organization_id": world.dev.ready["organization_id"], **fields}


def test_a_change_is_listed_with_its_actor_and_its_request(client: Client, world: World) -> None:
    made = register(client, world)
    request_id = f"audited-{uuid.uuid4().hex}"
    headers = world.dev.bearer | {"x-request-id": request_id}
    assert call(client, world, "DeactivateWorkflow", {"id": made["id"]}, headers=headers).code is Code.OK
    asked = of(world, resource_id=made["id"], page_size=1)
    first = call(client, world, "ListAuditEvents", asked).messages[0]
    [event] = first["audit_events"]
    assert event["action"] == "workflow.deactivated"
    assert event["changes"] == {"is_active": False}
    assert (event["actor_type"], event["request_id"]) == ("user", request_id)
    second = call(client, world, "ListAuditEvents", asked | {"page_token": first["next_page_token"]})
    [event] = second.messages[0]["audit_events"]
    assert event["action"] == "workflow.registered"
    assert not second.messages[0].get("next_page_token")


def test_a_page_token_is_good_for_the_same_question_alone(client: Client, world: World) -> None:
    register(client, world)
    page = call(client, world, "ListAuditEvents", of(world, page_size=1)).messages[0]
    for narrowed in ({"action": "workflow.updated"}, {"start_time": "2026-01-01T00:00:00Z"}):
        asked = of(world, page_size=1, page_token=page["next_page_token"], **narrowed)
        outcome = call(client, world, "ListAuditEvents", asked)
        assert (outcome.code, outcome.fields) == (Code.INVALID_ARGUMENT, ["page_token"])


@pytest.mark.parametrize("method", ["ListAuditEvents", "ExportAuditEvents"])
def test_they_are_for_admins_of_the_organization(
    client: Client, world: World, other_tenant: World, mint: Mint, method: str
) -> None:
    outcome = call(client, world, method, of(world), headers=other_tenant.dev.bearer)
    assert (outcome.code, outcome.reason) == (Code.NOT_FOUND, "ORGANIZATION_NOT_FOUND")
    outcome = call(client, world, method, of(world), headers={}, signed=seeded_key(world).headers)
    assert (outcome.code, outcome.reason) == (Code.PERMISSION_DENIED, "SCOPE_MISSING")
    member = {"authorization": f"Bearer {mint('user_plain', organization_id='org_other', role='member')}"}
    asked = {"organization_id": single_organization(client, other_tenant)}
    outcome = call(client, world, method, asked, headers=member)
    assert (outcome.code, outcome.reason) == (Code.PERMISSION_DENIED, "ROLE_INSUFFICIENT")


def single_organization(client: Client, world: World) -> str:
    [organization] = call(client, world, "ListOrganizations", {}).messages[0]["organizations"]
    found: str = organization["id"]
    return found


def export(world: World, **query: Any) -> httpx.Response:
    organization_id = world.dev.ready["organization_id"]
    url = f"{world.dev.ready['http_url']}/api/v1/organizations/{organization_id}/audit-events/export"
    return httpx.get(url, params=query, headers=world.dev.bearer)


def test_all_of_them_are_one_file(world: World) -> None:
    client = GrpcClient(world.dev.ready["grpc_url"])
    made = register(client, world)
    lines = export(world, format="EXPORT_FORMAT_NDJSON")
    assert lines.headers["content-type"] == "application/x-ndjson"
    events = [json.loads(line) for line in lines.text.splitlines()]
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    assert events[0]["action"] == "organization.created"
    assert any(event["resource_id"] == made["id"] for event in events)
    table = export(world)
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
    assert [row["id"] for row in rows] == [event["id"] for event in events]
    assert json.loads(rows[0]["changes"]) == events[0]["changes"]
    listed = call(RestClient(world.dev.ready["http_url"]), world, "ListAuditEvents", of(world)).messages[0]
    assert listed["audit_events"][0] in events
    [piece] = call(client, world, "ExportAuditEvents", of(world, format="EXPORT_FORMAT_NDJSON")).messages
    assert base64.b64decode(piece["data"]).decode() == lines.text


def test_a_span_without_any_is_an_empty_file(world: World) -> None:
    span = {"start_time": "2001-01-01T00:00:00Z", "end_time": "2001-01-02T00:00:00Z"}
    assert export(world, format="EXPORT_FORMAT_NDJSON", **span).content == b""
    assert len(export(world, **span).text.splitlines()) == 1


def test_the_export_is_a_stream(world: World) -> None:
    assert METHODS["ExportAuditEvents"].method_kind == "server_streaming"
    assert (
        export(world, end_time="2001-01-01T00:00:00Z", start_time="2001-01-02T00:00:00Z").status_code == 400
    )
