"""What a first `dev` finds: an organization with credits, workflows for the demo n8n, and an API key."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.rpc.api_keys import new_key, parse_key
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from gateway.rpc.scopes import GRANTABLE

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.adapters.vault import Vault
    from gateway.local.secrets import Secrets

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
    """What is there: the organization, its workflows by name, and a key that may do what a member may."""

    organization_id: str
    api_key: str = field(repr=False)
    client_secret: str = field(repr=False)
    workflows: dict[str, str]


async def seed(database: Database, vault: Vault, secrets: Secrets) -> Seeded:
    """Make what is not there yet. Called again, it finds what it made before.

    A key is shown once, so that it is `secrets` which remember it.
    """
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
    key, client_secret = await _api_key(database, owner, organization_id, vault, secrets)
    return Seeded(organization_id, key, client_secret, await _workflows(database, owner, organization_id))


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


async def _api_key(
    database: Database, owner: Principal, organization_id: str, vault: Vault, secrets: Secrets
) -> tuple[str, str]:
    key, client_secret = secrets.find("api_key"), secrets.find("client_secret")
    known = parse_key(key) if key else None
    if key and client_secret and known:
        found = json.loads(await database.call("find_api_key", None, p_public_id=known[0]))
        if found and found["secret_hash"] == known[1] and not found["is_revoked"]:
            return key, client_secret
    made = new_key("test")
    secrets.set("api_key", made.key)
    secrets.set("client_secret", made.client_secret)
    await _call(
        database,
        "create_api_key",
        owner,
        p_organization_id=organization_id,
        p_api_key={"name": "dev", "scopes": sorted(GRANTABLE)},
        p_public_id=made.public_id,
        p_secret_hash=made.secret_hash,
        p_client_secret=vault.seal(organization_id, made.client_secret_name, made.client_secret),
    )
    return made.key, made.client_secret


async def _call(database: Database, function: str, principal: Principal, **arguments: Any) -> Any:
    return json.loads(await database.call(function, principal, **arguments))
