"""Databases for tests: an embedded Postgres for the session, with a migrated database for each need."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase, Timeouts, migrations
from gateway.local.postgres import LocalPostgres
from gateway.rpc.api_keys import new_key
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from tests import leaks

AUTHENTICATOR_PASSWORD = "it's the authenticator's"
leaks.remember("the authenticator's password", AUTHENTICATOR_PASSWORD)


PATIENT = Timeouts(connect=60, statement=60, wait=60)
"""On a busy machine, calls wait long for one of few connections."""


@dataclass(frozen=True)
class Cluster:
    """A running Postgres whose database "migrated" is there to be copied."""

    superuser: URL

    async def create(self, template: str = "template0") -> URL:
        """Make a database and return its URL for the superuser."""
        name = f"test_{uuid.uuid4().hex}"
        connection = await asyncpg.connect(str(self.superuser))
        try:
            await connection.execute(f"create database {name} template {template}")
        finally:
            await connection.close()
        return self.superuser.with_path(name, keep_query=True)


async def spare_the_disk(superuser: str) -> None:
    """Have a cluster wait for no write to reach the disk, which matters only if the machine itself stops."""
    connection = await asyncpg.connect(superuser)
    try:
        await connection.execute("alter system set fsync = off")
        await connection.execute("select pg_reload_conf()")
    finally:
        await connection.close()


async def hasten_logins(superuser: URL) -> None:
    """Have passwords proved in one iteration: tests log in thousands of times, and guess none."""
    connection = await asyncpg.connect(str(superuser))
    try:
        await connection.execute("set scram_iterations = 1")
        for role, password in (
            (superuser.user, superuser.password),
            ("authenticator", AUTHENTICATOR_PASSWORD),
        ):
            quoted = (password or "").replace("'", "''")
            await connection.execute(f"alter role {role} password '{quoted}'")
    finally:
        await connection.close()


def login(superuser: URL) -> str:
    """Return the URL of the same database for authenticator."""
    return str(superuser.with_user("authenticator").with_password(AUTHENTICATOR_PASSWORD))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with LocalPostgres(tmp_path_factory.mktemp("postgres")) as server:
        await spare_the_disk(server.superuser_url)
        # It has no TLS, which each login would ask it for.
        running = Cluster(URL(server.superuser_url).with_query(sslmode="disable"))
        connection = await asyncpg.connect(server.superuser_url)
        await connection.execute("create database migrated")
        await connection.close()
        await migrations.apply(
            str(running.superuser.with_path("migrated", keep_query=True)),
            local=True,
            authenticator_password=AUTHENTICATOR_PASSWORD,
        )
        await hasten_logins(running.superuser)
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def superuser_url(cluster: Cluster) -> URL:
    """One migrated database that all tests share: each makes tenants of its own."""
    return await cluster.create("migrated")


@pytest.fixture
async def superuser(superuser_url: URL) -> AsyncIterator[Any]:
    """A connection that sees and may do everything."""
    connection = await asyncpg.connect(str(superuser_url))
    yield connection
    await connection.close()


@pytest.fixture
async def database(superuser_url: URL) -> AsyncIterator[PostgresDatabase]:
    opened = PostgresDatabase(login(superuser_url))
    yield opened
    await opened.close()


def user(subject: str | None = None, **claims: Any) -> Principal:
    """Return a user that nobody else in the tests is, or this one, with these claims in its token."""
    subject = subject or f"user_{uuid.uuid4().hex}"
    return Principal(
        kind=Kind.USER,
        subject=subject,
        database_role=DatabaseRole.AUTHENTICATED,
        claims=json.dumps({"sub": subject, "role": "authenticated", **claims}),
    )


async def add_api_key(superuser: Any, organization_id: str, **claims: Any) -> Principal:
    """Give the organization an API key that nobody else in the tests is, with these claims."""
    made = new_key()
    key_id = await superuser.fetchval(
        "insert into public.api_keys"
        " (organization_id, name, public_id, environment, secret_hash, scopes, created_by)"
        " values ($1, 'test', $2, 'API_KEY_ENVIRONMENT_LIVE', $3, '[]', 'test') returning id::text",
        organization_id,
        made.public_id,
        made.secret_hash,
    )
    known = {"sub": f"key:{key_id}", "role": "authenticated", "key_id": key_id}
    return Principal(
        kind=Kind.API_KEY,
        subject=key_id,
        database_role=DatabaseRole.AUTHENTICATED,
        claims=json.dumps({**known, "organization_id": organization_id, **claims}),
    )


@dataclass(frozen=True)
class Tenant:
    """An organization with its owner and one workflow."""

    database: PostgresDatabase
    owner: Principal
    organization_id: str
    workflow_id: str

    async def call(self, function: str, **arguments: Any) -> Any:
        """Call as the owner."""
        return json.loads(await self.database.call(function, self.owner, **arguments))

    async def begin(self, caller: Principal | None = None, **arguments: Any) -> Any:
        """Begin an execution of the workflow as the owner or another caller."""
        named = {
            "p_execution_id": str(uuid.uuid4()),
            "p_organization_id": self.organization_id,
            "p_workflow_id": self.workflow_id,
        }
        text = await self.database.call("begin_execution", caller or self.owner, **(named | arguments))
        return json.loads(text)

    async def settle(self, execution_id: str, state: str = "COMPLETED", **arguments: Any) -> Any:
        """Settle an execution as the gateway."""
        text = await self.database.call(
            "settle_execution",
            None,
            p_execution_id=execution_id,
            p_state=f"EXECUTION_STATE_{state}",
            **arguments,
        )
        return json.loads(text)


async def add_credits(
    database: PostgresDatabase, organization_id: str, amount: int, reference: str = ""
) -> Any:
    """Add credits as the platform."""
    text = await database.call(
        "add_credits",
        None,
        p_organization_id=organization_id,
        p_amount=amount,
        p_reference=reference or uuid.uuid4().hex,
    )
    return json.loads(text)


async def new_tenant(
    database: PostgresDatabase, owner: Principal | None = None, *, balance: int = 0, price: int = 1
) -> Tenant:
    """Make an organization with this balance and a workflow of this price."""
    owner = owner or user()
    organization = json.loads(
        await database.call("create_organization", owner, p_organization={"name": "Tenant"})
    )
    workflow = {
        "organization_id": organization["id"],
        "name": "echo",
        "webhook_path": "echo",
        "credits_per_execution": price,
    }
    registered = json.loads(await database.call("register_workflow", owner, p_workflow=workflow))
    if balance:
        await add_credits(database, organization["id"], balance)
    return Tenant(database, owner, organization["id"], registered["id"])


async def add_member(superuser: Any, organization_id: str, member: Principal, role: str) -> None:
    """Make a user a member with a role such as "VIEWER"."""
    await superuser.execute(
        "insert into public.profiles (id) values ($1) on conflict do nothing", member.subject
    )
    await superuser.execute(
        "insert into public.organization_members (organization_id, profile_id, role) values ($1, $2, $3)",
        organization_id,
        member.subject,
        f"MEMBER_ROLE_{role}",
    )
