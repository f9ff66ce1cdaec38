"""What n8n's error workflows post, through every door."""

from __future__ import annotations

import uuid

from gateway.rpc.errors import Code
from tests.wire.clients import Client
from tests.wire.conftest import World, call


def test_n8n_reports_and_nobody_else(client: Client, world: World) -> None:
    body = {
        "org_id": world.dev.ready["organization_id"],
        "workflow_id": "any",
        "error_message": "it broke",
        "metadata": {"additional": "context"},
        "execution": {"id": "231", "error": {"message": "no"}},
    }
    headers = {"X-N8N-Internal-Auth": world.dev.ready["internal_secret"]}
    logged = call(client, world, "LogError", body, headers=headers)
    assert logged.code is Code.OK, logged
    assert uuid.UUID(logged.messages[0]["id"])
    assert call(client, world, "LogError", body).code is Code.UNAUTHENTICATED
    wrong = headers | {"X-Gateway-Execution-Token": "of-nobody"}
    assert call(client, world, "LogError", body, headers=wrong).reason == "EXECUTION_TOKEN_INVALID"
