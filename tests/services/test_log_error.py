"""Errors that n8n reports: whose they are, and what is written down of them."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from dataclasses import replace
from typing import Any

import pytest

from gateway.adapters.n8n import API_KEY
from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.vault import SealedVault
from gateway.chain.authenticate import _N8N
from gateway.executions.token import ExecutionTokens
from gateway.gen.n8ngateway.v1.internal_service_pb import LogErrorRequest
from gateway.rpc.errors import NotFound, PermissionDenied
from gateway.services import internal
from gateway.services.internal import InternalService
from tests.adapters.databases import Tenant, cluster, database, new_tenant, superuser, superuser_url, user
from tests.calls import call_of

__all__ = ["cluster", "database", "superuser", "superuser_url"]

GATEWAYS_SECRET = "the-gateways-own-secret-0123456789"
CREDENTIAL = 'a "quoted" credential of the tenant'
tokens = ExecutionTokens(GATEWAYS_SECRET)

ERROR_TRIGGER = {
    "execution": {
        "id": "231",
        "url": "https://n8n.example.com/execution/workflow/1/231",
        "error": {"message": "connect ECONNREFUSED", "stack": "Error: …", "node": {"name": "HTTP Request"}},
        "lastNodeExecuted": "HTTP Request",
        "mode": "webhook",
    },
    "workflow": {"id": "9wFIMnCQ4Xk", "name": "Summarise"},
}


class World:
    def __init__(self, database: PostgresDatabase, superuser: Any, tenant: Tenant, other: Tenant) -> None:
        self.vault = SealedVault(database, [("1", os.urandom(32))])
        reports: Any = None  # progress is nobody's business here
        self.service = InternalService(database, self.vault, tokens, reports, [GATEWAYS_SECRET])
        self.superuser = superuser
        self.tenant = tenant
        self.other = other

    async def report(
        self, body: dict[str, Any], token: str = "", organizations: frozenset[str] | None = None
    ) -> Any:
        """Report, and give what was written down."""
        metadata = {"x-gateway-execution-token": token} if token else {}
        call = call_of(metadata=metadata)
        call.principal = replace(_N8N, organizations=organizations)
        request = LogErrorRequest.from_json(json.dumps(body), ignore_unknown_fields=True)
        response = await self.service.log_error(request, call)
        row = await self.superuser.fetchrow(
            "select * from error_logs where id = $1::uuid", uuid.UUID(response.id)
        )
        assert response.execution_id == str(row["execution_id"] or "")
        return dict(row) | {"metadata": json.loads(row["metadata"])}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internal, "_SETTLING_PAUSES", (0.3, 0.3))


@pytest.fixture
async def world(database: PostgresDatabase, superuser: Any) -> World:
    made = World(
        database, superuser, await new_tenant(database, balance=9), await new_tenant(database, balance=9)
    )
    organization_id = made.tenant.organization_id
    await made.tenant.call(
        "store_credentials",
        p_organization_id=organization_id,
        p_credentials={"A": made.vault.seal(organization_id, "credential/A", CREDENTIAL)},
    )
    return made


async def begun(tenant: Tenant) -> tuple[str, str]:
    execution_id = str((await tenant.begin())["execution_id"])
    return execution_id, tokens.of(execution_id, tenant.organization_id)


async def told_n8n_id(world: World, tenant: Tenant, n8n_execution_id: str) -> str:
    execution_id, _ = await begun(tenant)
    await world.superuser.execute(
        "update executions set n8n_execution_id = $2 where id = $1::uuid", execution_id, n8n_execution_id
    )
    return execution_id


async def test_a_token_makes_it_that_runs(world: World) -> None:
    execution_id, token = await begun(world.tenant)
    body = {"error_message": "it broke", "workflow_id": "w", "execution_id": execution_id}
    row = await world.report({**body, "org_id": world.tenant.organization_id}, token)
    assert str(row["execution_id"]) == execution_id
    assert str(row["organization_id"]) == world.tenant.organization_id
    assert (row["error_message"], row["workflow_id"]) == ("it broke", "w")


async def test_n8ns_own_form_is_understood(world: World) -> None:
    _, token = await begun(world.tenant)
    row = await world.report(ERROR_TRIGGER, token)
    assert row["n8n_execution_id"] == "231"
    assert (row["workflow_id"], row["workflow_name"]) == ("9wFIMnCQ4Xk", "Summarise")
    assert (row["node_name"], row["error_message"]) == ("HTTP Request", "connect ECONNREFUSED")
    assert row["metadata"]["execution"]["mode"] == "webhook"
    failed_early = {"trigger": {"error": {"message": "no trigger"}, "mode": "trigger"}}
    assert (await world.report(failed_early, token))["error_message"] == "no trigger"


async def test_the_body_is_not_believed(world: World) -> None:
    execution_id, token = await begun(world.tenant)
    other_run, other_token = await begun(world.other)
    for body, shown in (
        ({"org_id": world.other.organization_id}, token),
        ({"execution_id": other_run}, token),
        ({"execution_id": execution_id}, ""),
        ({}, token[:-1]),
        ({"org_id": world.tenant.organization_id}, other_token),
    ):
        with pytest.raises(PermissionDenied):
            await world.report(body, shown)


async def test_ids_from_an_n8n_that_was_the_organizations_own_are_not_the_default_ones(world: World) -> None:
    named = {"p_organization_id": world.tenant.organization_id}
    await world.tenant.call("set_n8n_instance", p_base_url="https://n8n.example.com", **named)
    await told_n8n_id(world, world.tenant, "231")
    await world.tenant.call("delete_n8n_instance", **named)
    row = await world.report(ERROR_TRIGGER)
    assert (row["organization_id"], row["execution_id"]) == (None, None)


async def test_a_token_of_a_run_that_is_not_there_is_refused(world: World) -> None:
    with pytest.raises(NotFound):
        await world.report({}, tokens.of(str(uuid.uuid4()), world.tenant.organization_id))


async def test_who_cannot_prove_an_organization_reports_to_the_platform(world: World) -> None:
    row = await world.report({"org_id": world.tenant.organization_id, "error_message": "x"})
    assert row["organization_id"] is None


async def test_n8ns_id_finds_the_run_of_its_own_instance(world: World) -> None:
    number = str(uuid.uuid4().int)
    report = {"execution": {"id": number}}
    execution_id = await told_n8n_id(world, world.tenant, number)
    assert str((await world.report(report))["execution_id"]) == execution_id
    # The same number on an n8n of somebody's own is another execution.
    await world.other.call(
        "set_n8n_instance",
        p_organization_id=world.other.organization_id,
        p_base_url="https://n8n.example.com",
    )
    others = await told_n8n_id(world, world.other, number)
    assert str((await world.report(report))["execution_id"]) == execution_id
    own = frozenset({world.other.organization_id})
    assert str((await world.report(report, organizations=own))["execution_id"]) == others
    # Of two that it could be it is neither.
    await told_n8n_id(world, world.tenant, number)
    assert (await world.report(report))["execution_id"] is None


async def test_a_run_that_is_settled_a_moment_later_is_found(world: World) -> None:
    number = str(uuid.uuid4().int)
    reporting = asyncio.create_task(world.report({"execution": {"id": number}}))
    execution_id = await told_n8n_id(world, world.tenant, number)
    assert str((await reporting)["execution_id"]) == execution_id


async def test_an_own_n8n_speaks_for_its_organization_alone(world: World) -> None:
    own = frozenset({world.other.organization_id})
    row = await world.report({"error_message": "x"}, organizations=own)
    assert str(row["organization_id"]) == world.other.organization_id
    _, token = await begun(world.tenant)
    with pytest.raises(PermissionDenied):
        await world.report({}, token, organizations=own)
    with pytest.raises(PermissionDenied):
        await world.report({"org_id": world.tenant.organization_id}, organizations=own)


async def test_no_secret_is_written_down(world: World) -> None:
    _, token = await begun(world.tenant)
    key = "gw_live_abcdefghijklmnop_" + "x" * 43
    said = f"{CREDENTIAL} {GATEWAYS_SECRET} {token} {key} whsec_{'A' * 32}"
    body = {
        "error_message": said,
        "workflow_id": GATEWAYS_SECRET,
        "metadata": {"headers": {"x": said, CREDENTIAL: json.dumps(said)}},
        **ERROR_TRIGGER,
        "workflow": {"name": said},
    }
    written = str(await world.report(body, token))
    assert written.count("[redacted]") >= 12
    for secret in (CREDENTIAL, json.dumps(CREDENTIAL)[1:-1], GATEWAYS_SECRET, token, key, "whsec_A"):
        assert secret not in written
        assert json.dumps(secret)[1:-1] not in written


async def test_an_error_is_written_down_whatever_the_secrets_in_it_are(world: World) -> None:
    number, structure = "-1001234567890", 'able":"to be cut'
    await world.tenant.call(
        "store_credentials",
        p_organization_id=world.tenant.organization_id,
        p_credentials={
            name: world.vault.seal(world.tenant.organization_id, f"credential/{name}", value)
            for name, value in (("NUMBER", number), ("STRUCTURE", structure))
        },
    )
    _, token = await begun(world.tenant)
    written = await world.report({"metadata": {"chat": {"id": int(number)}}}, token)
    assert written["metadata"] == {"metadata": {"chat": {"id": -9999999999999}}}
    written = await world.report({"metadata": {"able": "to be cut here"}}, token)
    assert written["metadata"] == {"metadata": '{"[redacted] here"}'}


async def test_the_secrets_of_its_own_n8n_are_not_either(world: World) -> None:
    organization_id = world.tenant.organization_id
    await world.tenant.call(
        "set_n8n_instance",
        p_organization_id=organization_id,
        p_base_url="https://n8n.example.com",
        p_secrets={API_KEY: world.vault.seal(organization_id, API_KEY, "key-of-its-own-n8n")},
    )
    _, token = await begun(world.tenant)
    assert (await world.report({"error_message": "key-of-its-own-n8n!"}, token))[
        "error_message"
    ] == "[redacted]!"


async def test_it_is_bounded_and_takes_any_text(world: World) -> None:
    _, token = await begun(world.tenant)
    body = {
        "error_message": "é\0" * 30_000,
        "metadata": {"long": "x" * 100_000, "nul": "\0", "half": "\\ud83d"},
        "execution": {"id": 7.0, "error": "not an object"},
        "workflow": {"id": ["odd"], "name": "n" * 1000},
    }
    row = await world.report(body, token)
    assert len(row["error_message"]) == 4096
    assert len(row["metadata"]["metadata"]) == 64 << 10
    assert (row["n8n_execution_id"], row["workflow_id"]) == ("7", "")
    assert len(row["workflow_name"]) == 255


async def test_admins_read_their_own(world: World, superuser: Any) -> None:
    _, token = await begun(world.tenant)
    row = await world.report({"error_message": "mine"}, token)

    async def read(claims: str) -> list[Any]:
        async with superuser.transaction():
            await superuser.execute("select set_config('request.jwt.claims', $1, true)", claims)
            await superuser.execute("set local role authenticated")
            found: list[Any] = await superuser.fetch("select id from error_logs where id = $1", row["id"])
            await superuser.execute("reset role")
            return found

    assert await read(world.tenant.owner.claims)
    assert not await read(world.other.owner.claims)
    assert not await read(user().claims)


async def test_after_30_days_they_are_forgotten(world: World) -> None:
    _, token = await begun(world.tenant)
    old = await world.report({"error_message": "old"}, token)
    await world.superuser.execute(
        "update error_logs set id = gateway.uuid_floor(now() - interval '31 days') where id = $1", old["id"]
    )
    await world.report({"error_message": "new"}, token)
    kept = await world.superuser.fetch(
        "select error_message from error_logs where organization_id = $1::uuid", world.tenant.organization_id
    )
    assert [row["error_message"] for row in kept] == ["new"]
