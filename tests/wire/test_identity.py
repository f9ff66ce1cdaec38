"""API keys through every door: from their creation to their end, and what is refused on the way."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest

from gateway.rpc.errors import Code
from tests.wire.clients import Client, Outcome
from tests.wire.conftest import World, call
from tests.wire.signing import SigningKey, seeded_key


def of(world: World, **fields: Any) -> dict[str, Any]:
    return {"organization_id": world.dev.ready["organization_id"], **fields}


def create(client: Client, world: World, **fields: Any) -> dict[str, Any]:
    outcome = call(client, world, "CreateApiKey", of(world, api_key={"name": "wire", **fields}))
    assert outcome.code is Code.OK
    return outcome.messages[0]


def show(
    client: Client, world: World, made: dict[str, Any], method: str = "ListWorkflows", tenant: str = ""
) -> Outcome:
    """Make a call signed with a key."""
    request = world.request("echo") if method == "Execute" else {}
    signed = partial(SigningKey.of(made).headers, tenant=tenant)
    return call(client, world, method, request, headers={}, signed=signed)


def test_a_key_runs_and_reads_and_does_no_more(client: Client, world: World) -> None:
    key = create(client, world)
    assert show(client, world, key, "Execute").code is Code.OK
    assert show(client, world, key).code is Code.OK
    refused = show(client, world, key, "ListOrganizations")
    assert (refused.code, refused.reason) == (Code.PERMISSION_DENIED, "SCOPE_MISSING")


def test_a_key_and_its_secret_are_shown_once(client: Client, world: World) -> None:
    made = create(client, world)
    got = call(client, world, "GetApiKey", of(world, id=made["api_key"]["id"]))
    listed = call(client, world, "ListApiKeys", of(world, page_size=1))
    for outcome in (got, listed):
        assert outcome.code is Code.OK
        assert made["api_key"]["public_id"] in str(outcome.messages)
        assert made["key"].rpartition("_")[2] not in str(outcome.messages)
        assert made["client_secret"] not in str(outcome.messages)
    log = world.dev.log.read_text()
    assert made["key"].rpartition("_")[2] not in log
    assert made["client_secret"] not in log


def test_the_seeded_key_is_in_the_ready_file(client: Client, world: World) -> None:
    tenant = world.dev.ready["organization_id"]
    assert show(client, world, asdict(seeded_key(world)), "Execute", tenant).code is Code.OK
    assert world.dev.ready["client_secret"].startswith("gw_secret_")


@pytest.mark.parametrize("key", ["", "gw_live_x", "x" * 8000, f"gw_live_{'a' * 16}_{'a' * 52}"])
def test_what_is_no_key_is_refused(client: Client, world: World, key: str) -> None:
    outcome = show(client, world, {"key": key, "client_secret": "x"})
    assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, "API_KEY_INVALID")
    assert outcome.http_status in (None, 401)


def test_a_key_of_another_tenant_gets_nowhere(client: Client, world: World, other_tenant: World) -> None:
    key = create(client, world)
    request = {"workflow_id": other_tenant.workflows["echo"]}
    theirs = call(client, world, "Execute", request, headers={}, signed=SigningKey.of(key).headers)
    assert (theirs.code, theirs.reason) == (Code.NOT_FOUND, "WORKFLOW_NOT_FOUND")
    other = show(client, world, key, tenant=str(uuid.uuid4()))
    assert (other.code, other.reason) == (Code.PERMISSION_DENIED, "TENANT_MISMATCH")


def test_a_key_beside_a_token_is_refused(client: Client, world: World) -> None:
    headers = {"X-API-Key": world.dev.ready["api_key"], **world.dev.bearer}
    outcome = call(client, world, "ListWorkflows", {}, headers=headers)
    assert (outcome.code, outcome.reason) == (Code.INVALID_ARGUMENT, "SEVERAL_IDENTITIES")


def test_a_revoked_key_ends_at_once(client: Client, world: World) -> None:
    made = create(client, world)
    assert show(client, world, made).code is Code.OK
    for _ in range(2):
        assert call(client, world, "RevokeApiKey", of(world, id=made["api_key"]["id"])).code is Code.OK
    outcome = show(client, world, made)
    assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, "API_KEY_REVOKED")
    rotated = call(client, world, "RotateApiKey", of(world, id=made["api_key"]["id"]))
    assert (rotated.code, rotated.reason) == (Code.FAILED_PRECONDITION, "API_KEY_ENDED")


def test_a_rotated_key_works_within_its_overlap_and_not_after(client: Client, world: World) -> None:
    made = create(client, world)
    request = of(world, id=made["api_key"]["id"], overlap_seconds=60)
    second = call(client, world, "RotateApiKey", request).messages[0]
    assert second["api_key"]["previous_expires_at"]
    assert [show(client, world, key).code for key in (made, second)] == [Code.OK, Code.OK]
    third = call(client, world, "RotateApiKey", request | {"overlap_seconds": 0}).messages[0]
    for old, reason in ((made, "API_KEY_INVALID"), (second, "API_KEY_ROTATED")):
        outcome = show(client, world, old)
        assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, reason)
    assert show(client, world, third).code is Code.OK
    call(client, world, "RevokeApiKey", of(world, id=made["api_key"]["id"]))
    assert {show(client, world, key).reason for key in (second, third)} == {"API_KEY_REVOKED"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"scopes": ["workflows:write"]}, "api_key.scopes[0]"),
        ({"scopes": ["executions:*", "everything:*"]}, "api_key.scopes[1]"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "api_key.expires_at"),
        ({"workflow_ids": ["01a200f7-50cc-7c20-a57d-7e1796758c47"]}, "api_key.workflow_ids"),
        ({"name": "a\0b"}, "api_key.name"),
        ({"name": "\u202ereversed"}, "api_key.name"),
        ({"name": "x" * (1 << 20)}, "api_key.name"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_key_that_breaks_a_rule_is_not_made(
    client: Client, world: World, fields: dict[str, Any], field: str
) -> None:
    outcome = call(client, world, "CreateApiKey", of(world, api_key={"name": "wire", **fields}))
    assert (outcome.code, outcome.fields) == (Code.INVALID_ARGUMENT, [field])


def test_a_key_can_be_for_one_workflow(client: Client, world: World) -> None:
    key = create(client, world, workflow_ids=[world.workflows["echo"]])
    listed = show(client, world, key).messages[0]["workflows"]
    assert [workflow["id"] for workflow in listed] == [world.workflows["echo"]]
    assert show(client, world, key, "Execute").code is Code.OK
    request = world.request("text")
    hidden = call(client, world, "Execute", request, headers={}, signed=SigningKey.of(key).headers)
    assert (hidden.code, hidden.reason) == (Code.NOT_FOUND, "WORKFLOW_NOT_FOUND")


def test_a_page_token_of_another_list_is_refused(client: Client, world: World) -> None:
    for _ in range(2):
        create(client, world)
    token = call(client, world, "ListApiKeys", of(world, page_size=1)).messages[0]["next_page_token"]
    for method, request in (
        ("ListMembers", of(world, page_token=token)),
        ("ListApiKeys", of(world, page_token=token, state="API_KEY_STATE_ACTIVE")),
    ):
        outcome = call(client, world, method, request)
        assert (outcome.code, outcome.reason) == (Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
