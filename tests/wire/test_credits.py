"""Credits and usage, through every door."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from protobuf import DescMethod

from gateway.rpc.errors import Code
from tests.wire.clients import Client, GrpcClient, RestClient
from tests.wire.conftest import World, call
from tests.wire.signing import SigningKey

READS = ["GetCreditBalance", "ListCreditEntries", "ExportCreditEntries", "GetUsage", "ExportUsage"]


def of(world: World, **fields: Any) -> dict[str, Any]:
    return {"organization_id": world.dev.ready["organization_id"], **fields}


def platform(world: World) -> dict[str, str]:
    return {"x-platform-token": world.dev.ready["platform_token"]}


def key_of(world: World) -> Callable[[Client, DescMethod, bytes], dict[str, str]]:
    """What signs as the seeded key."""
    return SigningKey(world.dev.ready["api_key"], world.dev.ready["client_secret"]).headers


def grant(client: Client, world: World, amount: int = 5, **fields: Any) -> dict[str, Any]:
    asked = of(world, amount=amount, idempotency_key=uuid.uuid4().hex) | fields
    outcome = call(client, world, "AddCredits", asked, headers=platform(world))
    assert outcome.code is Code.OK, outcome
    return outcome.messages[0]


def run(client: Client, world: World, webhook: str = "echo", **fields: Any) -> str:
    """Run a workflow to its end; its execution."""
    outcome = call(client, world, "Execute", world.request(webhook, **fields))
    assert outcome.code is Code.OK, outcome
    execution_id: str = outcome.messages[0]["execution_id"]
    return execution_id


def test_the_platform_adds_credits_once_for_a_key(client: Client, world: World) -> None:
    added = grant(client, world, 7, idempotency_key=(key := uuid.uuid4().hex), description="November")
    entry = added["entry"]
    assert (entry["kind"], entry["amount"]) == ("CREDIT_ENTRY_KIND_GRANT", 7)
    assert (entry["description"], entry["created_by"]) == ("November", "platform")
    assert added["balance"]["balance"] >= 7
    assert not added.get("added_before")
    again = grant(client, world, 7, idempotency_key=key)
    assert (again["entry"], again["added_before"]) == (entry, True)
    reused = of(world, amount=8, idempotency_key=key)
    outcome = call(client, world, "AddCredits", reused, headers=platform(world))
    assert (outcome.code, outcome.reason) == (Code.ABORTED, "IDEMPOTENCY_KEY_REUSED")


def test_nobody_else_does(client: Client, world: World) -> None:
    asked = of(world, amount=1, idempotency_key="mine")
    outcome = call(client, world, "AddCredits", asked)
    assert (outcome.code, outcome.reason) == (Code.PERMISSION_DENIED, "PLATFORM_ONLY")
    outcome = call(client, world, "AddCredits", asked, headers={}, signed=key_of(world))
    assert (outcome.code, outcome.reason) == (Code.PERMISSION_DENIED, "SCOPE_MISSING")
    for wrong in ("", "wrong", world.dev.ready["platform_token"][:-1]):
        headers = {"x-platform-token": wrong} | world.dev.bearer
        outcome = call(client, world, "AddCredits", asked, headers=headers)
        assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, "PLATFORM_TOKEN")


def test_the_platform_gives_a_charge_back_once(client: Client, world: World) -> None:
    grant(client, world)
    execution_id = run(client, world)
    before = call(client, world, "ListCreditEntries", of(world, page_size=1)).messages[0]["entries"][0]
    asked = of(world, execution_id=execution_id, description="It was of no use")
    outcome = call(client, world, "RefundExecution", asked, headers=platform(world))
    assert outcome.code is Code.OK, outcome
    entry = outcome.messages[0]["entry"]
    assert (entry["kind"], entry["amount"]) == ("CREDIT_ENTRY_KIND_REFUND", 1)
    assert (entry["execution_id"], entry["description"]) == (execution_id, "It was of no use")
    assert entry["balance_after"] == before["balance_after"] + 1
    again = call(client, world, "RefundExecution", asked, headers=platform(world))
    assert again.messages[0]["entry"] == entry
    only = call(client, world, "ListCreditEntries", of(world, execution_id=execution_id)).messages[0]
    assert [line["amount"] for line in only["entries"]] == [1, -1]
    more = call(client, world, "RefundExecution", asked | {"amount": 2}, headers=platform(world))
    assert (more.code, more.reason) == (Code.ABORTED, "ALREADY_REFUNDED")
    none = call(client, world, "RefundExecution", asked | {"amount": 0}, headers=platform(world))
    assert (none.code, none.fields) == (Code.INVALID_ARGUMENT, ["amount"])
    unknown = of(world, execution_id=str(uuid.uuid4()))
    outcome = call(client, world, "RefundExecution", unknown, headers=platform(world))
    assert (outcome.code, outcome.reason) == (Code.NOT_FOUND, "EXECUTION_NOT_FOUND")


def test_nobody_else_gives_charges_back(client: Client, world: World) -> None:
    asked = of(world, execution_id=str(uuid.uuid4()))
    outcome = call(client, world, "RefundExecution", asked)
    assert (outcome.code, outcome.reason) == (Code.PERMISSION_DENIED, "PLATFORM_ONLY")
    outcome = call(client, world, "RefundExecution", asked, headers={}, signed=key_of(world))
    assert (outcome.code, outcome.reason) == (Code.PERMISSION_DENIED, "SCOPE_MISSING")


def test_the_balance_is_that_of_the_ledger(client: Client, world: World) -> None:
    grant(client, world)
    execution_id = run(client, world)
    balance = call(client, world, "GetCreditBalance", of(world)).messages[0]
    balance = balance.get("balance", balance) if isinstance(balance.get("balance"), dict) else balance
    assert balance["available"] == balance["balance"] - balance.get("reserved", 0)
    page = call(client, world, "ListCreditEntries", of(world, page_size=1)).messages[0]
    assert page["entries"][0]["balance_after"] == balance["balance"]
    only = call(client, world, "ListCreditEntries", of(world, execution_id=execution_id)).messages[0]
    [charge] = only["entries"]
    assert (charge["kind"], charge["amount"]) == ("CREDIT_ENTRY_KIND_CHARGE", -1)
    assert charge["execution_id"] == execution_id


def test_entries_are_listed_page_by_page_and_narrowed(client: Client, world: World) -> None:
    first, second = (grant(client, world, amount)["entry"] for amount in (3, 4))
    asked = of(world, kind="CREDIT_ENTRY_KIND_GRANT", page_size=1)
    page = call(client, world, "ListCreditEntries", asked).messages[0]
    assert page["entries"] == [second]
    page = call(client, world, "ListCreditEntries", asked | {"page_token": page["next_page_token"]}).messages[
        0
    ]
    assert page["entries"] == [first]
    other = of(world, page_size=1, page_token=page["next_page_token"])
    outcome = call(client, world, "ListCreditEntries", other)
    assert (outcome.code, outcome.fields) == (Code.INVALID_ARGUMENT, ["page_token"])
    span = of(world, start_time=second["created_at"], kind="CREDIT_ENTRY_KIND_GRANT")
    assert call(client, world, "ListCreditEntries", span).messages[0]["entries"] == [second]
    span = of(world, end_time="2001-01-01T00:00:00Z")
    assert not call(client, world, "ListCreditEntries", span).messages[0].get("entries")


def test_usage_is_summed_up_by_what_is_asked_for(client: Client, world: World) -> None:
    run(client, world)
    whole = call(client, world, "GetUsage", of(world)).messages[0]
    [total] = whole["rows"]
    by_workflow = of(world, group_by=["USAGE_DIMENSION_STATE", "USAGE_DIMENSION_WORKFLOW"])
    rows: list[dict[str, Any]] = []
    token = ""
    while True:
        page = call(client, world, "GetUsage", by_workflow | {"page_size": 2, "page_token": token}).messages[
            0
        ]
        rows += page["rows"]
        token = page.get("next_page_token", "")
        if not token:
            break
    assert sum(row["executions"] for row in rows) == total["executions"]
    assert sum(row.get("credits_used", 0) for row in rows) == total["credits_used"]
    keys = [(row["state"], row["workflow_id"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert [state for state, _ in keys] == sorted(state for state, _ in keys)
    day = call(client, world, "GetUsage", of(world, group_by=["USAGE_DIMENSION_DAY"])).messages[0]["rows"]
    assert all(len(row["day"]) == len("2026-11-23") for row in day)


def test_usage_by_key_tells_users_from_keys(client: Client, world: World) -> None:
    asked = {"workflow_id": world.workflows["echo"]}
    assert call(client, world, "Execute", asked, headers={}, signed=key_of(world)).code is Code.OK
    run(client, world)
    asked = of(world, group_by=["USAGE_DIMENSION_API_KEY"], page_size=1)
    page = call(client, world, "GetUsage", asked).messages[0]
    assert not page["rows"][0].get("api_key_id")
    page = call(client, world, "GetUsage", asked | {"page_token": page["next_page_token"]}).messages[0]
    [row] = page["rows"]
    only = of(world, api_key_id=row["api_key_id"])
    [total] = call(client, world, "GetUsage", only).messages[0]["rows"]
    assert total["executions"] == row["executions"]


def test_a_run_costs_what_its_workflow_says(client: Client, world: World) -> None:
    workflow = {
        "name": uuid.uuid4().hex,
        "webhook_path": "echo",
        "credits_per_execution": 100,
        "pricing_mode": "PRICING_MODE_PER_SECOND",
        "credits_per_unit": 3,
    }
    made = call(client, world, "RegisterWorkflow", {"workflow": workflow}).messages[0]
    made = made.get("workflow", made)
    assert made["pricing_mode"] == "PRICING_MODE_PER_SECOND"
    grant(client, world, 100)
    ran = call(client, world, "Execute", {"workflow_id": made["id"]}).messages[0]
    assert ran["credits_used"] % 3 == 0
    assert 3 <= ran["credits_used"] <= 3 * (1 + ran["execution_time_ms"] // 1000)
    asked = {"workflow_id": made["id"], "credits": 99}
    outcome = call(client, world, "Execute", asked)
    assert (outcome.code, outcome.reason) == (Code.FAILED_PRECONDITION, "PRICE_ABOVE_LIMIT")
    call(client, world, "DeleteWorkflow", {"id": made["id"]})


def test_a_metered_price_is_never_nothing(client: Client, world: World) -> None:
    priced = {"pricing_mode": "PRICING_MODE_PER_SECOND", "credits_per_unit": 3}
    workflow = {"name": uuid.uuid4().hex, "webhook_path": "echo"}
    refused = call(client, world, "RegisterWorkflow", {"workflow": workflow | priced})
    assert (refused.code, list(refused.fields)) == (Code.INVALID_ARGUMENT, ["credits_per_execution"])
    made = call(client, world, "RegisterWorkflow", {"workflow": workflow}).messages[0]
    made = made.get("workflow", made)
    change = {"workflow": {"id": made["id"]} | priced, "update_mask": "pricingMode,creditsPerUnit"}
    refused = call(client, world, "UpdateWorkflow", change)
    assert (refused.code, list(refused.fields)) == (Code.INVALID_ARGUMENT, ["credits_per_execution"])
    call(client, world, "DeleteWorkflow", {"id": made["id"]})


@pytest.mark.parametrize("method", READS)
def test_they_are_for_the_organizations_own_and_the_platform(
    client: Client, world: World, other_tenant: World, method: str
) -> None:
    outcome = call(client, world, method, of(world), headers=other_tenant.dev.bearer)
    assert (outcome.code, outcome.reason) == (Code.NOT_FOUND, "ORGANIZATION_NOT_FOUND")
    if not (method.startswith("Export") and isinstance(client, RestClient)):
        assert call(client, world, method, of(world), headers=platform(world)).code is Code.OK


def file(world: World, path: str, **query: Any) -> httpx.Response:
    organization_id = world.dev.ready["organization_id"]
    url = f"{world.dev.ready['http_url']}/api/v1/organizations/{organization_id}/{path}/export"
    return httpx.get(url, params=query, headers=world.dev.bearer)


def test_usage_is_one_file_that_no_spreadsheet_computes(world: World) -> None:
    client = GrpcClient(world.dev.ready["grpc_url"])
    workflow = {"name": "=2+5", "webhook_path": "echo", "credits_per_execution": 1}
    made = call(client, world, "RegisterWorkflow", {"workflow": workflow}).messages[0]["workflow"]
    asked = {"workflow_id": made["id"], "metadata": {"order": "=1"}}
    execution_id = call(client, world, "Execute", asked).messages[0]["execution_id"]
    call(client, world, "DeleteWorkflow", {"id": made["id"]})
    table = file(world, "usage", workflow_id=made["id"])
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    [row] = csv.DictReader(io.StringIO(table.text, newline=""))
    assert (row["id"], row["workflow"], row["state"]) == (execution_id, "'=2+5", "EXECUTION_STATE_COMPLETED")
    assert (row["credits_used"], json.loads(row["metadata"])) == ("1", {"order": "=1"})
    assert row["credits_refunded"] == "0"
    lines = file(world, "usage", workflow_id=made["id"], format="EXPORT_FORMAT_NDJSON")
    assert lines.headers["content-type"] == "application/x-ndjson"
    [line] = [json.loads(line) for line in lines.text.splitlines()]
    assert (line.pop("workflow"), line.pop("credits_refunded")) == ("=2+5", 0)
    shown = call(RestClient(world.dev.ready["http_url"]), world, "GetExecution", {"id": execution_id})
    assert line == {name: shown.messages[0][name] for name in line}
    assert {name: row[name] for name in ("created_at", "finished_at")} == {
        name: line[name] for name in ("created_at", "finished_at")
    }


def test_a_statement_leads_from_one_balance_to_the_other(world: World) -> None:
    client = GrpcClient(world.dev.ready["grpc_url"])
    grant(client, world, description="+49")
    run(client, world)
    grant(client, world, -1)
    rows = list(csv.DictReader(io.StringIO(file(world, "credits/entries").text, newline="")))
    balance = 0
    for row in rows:
        balance += int(row["amount"])
        assert int(row["balance_after"]) == balance
    assert "'+49" in {row["description"] for row in rows}
    lines = file(world, "credits/entries", format="EXPORT_FORMAT_NDJSON").text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [row["id"] for row in rows]
    listed = call(RestClient(world.dev.ready["http_url"]), world, "ListCreditEntries", of(world)).messages[0]
    newest = listed["entries"][0]
    assert newest in [json.loads(line) for line in lines]
    assert (rows[-1]["kind"], rows[-1]["created_at"]) == (newest["kind"], newest["created_at"])
