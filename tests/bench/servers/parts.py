"""What the whole gateway stands on: Postgres, Valkey, an n8n that answers at once, and tenants.

``python -m tests.bench.servers.parts DIRECTORY`` prints its ports and writes `parts.json` into it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase, migrations
from gateway.local.issuer import Issuer
from gateway.local.stack import LocalStack
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from tests.adapters.postgrest import JWT_SECRET, LEGACY
from tests.bench.servers import serving
from tests.bench.servers.quick_n8n import QuickN8n

TENANTS = 50
CREDITS = 1_000_000_000
AUTHENTICATOR_PASSWORD = "the bench's authenticator"
WEBHOOKS = ("answer", "stream", "dripped", "stamped", "held")


@dataclass(frozen=True)
class Parts:
    """Where everything is; `tokens` are those of the tenants, by the webhook of their workflow."""

    database_url: str
    superuser_url: str
    redis_url: str
    n8n_url: str
    issuer: str
    jwks_url: str
    jwks: str
    anon_key: str
    service_key: str
    jwt_secret: str
    internal_secret: str
    vault_key: str
    tokens: dict[str, list[str]]

    @classmethod
    def read(cls, directory: Path) -> Parts:
        return cls(**json.loads((directory / "parts.json").read_text()))


async def main() -> None:
    directory = Path(sys.argv[1])
    loop = asyncio.get_running_loop()
    n8n = await loop.create_server(QuickN8n, "127.0.0.1", 0)
    n8n_url = f"http://127.0.0.1:{n8n.sockets[0].getsockname()[1]}"
    async with LocalStack(directory, n8n_url=n8n_url) as stack:
        assert stack.issuer is not None
        await migrations.apply(stack.database_url, local=True, authenticator_password=AUTHENTICATOR_PASSWORD)
        login = URL(stack.database_url).with_user("authenticator").with_password(AUTHENTICATOR_PASSWORD)
        parts = Parts(
            database_url=str(login),
            superuser_url=stack.database_url,
            redis_url=stack.redis_url,
            n8n_url=n8n_url,
            issuer=stack.issuer.url,
            jwks_url=stack.issuer.jwks_url,
            jwks=await _keys(stack.issuer),
            anon_key=LEGACY.anon,
            service_key=LEGACY.service,
            jwt_secret=JWT_SECRET,
            internal_secret=stack.internal_secret,
            vault_key=stack.vault_key,
            tokens=await _tenants(stack.database_url, str(login), stack.issuer),
        )
        (directory / "parts.json").write_text(json.dumps(asdict(parts)))
        serving.announce({"n8n": n8n.sockets[0].getsockname()[1]})
        await asyncio.Event().wait()


async def _keys(issuer: Issuer) -> str:
    """The keys that PostgREST trusts: the issuer's, and the project's secret."""
    async with aiohttp.ClientSession() as session, session.get(issuer.jwks_url) as answer:
        keys = (await answer.json())["keys"]
    secret = base64.urlsafe_b64encode(JWT_SECRET.encode()).rstrip(b"=").decode()
    return json.dumps({"keys": [*keys, {"kty": "oct", "alg": "HS256", "k": secret}]})


async def _tenants(superuser_url: str, login: str, issuer: Issuer) -> dict[str, list[str]]:
    database = PostgresDatabase(login, max_connections=1)
    try:
        return {
            webhook: [await _tenant(database, issuer, webhook, number) for number in range(TENANTS)]
            for webhook in WEBHOOKS
        }
    finally:
        await database.close()
        connection = await asyncpg.connect(superuser_url)
        await connection.execute("vacuum analyze")
        await connection.close()


async def _tenant(database: PostgresDatabase, issuer: Issuer, webhook: str, number: int) -> str:
    """An organization with credits and one workflow, its default; the token of its owner."""
    user, clerk = f"user_{webhook}{number}", f"org_{webhook}{number}"
    claims = json.dumps({"sub": user, "o": {"id": clerk, "rol": "admin"}})
    owner = Principal(Kind.USER, user, DatabaseRole.AUTHENTICATED, claims)

    async def call(function: str, principal: Principal | None, **arguments: Any) -> Any:
        return json.loads(await database.call(function, principal, **arguments))

    wanted: dict[str, Any] = {"name": f"Tenant {webhook} {number}", "clerk_organization_id": clerk}
    organization = (await call("create_organization", owner, p_organization=wanted))["id"]
    wanted = {"organization_id": organization, "name": webhook, "webhook_path": webhook}
    workflow = await call("register_workflow", owner, p_workflow=wanted | {"credits_per_execution": 1})
    wanted = {"default_workflow_id": workflow["id"]}
    await call("update_organization", owner, p_id=organization, p_changes=wanted)
    await call("add_credits", None, p_organization_id=organization, p_amount=CREDITS, p_reference="bench")
    return issuer.mint(user, organization_id=clerk, lifetime=timedelta(hours=3))


if __name__ == "__main__":
    serving.run(main)
