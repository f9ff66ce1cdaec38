"""What n8n's error workflows post, through every door."""

from __future__ import annotations

import uuid

from gateway.rpc.errors import Code
from tests.wire.clients import Client
from tests.wire.conftest import World, call
from tests.wire.signing import SigningKey


def test_n8n_reports_and_nobody_else(client: Client, world: World) -> None:
    body = {
        "org_id": world.dev.ready["organization_id"],
        "workflow_id": "any",
        "error_message": "it broke",
        "metadata": {"additional": "context"},
        "execution": {"error": {"message": "no"}},
    }
    headers = {"X-N8N-Internal-Auth": world.dev.ready["internal_secret"]}
    logged = call(client, world, "LogError", body, headers=headers)
    assert logged.code is Code.OK, logged
    assert uuid.UUID(logged.messages[0]["id"])
    assert call(client, world, "LogError", body).code is Code.UNAUTHENTICATED
    wrong = headers | {"X-Gateway-Execution-Token": "of-nobody"}
    assert call(client, world, "LogError", body, headers=wrong).reason == "EXECUTION_TOKEN_INVALID"


def test_admins_read_what_was_reported_of_their_runs(
    client: Client, world: World, other_tenant: World
) -> None:
    """A workflow that reports by itself shows its run's token."""
    ran = call(client, world, "Execute", world.request("echo")).messages[0]["execution_id"]
    token = world.stub.headers["echo"]["x-gateway-execution-token"]
    headers = {
        "X-N8N-Internal-Auth": world.dev.ready["internal_secret"],
        "X-Gateway-Execution-Token": token,
    }
    body = {"workflow_id": "any", "metadata": {"step": 3, "of": ["a", None]}}
    ids = []
    for number in range(3):
        told = body | {"error_message": f"broke {number}"}
        ids.append(call(client, world, "LogError", told, headers=headers).messages[0]["id"])
    asked = {"organization_id": world.dev.ready["organization_id"], "execution_id": ran}
    page = call(client, world, "ListErrorLogs", asked | {"page_size": 2}).messages[0]
    assert [log["id"] for log in page["error_logs"]] == ids[:0:-1]
    newest = page["error_logs"][0]
    assert (newest["error_message"], newest["workflow_id"]) == ("broke 2", "any")
    assert (newest["metadata"]["metadata"], newest["execution_id"]) == (body["metadata"], ran)
    rest = asked | {"page_size": 2, "page_token": page["next_page_token"]}
    page = call(client, world, "ListErrorLogs", rest).messages[0]
    assert [log["id"] for log in page["error_logs"]] == ids[:1]
    assert not page.get("next_page_token")
    other_list = asked | {"page_token": rest["page_token"], "start_time": newest["created_at"]}
    assert call(client, world, "ListErrorLogs", other_list).fields == ["page_token"]
    since = asked | {"start_time": newest["created_at"]}
    assert [
        log["id"] for log in call(client, world, "ListErrorLogs", since).messages[0]["error_logs"]
    ] == ids[2:]
    before = asked | {"end_time": newest["created_at"]}
    earlier = call(client, world, "ListErrorLogs", before).messages[0]["error_logs"]
    assert [log["id"] for log in earlier] == ids[1::-1]
    stranger = call(client, world, "ListErrorLogs", asked, headers=other_tenant.dev.bearer)
    assert (stranger.code, stranger.reason) == (Code.NOT_FOUND, "ORGANIZATION_NOT_FOUND")
    key = SigningKey(world.dev.ready["api_key"], world.dev.ready["client_secret"])
    by_key = call(client, world, "ListErrorLogs", asked, headers={}, signed=key.headers)
    assert (by_key.code, by_key.reason) == (Code.PERMISSION_DENIED, "SCOPE_MISSING")
