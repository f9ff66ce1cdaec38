"""Every service of the tenants' own, over both ways to the database: PostgREST, and Postgres itself."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from yarl import URL

from gateway.adapters.addresses import Networks
from gateway.adapters.database import Database
from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.vault import SealedVault
from gateway.executions.token import ExecutionTokens
from gateway.gen.n8ngateway.v1 import api_key_service_pb, organization_service_pb, workflow_service_pb
from gateway.rpc.errors import NotFound, PermissionDenied
from gateway.rpc.methods import Method, MethodTable
from gateway.rpc.principal import Principal
from gateway.services.api_key import ApiKeyService
from gateway.services.organization import OrganizationService
from gateway.services.workflow import WorkflowService
from tests.adapters.databases import PATIENT, login
from tests.adapters.postgrest import Postgrests, Project
from tests.calls import call_of

KEYS = [("1", b"k" * 32)]


async def unheard(_: str) -> None:
    """Nobody else remembers anything."""


class Gateway:
    """The services on one database, called as the chain would."""

    def __init__(self, database: Database) -> None:
        vault = SealedVault(database, KEYS)
        organizations = OrganizationService(
            database,
            vault,
            unheard,
            tokens=ExecutionTokens("t" * 64),
            n8n_networks=Networks(()),
            n8n_changed=unheard,
        )
        self._methods: dict[str, Method] = {
            method.path.rpartition("/")[2]: method
            for method in MethodTable(
                [
                    (organization_service_pb.desc().services[0], organizations),
                    (api_key_service_pb.desc().services[0], ApiKeyService(database, vault, unheard)),
                    (workflow_service_pb.desc().services[0], WorkflowService(database)),
                ]
            )
        }

    async def __call__(self, caller: Principal, method: str, **fields: Any) -> Any:
        """The answer of a unary method to a request of these fields (ProtoJSON values)."""
        called = self._methods[method]
        request = called.input.from_json(json.dumps(fields))
        call = call_of(called, request)
        call.principal, call.request = caller, request
        answer = called.implementation(request, call)
        if called.server_streaming:
            return b"".join([piece.data async for pieces in answer for piece in pieces])
        return await answer


@dataclass(frozen=True)
class Side:
    """One way to the database, and the users who come with it."""

    gateway: Gateway
    postgrests: Postgrests

    def user(self) -> Principal:
        return self.postgrests.user(f"user_{uuid.uuid4().hex}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream(superuser_url: URL, postgrests: Postgrests) -> str:
    return (await postgrests.serve(superuser_url)).url


@pytest.fixture(params=["direct", "rest"])
async def side(
    request: pytest.FixtureRequest, superuser_url: URL, upstream: str, postgrests: Postgrests
) -> AsyncIterator[Side]:
    if request.param == "direct":
        database: Database = PostgresDatabase(login(superuser_url), max_connections=4, timeouts=PATIENT)
        yield Side(Gateway(database), postgrests)
        await database.close()
        return
    async with Project(upstream) as project:
        database = project.database(max_connections=4)
        yield Side(Gateway(database), postgrests)
        await database.close()


async def test_organizations_and_their_workflows(side: Side) -> None:
    call, owner = side.gateway, side.user()
    made = (await call(owner, "CreateOrganization", organization={"name": "Acme"})).organization
    of = {"organization_id": made.id}
    listed = await call(owner, "ListOrganizations")
    assert [organization.id for organization in listed.organizations] == [made.id]
    workflow = {**of, "name": "echo", "webhook_path": "echo", "credits_per_execution": 3}
    registered = (await call(owner, "RegisterWorkflow", workflow=workflow)).workflow
    changed = {"id": made.id, "name": "Acme Inc", "default_workflow_id": registered.id}
    updated = (await call(owner, "UpdateOrganization", organization=changed)).organization
    assert (updated.name, updated.default_workflow_id) == ("Acme Inc", registered.id)
    moved = {"id": registered.id, "webhook_path": "other"}
    assert (await call(owner, "UpdateWorkflow", workflow=moved)).workflow.webhook_path == "other"
    for method, is_active in (("DeactivateWorkflow", False), ("ActivateWorkflow", True)):
        assert (await call(owner, method, id=registered.id)).workflow.is_active is is_active
    await call(owner, "DeleteWorkflow", id=registered.id)
    assert (await call(owner, "ListWorkflows", **of)).workflows == []
    assert (await call(owner, "GetWorkflow", id=registered.id)).workflow.archived_at is not None
    assert (await call(owner, "GetOrganization", id=made.id)).organization.default_workflow_id == ""
    events = (await call(owner, "ListAuditEvents", **of)).audit_events
    assert {event.actor_id for event in events} == {owner.subject}
    exported = await call(owner, "ExportAuditEvents", **of, format="EXPORT_FORMAT_NDJSON")
    assert len(exported.splitlines()) == len(events)


async def test_members_come_by_invitation(side: Side) -> None:
    call, owner, asked = side.gateway, side.user(), side.user()
    made = (await call(owner, "CreateOrganization", organization={"name": "Acme"})).organization
    of = {"organization_id": made.id}
    member = {"profile_id": asked.subject, "role": "MEMBER_ROLE_VIEWER"}
    assert (await call(owner, "AddMember", **of, member=member)).member.is_pending
    [invitation] = (await call(asked, "ListInvitations")).invitations
    assert invitation.organization_name == "Acme"
    assert not (await call(asked, "AcceptInvitation", **of)).member.is_pending
    assert len((await call(asked, "ListMembers", **of)).members) == 2
    with pytest.raises(PermissionDenied):
        await call(asked, "ListCredentials", **of)
    promoted = of | member | {"role": "MEMBER_ROLE_ADMIN"}
    assert (await call(owner, "UpdateMember", member=promoted)).member.role.name == "ADMIN"
    await call(asked, "ListCredentials", **of)
    await call(owner, "RemoveMember", **of, profile_id=asked.subject)
    with pytest.raises(NotFound):
        await call(asked, "GetMember", **of, profile_id=asked.subject)


async def test_keys_and_credentials(side: Side) -> None:
    call, owner = side.gateway, side.user()
    made = (await call(owner, "CreateOrganization", organization={"name": "Acme"})).organization
    of = {"organization_id": made.id}
    first = await call(owner, "CreateApiKey", **of, api_key={"name": "ci", "scopes": ["workflows:read"]})
    named = of | {"id": first.api_key.id}
    rotated = await call(owner, "RotateApiKey", **named, overlap_seconds=60)
    assert rotated.api_key.public_id == first.api_key.public_id
    assert rotated.key != first.key
    assert (await call(owner, "RevokeApiKey", **named)).api_key.state.name == "REVOKED"
    assert (await call(owner, "GetApiKey", **named)).api_key.revoked_at is not None
    assert len((await call(owner, "ListApiKeys", **of)).api_keys) == 1
    secret = f"credential-{uuid.uuid4().hex}"
    await call(owner, "StoreCredentials", **of, credentials={"A": secret, "B": secret})
    listed = await call(owner, "ListCredentials", **of)
    assert [credential.name for credential in listed.credentials] == ["A", "B"]
    assert secret not in repr(listed)
    assert list((await call(owner, "DeleteCredentials", **of, names=["A"])).names) == ["A"]


async def test_200_requests_of_two_tenants_at_once_never_mix(side: Side) -> None:
    call = side.gateway
    owners = [side.user() for _ in range(2)]
    tenants = [
        (await call(owner, "CreateOrganization", organization={"name": name})).organization
        for owner, name in zip(owners, ("First", "Second"), strict=True)
    ]

    # So many at once that they mix if they can, and not so many that a busy machine keeps them waiting for
    # a connection until they give up.
    at_once = asyncio.Semaphore(50)

    async def ask_in_turn(number: int) -> None:
        async with at_once:
            await ask(number)

    async def ask(number: int) -> None:
        mine, other = number % 2, 1 - number % 2
        name = uuid.uuid4().hex
        workflow = {"organization_id": tenants[mine].id, "name": name, "webhook_path": "echo"}
        made = (await call(owners[mine], "RegisterWorkflow", workflow=workflow)).workflow
        found = (await call(owners[mine], "GetWorkflow", id=made.id)).workflow
        assert (found.name, found.organization_id) == (name, tenants[mine].id)
        listed = await call(owners[mine], "ListOrganizations")
        assert [organization.name for organization in listed.organizations] == [tenants[mine].name]
        for refused in (
            call(owners[other], "GetWorkflow", id=made.id),
            call(owners[mine], "ListWorkflows", organization_id=tenants[other].id),
        ):
            with pytest.raises(NotFound):
                await refused

    await asyncio.gather(*(ask_in_turn(number) for number in range(200)))
    for owner, tenant in zip(owners, tenants, strict=True):
        page = await call(owner, "ListWorkflows", organization_id=tenant.id, page_size=200)
        assert (len(page.workflows), {workflow.organization_id for workflow in page.workflows}) == (
            100,
            {tenant.id},
        )
