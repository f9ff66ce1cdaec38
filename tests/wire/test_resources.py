"""What is registered can be changed and ended, the same through every door."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from gateway.rpc.errors import Code
from tests.wire.clients import Client
from tests.wire.conftest import World, call


def register(client: Client, world: World, **fields: Any) -> dict[str, Any]:
    workflow = {"name": uuid.uuid4().hex, "webhook_path": "echo", **fields}
    outcome = call(client, world, "RegisterWorkflow", {"workflow": workflow})
    assert outcome.code is Code.OK
    return single(outcome.messages[0], "workflow")


def single(message: dict[str, Any], name: str) -> dict[str, Any]:
    """The resource of an answer; REST prints it bare."""
    resource: dict[str, Any] = message.get(name, message)
    return resource


def test_a_workflow_is_updated_by_what_is_given(client: Client, world: World) -> None:
    made = register(client, world, description="old", timeout_seconds=9)
    outcome = call(client, world, "UpdateWorkflow", {"workflow": {"id": made["id"], "description": "new"}})
    updated = single(outcome.messages[0], "workflow")
    assert (updated["description"], updated["timeout_seconds"]) == ("new", 9)
    assert updated["name"] == made["name"]


def test_a_mask_clears_what_is_not_given(client: Client, world: World) -> None:
    made = register(client, world, description="old", timeout_seconds=9)
    request = {
        "workflow": {"id": made["id"], "name": "ignored", "timeout_seconds": 3},
        "update_mask": "description,timeoutSeconds",
    }
    updated = single(call(client, world, "UpdateWorkflow", request).messages[0], "workflow")
    assert (updated["description"], updated["timeout_seconds"], updated["name"]) == ("", 3, made["name"])


@pytest.mark.parametrize("path", ["id", "createdAt", "organizationId", "isActive", "nope", "name.first"])
def test_a_mask_that_cannot_be_followed_is_named(client: Client, world: World, path: str) -> None:
    made = register(client, world)
    request = {"workflow": {"id": made["id"], "name": "new"}, "update_mask": path}
    outcome = call(client, world, "UpdateWorkflow", request)
    assert outcome.code is Code.INVALID_ARGUMENT
    assert outcome.fields == ["update_mask"]


def test_a_deleted_workflow_is_archived(client: Client, world: World) -> None:
    made = register(client, world)
    for _ in range(2):
        assert call(client, world, "DeleteWorkflow", {"id": made["id"]}).code is Code.OK
    got = single(call(client, world, "GetWorkflow", {"id": made["id"]}).messages[0], "workflow")
    assert got["archived_at"]
    assert call(client, world, "Execute", {"workflow_id": made["id"]}).code is Code.NOT_FOUND
    renamed = call(client, world, "UpdateWorkflow", {"workflow": {"id": made["id"], "name": "again"}})
    assert (renamed.code, renamed.reason) == (Code.FAILED_PRECONDITION, "WORKFLOW_ARCHIVED")


@pytest.mark.parametrize("path", ["../rest/users", "//host", "http://host/x", "a/../b", "a%2e%2e/b", "a\\b"])
def test_a_webhook_path_leads_nowhere_else(client: Client, world: World, path: str) -> None:
    made = register(client, world)
    for method, fields in (
        ("RegisterWorkflow", {"name": uuid.uuid4().hex}),
        ("UpdateWorkflow", {"id": made["id"]}),
    ):
        outcome = call(client, world, method, {"workflow": {"webhook_path": path, **fields}})
        assert outcome.code is Code.INVALID_ARGUMENT
        assert outcome.fields == ["workflow.webhook_path"]


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * (1 << 20), "\u202ereversed", "a\u2066b", " padded", "line\nbreak"], ids=repr
)
def test_a_name_that_deceives_is_refused(client: Client, world: World, name: str) -> None:
    outcome = call(client, world, "RegisterWorkflow", {"workflow": {"name": name, "webhook_path": "echo"}})
    assert outcome.code is Code.INVALID_ARGUMENT
    assert outcome.fields == ["workflow.name"]
    assert len(outcome.message) < 1000


def test_a_page_token_is_good_for_its_own_list_only(
    client: Client, world: World, other_tenant: World
) -> None:
    first = call(client, world, "ListWorkflows", {"page_size": 1}).messages[0]
    token = first["next_page_token"]
    second = call(client, world, "ListWorkflows", {"page_size": 1, "page_token": token}).messages[0]
    assert first["workflows"][0]["id"] != second["workflows"][0]["id"]
    refused = [
        ("ListOrganizations", {"page_token": token}),
        ("ListWorkflows", {"page_token": token, "is_active": True}),
        ("ListWorkflows", {"page_token": token[:-4] + "AAAA" + "A"}),
        ("ListWorkflows", {"page_token": "forged"}),
        ("ListWorkflows", {"page_token": "A" * 1024}),
    ]
    for method, request in refused:
        outcome = call(client, world, method, request)
        assert (outcome.code, outcome.reason) == (Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
        assert outcome.fields == ["page_token"]
    theirs = call(client, other_tenant, "ListWorkflows", {"page_token": token})
    assert all(
        workflow["id"] in other_tenant.workflows.values()
        for message in theirs.messages
        for workflow in message["workflows"]
    )


def organization(client: Client, world: World, **fields: Any) -> Any:
    request = {"organization": {"id": world.dev.ready["organization_id"], **fields}}
    return call(client, world, "UpdateOrganization", request)


def test_the_default_workflow_runs_when_none_is_named(client: Client, world: World) -> None:
    outcome = organization(client, world, default_workflow_id=world.workflows["echo"])
    updated = single(outcome.messages[0], "organization")
    assert updated["default_workflow_id"] == world.workflows["echo"]
    ran = call(client, world, "Execute", {"data": {"n": 1}})
    assert ran.messages[0]["data"]["echo"] == {"n": 1}


def test_the_default_workflow_is_none_of_another_tenant(
    client: Client, world: World, other_tenant: World
) -> None:
    for workflow_id in (other_tenant.workflows["echo"], str(uuid.uuid4())):
        outcome = organization(client, world, default_workflow_id=workflow_id)
        assert (outcome.code, outcome.fields) == (Code.INVALID_ARGUMENT, ["default_workflow_id"])


def test_a_limit_is_not_set_by_who_is_limited(client: Client, world: World) -> None:
    outcome = organization(client, world, max_concurrent_executions=3)
    assert (outcome.code, outcome.reason) == (Code.PERMISSION_DENIED, "PLATFORM_ONLY")


def test_who_runs_low_is_told_below_its_own_threshold(client: Client, world: World) -> None:
    for threshold in (5, 7):
        outcome = organization(client, world, low_balance_threshold=threshold)
        assert single(outcome.messages[0], "organization")["low_balance_threshold"] == threshold


def test_another_tenants_organization_is_not_found(client: Client, other_tenant: World) -> None:
    outcome = organization(client, other_tenant, name="taken over")
    assert (outcome.code, outcome.reason) == (Code.NOT_FOUND, "ORGANIZATION_NOT_FOUND")


def test_members_come_and_go(client: Client, world: World, mint: Any) -> None:
    of = {"organization_id": world.dev.ready["organization_id"]}
    profile = f"user_{uuid.uuid4().hex}"
    headers = {"Authorization": f"Bearer {mint(profile)}"}
    member = {"profile_id": profile, "role": "MEMBER_ROLE_VIEWER"}
    added = call(client, world, "AddMember", of | {"member": member})
    assert single(added.messages[0], "member")["role"] == "MEMBER_ROLE_VIEWER"
    twice = call(client, world, "AddMember", of | {"member": member})
    assert (twice.code, twice.fields) == (Code.ALREADY_EXISTS, ["profile_id"])
    assert call(client, world, "ListMembers", of, headers=headers).code is Code.NOT_FOUND
    [invitation] = call(client, world, "ListInvitations", {}, headers=headers).messages[0]["invitations"]
    assert invitation["organization_id"] == of["organization_id"]
    accepted = call(client, world, "AcceptInvitation", of, headers=headers)
    assert single(accepted.messages[0], "member")["profile_id"] == profile
    again = call(client, world, "DeclineInvitation", of, headers=headers)
    assert (again.code, again.reason) == (Code.NOT_FOUND, "INVITATION_NOT_FOUND")
    assert call(client, world, "ListMembers", of, headers=headers).code is Code.OK
    refused = call(client, world, "AddMember", of | {"member": member}, headers=headers)
    assert (refused.code, refused.reason) == (Code.PERMISSION_DENIED, "ROLE_INSUFFICIENT")
    changed = call(client, world, "UpdateMember", {"member": of | member | {"role": "MEMBER_ROLE_ADMIN"}})
    assert single(changed.messages[0], "member")["role"] == "MEMBER_ROLE_ADMIN"
    got = call(client, world, "GetMember", of | {"profile_id": profile}, headers=headers)
    assert single(got.messages[0], "member")["profile_id"] == profile
    assert call(client, world, "RemoveMember", of | {"profile_id": profile}, headers=headers).code is Code.OK
    gone = call(client, world, "ListMembers", of, headers=headers)
    assert (gone.code, gone.reason) == (Code.NOT_FOUND, "ORGANIZATION_NOT_FOUND")


def test_the_last_owner_stays(client: Client, world: World) -> None:
    of = {"organization_id": world.dev.ready["organization_id"], "profile_id": "user_dev"}
    outcome = call(client, world, "RemoveMember", of)
    assert (outcome.code, outcome.reason) == (Code.FAILED_PRECONDITION, "LAST_OWNER")
