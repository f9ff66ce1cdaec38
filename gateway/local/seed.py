"""What a first `dev` finds: an organization with credits, and workflows for the demo n8n."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.rpc.principal import DatabaseRole, Kind, Principal

if TYPE_CHECKING:
    from gateway.adapters.database import Database

USER = "user_dev"
CLERK_ORGANIZATION = "org_dev"
CREDITS = 1_000_000
WORKFLOWS = {
    "echo": "Answers with what it was sent",
    "stream": "Three nodes put out a part each, a second apart",
    "fail": "Fails in its first node",
}


@dataclass(frozen=True, slots=True)
class Seeded:
    """The ids of what is there: the organization, and its workflows by name."""

    organization_id: str
    workflows: dict[str, str]


async def seed(database: Database) -> Seeded:
    """Make what is not there yet. Called again, it finds what it made before."""
    owner = Principal(
        kind=Kind.USER,
        subject=USER,
        database_role=DatabaseRole.AUTHENTICATED,
        claims=json.dumps({"sub": USER, "o": {"id": CLERK_ORGANIZATION, "rol": "admin"}}),
    )
    organization_id = await _organization(database, owner)
    await database.call(
        "add_credits",
        None,
        p_organization_id=organization_id,
        p_amount=CREDITS,
        p_reference="first start",
    )
    return Seeded(organization_id, await _workflows(database, owner, organization_id))


async def _organization(database: Database, owner: Principal) -> str:
    page = await _call(database, "list_organizations", owner)
    for organization in page["organizations"]:
        if organization.get("clerk_organization_id") == CLERK_ORGANIZATION:
            return str(organization["id"])
    wanted = {"name": "Demo", "clerk_organization_id": CLERK_ORGANIZATION}
    created = await _call(database, "create_organization", owner, p_organization=wanted)
    return str(created["id"])


async def _workflows(database: Database, owner: Principal, organization_id: str) -> dict[str, str]:
    page = await _call(database, "list_workflows", owner, p_organization_id=organization_id, p_limit=200)
    there = {workflow["webhook_path"]: str(workflow["id"]) for workflow in page["workflows"]}
    found = {name: there[name] for name in WORKFLOWS if name in there}
    for name in WORKFLOWS.keys() - found.keys():
        workflow = {
            "organization_id": organization_id,
            "name": name,
            "description": WORKFLOWS[name],
            "webhook_path": name,
            "credits_per_execution": 1,
        }
        found[name] = str((await _call(database, "register_workflow", owner, p_workflow=workflow))["id"])
    return {name: found[name] for name in WORKFLOWS}


async def _call(database: Database, function: str, principal: Principal, **arguments: Any) -> Any:
    return json.loads(await database.call(function, principal, **arguments))
