"""Who can read, write and call what: every table and function of the schema, as each kind of caller.

What is allowed is written down here; the tables and functions are taken from the database's own catalogue, so
a new one that is missing here fails.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase
from gateway.rpc.api_keys import new_key
from gateway.rpc.principal import Principal
from tests.adapters.databases import Tenant, add_api_key, add_member, login, new_tenant, user

pytestmark = pytest.mark.asyncio(loop_scope="session")

OWN, ALL, NOTHING, DENIED = "own", "all", "nothing", "denied"
OK = "ok"

MEMBERS_OF_A = ["owner of A", "admin of A", "member of A", "viewer of A"]
KEYS = ["key of A", "key of B"]
CALLERS = ["anonymous", *MEMBERS_OF_A, "owner of B", "stranger", *KEYS, "service"]
OF_B = {"owner of B", "key of B"}
WITHOUT_PROFILE = {"stranger", *KEYS}

# Rows that a caller sees; "own" are those of its organizations. Nobody writes a table: functions do that.
READS = {
    "anonymous": DENIED,
    "owner of A": OWN,
    "admin of A": OWN,
    "member of A": OWN,
    "viewer of A": OWN,
    "owner of B": OWN,
    "stranger": NOTHING,
    "key of A": OWN,
    "key of B": OWN,
    "service": ALL,
}
# The column that says whose a row is.
TABLES = {
    "profiles": "id",
    "organizations": "id",
    "organization_members": "organization_id",
    "workflows": "organization_id",
    "executions": "organization_id",
    "credit_accounts": "organization_id",
    "credit_entries": "organization_id",
    "error_logs": "organization_id",
}
# Tables of which only owners and admins see rows.
FOR_ADMINS = {"error_logs"}
ADMINS = {"owner of A", "admin of A", "owner of B", "service"}
# Tables with secrets in them, or of the functions' own, which nobody reads.
CLOSED = {
    "api_keys": "organization_id",
    "tenant_secrets": "organization_id",
    "credential_handles": "organization_id",
    "n8n_instances": "organization_id",
    "webhook_endpoints": "organization_id",
    "webhook_deliveries": "organization_id",
    "reservations": "organization_id",
    "outbox_events": "organization_id",
    "unposted_charges": "organization_id",
    "audit_events": "organization_id",
    "security_logs": "organization_id",
    "role_limits": "organization_id",
    "invitations": "organization_id",
    "platform_settings": "name",
}


def reads(table: str, caller: str) -> str:
    """Say what a caller sees of a table."""
    hidden = table in FOR_ADMINS and caller not in ADMINS and READS[caller] == OWN
    return NOTHING if hidden else READS[caller]


NO_ORGANIZATION = "ORGANIZATION_NOT_FOUND"
NO_WORKFLOW = "WORKFLOW_NOT_FOUND"
NO_EXECUTION = "EXECUTION_NOT_FOUND"
NO_INVITATION = "INVITATION_NOT_FOUND"
ROLE = "ROLE_INSUFFICIENT"
USER_REQUIRED = "USER_REQUIRED"


@dataclass(frozen=True)
class Call:
    """A call about organization A, and what becomes of it for whom; `key` and `other_key` where they differ.

    A key of A fares like a member of A, one of B like the owner of B.
    """

    sql: str
    owner: str = OK
    admin: str = OK
    member: str = OK
    viewer: str = OK
    other: str = NOTHING
    stranger: str = NOTHING
    service: str = DENIED
    key: str | None = None
    other_key: str | None = None
    arguments: list[str] = field(default_factory=list)

    def expected(self, caller: str) -> str:
        by_caller = dict(zip(MEMBERS_OF_A, (self.owner, self.admin, self.member, self.viewer), strict=True))
        by_caller |= {"owner of B": self.other, "stranger": self.stranger, "service": self.service}
        by_caller |= {"key of A": self.key or self.member, "key of B": self.other_key or self.other}
        return by_caller.get(caller, DENIED)


def for_admins(call: str, *arguments: str, service: str = DENIED) -> Call:
    """A call about an organization that its owners and admins may make."""
    return Call(
        f"select {call}",
        arguments=["organization", *arguments],
        member=ROLE,
        viewer=ROLE,
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
        service=service,
    )


def for_viewers(call: str) -> Call:
    """A call about an organization that all its members and the gateway itself may make."""
    return Call(
        f"select {call}",
        arguments=["organization"],
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
        service=OK,
    )


def for_service(call: str, *arguments: str) -> Call:
    """A call that only the gateway itself may make."""
    denied = dict.fromkeys(("owner", "admin", "member", "viewer", "other", "stranger"), DENIED)
    return Call(f"select {call}", arguments=[*arguments], service=OK, **denied)


def for_the_invited(call: str) -> Call:
    """A call of a user whom another organization, neither A nor B, has invited."""
    return Call(
        f"select {call}",
        arguments=["inviting"],
        other=OK,
        stranger=NO_INVITATION,
        key=USER_REQUIRED,
        other_key=USER_REQUIRED,
    )


FUNCTIONS = {
    "list_invitations": Call(
        "select list_invitations()", other=OK, stranger=OK, key=USER_REQUIRED, other_key=USER_REQUIRED
    ),
    "accept_invitation": for_the_invited("accept_invitation($1)"),
    "decline_invitation": for_the_invited("decline_invitation($1)"),
    "create_organization": Call(
        """select create_organization('{"name": "New"}')""",
        other=OK,
        stranger=OK,
        key=USER_REQUIRED,
        other_key=USER_REQUIRED,
    ),
    "list_organizations": Call("select list_organizations()", other=OK, stranger=OK, service=OK),
    "get_organization": Call(
        "select get_organization($1)",
        arguments=["organization"],
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
        service=OK,
    ),
    "update_organization": Call(
        """select update_organization($1, '{"name": "renamed"}')""",
        arguments=["organization"],
        member=ROLE,
        viewer=ROLE,
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
    ),
    "meet_caller": Call(
        "select meet_caller()", other=OK, stranger=OK, key=USER_REQUIRED, other_key=USER_REQUIRED
    ),
    "add_member": Call(
        "select add_member($1, 'user_new', 'MEMBER_ROLE_ADMIN')",
        arguments=["organization"],
        member=ROLE,
        viewer=ROLE,
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
    ),
    "list_members": Call(
        "select list_members($1)",
        arguments=["organization"],
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
    ),
    "get_member": Call(
        "select get_member($1, $2)",
        arguments=["organization", "member"],
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
    ),
    "update_member": Call(
        "select update_member($1, $2, 'MEMBER_ROLE_VIEWER')",
        arguments=["organization", "member"],
        member=ROLE,
        viewer=ROLE,
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
    ),
    "remove_member": Call(
        "select remove_member($1, $2)",
        arguments=["organization", "guest"],
        member=ROLE,
        viewer=ROLE,
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
    ),
    "list_audit_events": for_admins("list_audit_events($1)"),
    "export_audit_events": for_admins("export_audit_events($1)"),
    "list_security_events": for_admins("list_security_events($1)"),
    "list_error_logs": for_admins("list_error_logs($1)"),
    "note_security_events": for_service("note_security_events('[]')"),
    "find_baseline": for_service("find_baseline($1, 'user', '')", "organization"),
    "store_credentials": for_admins(
        'store_credentials($1, jsonb_build_object(\'B\', \'{"sealed": "AA==", "key_id": "1"}\'::jsonb))'
    ),
    "list_credentials": for_admins("list_credentials($1)"),
    "delete_credentials": for_admins("delete_credentials($1)"),
    "reveal_secrets": for_service("reveal_secrets($1, p_prefix => '')", "organization"),
    "sample_secrets": for_service("sample_secrets()"),
    "applied_migrations": for_service("applied_migrations()"),
    "create_api_key": for_admins(
        "create_api_key($1, '{\"name\": \"k\", \"scopes\": []}', 'gw_live_' || repeat('b', 16),"
        ' repeat(\'b\', 64), \'{"sealed": "AA==", "key_id": "1"}\')',
        service="UNAUTHENTICATED",  # who makes a key is named
    ),
    "list_api_keys": for_admins("list_api_keys($1)", service=OK),
    "get_api_key": for_admins("get_api_key($1, $2)", "key", service=OK),
    "rotate_api_key": for_admins(
        'rotate_api_key($1, $2, repeat(\'c\', 64), \'{"sealed": "AA==", "key_id": "1"}\', 60)',
        "key",
        service=OK,
    ),
    "revoke_api_key": for_admins("revoke_api_key($1, $2)", "key", service=OK),
    "create_credential_handle": for_service(
        "create_credential_handle($1, repeat('d', 64))", "other execution"
    ),
    "redeem_credential_handle": for_service("redeem_credential_handle($2, $1)", "execution", "handle"),
    "get_n8n_instance": for_admins("get_n8n_instance($1)"),
    "set_n8n_instance": for_admins("set_n8n_instance($1, 'https://n8n.example.com')"),
    "delete_n8n_instance": for_admins("delete_n8n_instance($1)"),
    "find_n8n_instance": for_service("find_n8n_instance($1)", "organization"),
    "find_n8n_organizations": for_service("find_n8n_organizations(repeat('e', 64))"),
    "create_webhook": for_admins(
        'create_webhook($1, \'{"url": "https://example.com"}\', gen_random_uuid(),'
        ' \'{"sealed": "AA==", "key_id": "1"}\')'
    ),
    "list_webhooks": for_admins("list_webhooks($1)"),
    "get_webhook": for_admins("get_webhook($1, $2)", "webhook"),
    "update_webhook": for_admins("update_webhook($1, $2, '{}')", "webhook"),
    "delete_webhook": for_admins("delete_webhook($1, $2)", "webhook"),
    "rotate_webhook_secret": for_admins(
        'rotate_webhook_secret($1, $2, gen_random_uuid(), \'{"sealed": "AA==", "key_id": "1"}\', 60)',
        "webhook",
    ),
    "list_webhook_deliveries": for_admins("list_webhook_deliveries($1, $2)", "webhook"),
    "redeliver_webhook": for_admins("redeliver_webhook($1, $2, $3)", "webhook", "delivery"),
    "take_webhook_deliveries": for_service("take_webhook_deliveries(0, 0, 0, 1)"),
    "finish_webhook_delivery": for_service("finish_webhook_delivery($1, 1)", "delivery"),
    "match_error": for_service("match_error($1, $2)", "execution", "organization"),
    "log_error": for_service("log_error('{}', $1, $2)", "organization", "execution"),
    "list_platform_settings": for_service("list_platform_settings()"),
    "set_platform_setting": for_service("set_platform_setting('workflow_management', 'organization')"),
    "create_organization_for": for_service("create_organization_for('{\"name\": \"New\"}', 'user_new')"),
    "find_api_key": for_service("find_api_key($1)", "public id"),
    "find_policy": for_service("find_policy('{}', $1)", "organization"),
    "set_limits": for_service("set_limits($1, '{\"max_open_streams\": 7}')", "organization"),
    "touch_api_key": for_service("touch_api_key($1)", "key"),
    "register_workflow": Call(
        "select register_workflow(jsonb_build_object("
        "'organization_id', $1::uuid, 'name', 'new', 'webhook_path', 'new'))",
        arguments=["organization"],
        member=ROLE,
        viewer=ROLE,
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
        service=OK,
    ),
    "list_workflows": Call(
        "select list_workflows($1)",
        arguments=["organization"],
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
    ),
    "get_workflow": Call(
        "select get_workflow($1)", arguments=["workflow"], other=NO_WORKFLOW, stranger=NO_WORKFLOW, service=OK
    ),
    "set_workflow_active": Call(
        "select set_workflow_active($1, false)",
        arguments=["workflow"],
        member=ROLE,
        viewer=ROLE,
        other=NO_WORKFLOW,
        stranger=NO_WORKFLOW,
        service=OK,
    ),
    "update_workflow": Call(
        """select update_workflow($1, '{"name": "renamed"}')""",
        arguments=["workflow"],
        member=ROLE,
        viewer=ROLE,
        other=NO_WORKFLOW,
        stranger=NO_WORKFLOW,
        service=OK,
    ),
    "delete_workflow": Call(
        "select delete_workflow($1)",
        arguments=["workflow"],
        member=ROLE,
        viewer=ROLE,
        other=NO_WORKFLOW,
        stranger=NO_WORKFLOW,
        service=OK,
    ),
    "begin_execution": Call(
        "select begin_execution(gen_random_uuid(), $1, $2)",
        arguments=["organization", "workflow"],
        viewer=ROLE,
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
    ),
    "settle_execution": for_service("settle_execution($1, 'EXECUTION_STATE_FAILED')", "execution"),
    "start_execution": for_service("start_execution($1, 'runner')", "execution"),
    "renew_leases": for_service("renew_leases('runner', jsonb_build_array($1::uuid))", "execution"),
    "find_runner": for_service("find_runner($1)", "execution"),
    "number_end": for_service("number_end($1, 1)", "execution"),
    "release_idempotency_key": for_service("release_idempotency_key($1)", "execution"),
    "sweep_executions": for_service("sweep_executions()"),
    "cancel_execution": Call(
        "select cancel_execution($1)",
        arguments=["execution"],
        viewer=ROLE,
        other=NO_EXECUTION,
        stranger=NO_EXECUTION,
    ),
    "list_executions": Call(
        "select list_executions($1)",
        arguments=["organization"],
        other=NO_ORGANIZATION,
        stranger=NO_ORGANIZATION,
    ),
    "get_execution": Call(
        "select get_execution($1)",
        arguments=["execution"],
        other=NO_EXECUTION,
        stranger=NO_EXECUTION,
        service=OK,
    ),
    "add_credits": Call(
        "select add_credits($1, 5, 'isolation')",
        arguments=["organization"],
        owner=DENIED,
        admin=DENIED,
        member=DENIED,
        viewer=DENIED,
        other=DENIED,
        stranger=DENIED,
        service=OK,
    ),
    "refund_execution": for_service("refund_execution($1, $2)", "organization", "charged execution"),
    "get_credit_balance": for_viewers("get_credit_balance($1)"),
    "list_credit_entries": for_viewers("list_credit_entries($1)"),
    "export_credit_entries": for_viewers("export_credit_entries($1)"),
    "get_usage": for_viewers("get_usage($1)"),
    "export_usage": for_viewers("export_usage($1)"),
    "check_credits": for_service("check_credits()"),
    "describe_functions": Call(
        "select describe_functions()",
        owner=DENIED,
        admin=DENIED,
        member=DENIED,
        viewer=DENIED,
        other=DENIED,
        stranger=DENIED,
        service=OK,
    ),
}


@dataclass(frozen=True)
class World:
    """Two tenants with a row in every table, and who there is."""

    url: URL
    superuser: asyncpg.Connection
    callers: dict[str, Principal]
    a: dict[str, Any]
    b: dict[str, Any]


async def furnished(database: PostgresDatabase, owner: Principal) -> tuple[Tenant, dict[str, Any]]:
    tenant = await new_tenant(database, owner, balance=100)
    begun = await tenant.begin()
    ids = {
        "organization": tenant.organization_id,
        "workflow": tenant.workflow_id,
        "execution": begun["execution_id"],
    }
    found: dict[str, Any] = {name: uuid.UUID(value) for name, value in ids.items()}
    made = new_key()
    sealed = {"sealed": "AA==", "key_id": "1"}
    key = await tenant.call(
        "create_api_key",
        p_organization_id=tenant.organization_id,
        p_api_key={"name": "key", "scopes": []},
        p_public_id=made.public_id,
        p_secret_hash=made.secret_hash,
        p_client_secret=sealed,
    )
    await tenant.call(
        "store_credentials", p_organization_id=tenant.organization_id, p_credentials={"A": sealed}
    )
    handle = hashlib.sha256(uuid.uuid4().bytes).hexdigest()
    await database.call(
        "create_credential_handle", None, p_execution_id=begun["execution_id"], p_handle_hash=handle
    )
    await tenant.call(
        "set_n8n_instance",
        p_organization_id=tenant.organization_id,
        p_base_url="https://n8n.example.com",
    )
    await database.call(
        "log_error",
        None,
        p_error={},
        p_organization_id=tenant.organization_id,
        p_execution_id=begun["execution_id"],
    )
    found["other execution"] = uuid.UUID((await tenant.begin())["execution_id"])
    found["handle"] = handle
    webhook = await tenant.call(
        "create_webhook",
        p_organization_id=tenant.organization_id,
        p_webhook={"url": "https://example.com"},
        p_secret_id=str(uuid.uuid4()),
        p_secret=sealed,
    )
    charged = (await tenant.begin())["execution_id"]
    await tenant.settle(charged)
    found["charged execution"] = uuid.UUID(charged)
    await database.call(
        "take_webhook_deliveries", None, p_limit=0, p_failing_limit=0, p_each=0, p_lease_seconds=1
    )
    page = await tenant.call(
        "list_webhook_deliveries", p_organization_id=tenant.organization_id, p_webhook_id=webhook["id"]
    )
    found |= {
        "webhook": uuid.UUID(webhook["id"]),
        "delivery": uuid.UUID(page["deliveries"][0]["id"]),
    }
    return tenant, found | {"key": uuid.UUID(key["id"]), "public id": made.public_id}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(superuser_url: URL) -> AsyncIterator[World]:
    callers = {name: user() for name in CALLERS if name not in {"anonymous", "service", *KEYS}}
    database = PostgresDatabase(login(superuser_url))
    connection = await asyncpg.connect(str(superuser_url))
    try:
        tenant, a = await furnished(database, callers["owner of A"])
        _, b = await furnished(database, callers["owner of B"])
        for role in ("ADMIN", "MEMBER", "VIEWER"):
            await add_member(connection, tenant.organization_id, callers[f"{role.lower()} of A"], role)
        inviting = await new_tenant(database)
        for name in {*callers} - WITHOUT_PROFILE:
            await connection.execute(
                "insert into public.invitations (organization_id, profile_id, role, invited_by)"
                " values ($1, $2, 'MEMBER_ROLE_VIEWER', 'test')",
                inviting.organization_id,
                callers[name].subject,
            )
        a["inviting"] = uuid.UUID(inviting.organization_id)
        guest = user()
        await add_member(connection, tenant.organization_id, guest, "VIEWER")
        a |= {"member": callers["member of A"].subject, "guest": guest.subject}
        for name, of in (("key of A", a), ("key of B", b)):
            callers[name] = await add_api_key(connection, str(of["organization"]))
        yield World(superuser_url, connection, callers, a, b)
    finally:
        await connection.close()
        await database.close()


async def attempt(world: World, caller: str, sql: str, *arguments: Any) -> list[Any] | str:
    """Return the rows, or DENIED, or the reason; whatever it did is rolled back."""
    principal = world.callers.get(caller)
    role = {"anonymous": "anon", "service": "service_role"}.get(caller, "authenticated")
    transaction = world.superuser.transaction()
    await transaction.start()
    try:
        await world.superuser.execute(
            "select set_config('request.jwt.claims', $1, true)", principal.claims if principal else "{}"
        )
        await world.superuser.execute(f"set local role {role}")
        return await world.superuser.fetch(sql, *arguments)
    except asyncpg.InsufficientPrivilegeError:
        return DENIED
    except asyncpg.PostgresError as error:
        if not (error.sqlstate or "").startswith("GW"):
            raise
        return error.detail or ""
    finally:
        await transaction.rollback()


async def test_no_table_is_missing_here(world: World) -> None:
    found = await world.superuser.fetch("select tablename from pg_tables where schemaname = 'public'")
    assert {row["tablename"] for row in found} == TABLES.keys() | CLOSED.keys()


async def test_no_function_is_missing_here(world: World) -> None:
    found = await world.superuser.fetch(
        "select proname from pg_proc where pronamespace = 'public'::regnamespace"
    )
    assert sorted(row["proname"] for row in found) == sorted(FUNCTIONS)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("table", TABLES)
async def test_rows_are_seen_by_their_own(world: World, table: str, caller: str) -> None:
    rows = await attempt(world, caller, f"select {TABLES[table]} as owner from {table}")
    expected = reads(table, caller)
    if expected == DENIED:
        assert rows == DENIED
        return
    assert isinstance(rows, list)
    seen = {row["owner"] for row in rows}
    if table == "profiles" and caller != "service":
        own: set[Any] = {world.callers[caller].subject}
        # A profile is its user's own, whatever organization it is in; strangers have none yet, and keys none.
        assert seen == (own if caller not in WITHOUT_PROFILE else set())
    elif expected == ALL and table == "profiles":
        assert seen >= {
            caller.subject for name, caller in world.callers.items() if name not in WITHOUT_PROFILE
        }
    elif expected == ALL:
        assert seen >= {world.a["organization"], world.b["organization"]}
    elif expected == NOTHING:
        assert seen == set()
    else:
        assert seen == {(world.b if caller in OF_B else world.a)["organization"]}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("table", CLOSED)
async def test_secrets_are_read_by_nobody(world: World, table: str, caller: str) -> None:
    assert await attempt(world, caller, f"select from {table}") == DENIED


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("table", TABLES | CLOSED)
@pytest.mark.parametrize(
    "statement",
    [
        "insert into {table} select * from {table} limit 0",
        "update {table} set {column} = {column}",
        "delete from {table}",
        "truncate {table}",
    ],
)
async def test_nobody_writes_a_table(world: World, table: str, caller: str, statement: str) -> None:
    assert (
        await attempt(world, caller, statement.format(table=table, column=(TABLES | CLOSED)[table])) == DENIED
    )


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("function", FUNCTIONS)
async def test_functions_are_called_by_who_may(world: World, function: str, caller: str) -> None:
    call = FUNCTIONS[function]
    result = await attempt(world, caller, call.sql, *(world.a[name] for name in call.arguments))
    if call.expected(caller) == OK:
        assert isinstance(result, list)
        assert str(world.b["organization"]) not in str(result) or caller in OF_B | {"service"}
    else:
        assert result == call.expected(caller)


@pytest.mark.parametrize("caller", CALLERS)
async def test_a_list_holds_only_the_callers_own(world: World, caller: str) -> None:
    result = await attempt(world, caller, "select list_organizations(p_limit => 200)")
    if caller == "anonymous":
        assert result == DENIED
        return
    text = str(result)
    assert (str(world.a["organization"]) in text) == (caller in {*MEMBERS_OF_A, "key of A", "service"})
    assert (str(world.b["organization"]) in text) == (caller in OF_B | {"service"})


async def test_a_caller_cannot_make_itself_another(world: World) -> None:
    """A claim of the token is what counts; a tenant cannot be reached by adding claims of its own."""
    async with world.superuser.transaction():
        await world.superuser.execute("set local role authenticated")
        for claims in (
            "{}",
            '{"sub": ""}',
            '{"o": {"id": null}}',
            '{"org_id": ""}',
            '{"o": []}',
            "[]",
            '"x"',
            "7",
        ):
            await world.superuser.execute("select set_config('request.jwt.claims', $1, true)", claims)
            for table in TABLES:
                assert await world.superuser.fetch(f"select * from {table}") == []
