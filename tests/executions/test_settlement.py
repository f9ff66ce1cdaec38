from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from protobuf.wkt import Value
from yarl import URL

from gateway.adapters.n8n.pieces import Document, DocumentKind
from gateway.adapters.postgres import PostgresDatabase, migrations
from gateway.executions import settlement
from gateway.executions.output import Output, event_of
from gateway.executions.settlement import KEPT_RESULT_BYTES, LeaseLost, Outcome, Settlement, settle
from gateway.gen.n8ngateway.v1.execution_pb import Execution, ExecutionState
from gateway.local.postgres import LocalPostgres
from gateway.rpc.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    RpcError,
    Unavailable,
    Unknown,
)
from tests.adapters.databases import AUTHENTICATOR_PASSWORD, Tenant, login, new_tenant
from tests.executions.accounts import BALANCE, PRICE, Accounts

AWAY = Unavailable("away", retry_after=1)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(settlement, "LONGEST_RETRY_SECONDS", 0.002)


@pytest.fixture(autouse=True)
def logged() -> Any:
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
async def tenant(database: PostgresDatabase) -> Tenant:
    return await new_tenant(database, balance=10, price=3)


def put_out(*documents: bytes, kind: DocumentKind = DocumentKind.JSON) -> Output:
    output = Output(1 << 30)
    for data in documents:
        heard = event_of(Document(kind, "application/json", data))
        assert heard is not None
        output.extend([heard])
    return output


def completed(data: bytes = b'{"a":1}', kind: DocumentKind = DocumentKind.JSON) -> Outcome:
    return Outcome(put_out(data, kind=kind), n8n_execution_id="7", duration_ms=12)


def failed(error: RpcError) -> Outcome:
    return Outcome(put_out(b'"half"'), error, duration_ms=12)


async def begun(tenant: Tenant) -> str:
    return str((await tenant.begin())["execution_id"])


async def stored(tenant: Tenant, execution_id: str) -> dict[str, Any]:
    row: dict[str, Any] = await tenant.call("get_execution", p_id=execution_id)
    return row


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, ExecutionState.COMPLETED),
        (DeadlineExceeded("late"), ExecutionState.TIMED_OUT),
        (Cancelled("off"), ExecutionState.CANCELLED),
        (Unknown("failed"), ExecutionState.FAILED),
        (Unavailable("away"), ExecutionState.FAILED),
        (Internal("bug"), ExecutionState.FAILED),
    ],
)
def test_the_state_goes_with_the_error(error: RpcError | None, state: ExecutionState) -> None:
    assert Outcome(Output(0), error).state is state


async def test_a_success_is_paid_and_its_result_kept(tenant: Tenant) -> None:
    execution_id = await begun(tenant)
    assert await settle(tenant.database, execution_id, completed()) == Settlement(3, 7)
    row = await stored(tenant, execution_id)
    assert (row["state"], row["result"], row["result_truncated"]) == (
        "EXECUTION_STATE_COMPLETED", {"a": 1}, False,
    )  # fmt: skip
    assert (row["n8n_execution_id"], row["execution_time_ms"], row["error"]) == ("7", 12, None)


async def test_a_failure_costs_nothing_and_its_error_is_kept_whole(tenant: Tenant) -> None:
    error = Unknown("It failed.", reason="WORKFLOW_FAILED", metadata={"node": "A"}, retry_after=2)
    execution_id = await begun(tenant)
    assert await settle(tenant.database, execution_id, failed(error)) == Settlement(0, 10)
    row = await stored(tenant, execution_id)
    assert (row["state"], row["result"]) == ("EXECUTION_STATE_FAILED", None)
    assert (row["error"]["code"], row["error"]["message"]) == (2, "It failed.")
    assert [detail["@type"].rpartition(".")[2] for detail in row["error"]["details"]] == [
        "ErrorInfo",
        "RetryInfo",
    ]
    execution = Execution.from_json(
        json.dumps(
            {k: v for k, v in row.items() if v is not None and k not in ("error", "credits_remaining")}
        )
    )
    assert execution.state is ExecutionState.FAILED


async def test_the_first_settlement_stays(tenant: Tenant) -> None:
    execution_id = await begun(tenant)
    first = await settle(tenant.database, execution_id, completed())
    with pytest.raises(LeaseLost):
        await settle(tenant.database, execution_id, failed(Unknown("late")))
    assert await settle(tenant.database, execution_id, completed(b"2")) == first
    assert (await stored(tenant, execution_id))["result"] == {"a": 1}


async def test_an_execution_that_was_never_begun_is_not_found(tenant: Tenant) -> None:
    with pytest.raises(NotFound):
        await settle(tenant.database, str(uuid.uuid4()), completed())


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (b'"a\\u0000b"', "a\ufffdb"),
        (b'{"k\\u0000":["\\u0000\\u0000"]}', {"k\ufffd": ["\ufffd\ufffd"]}),
        (b'"\\\\u0000"', "\\u0000"),
        (b'"\\\\\\u0000"', "\\\ufffd"),
        (b"[1e999]", "[1e999]"),
        (b"[1.5, -1e20, 5e-324]", [1.5, -1e20, 5e-324]),
        (b"9" * 400, "9" * 400),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'{"":{"":""}}', {"": {"": ""}}),
        (b"true", True),
        (b'""', ""),
        (b"[" * 30 + b"]" * 30, None),
        (b"[" * 90 + b"]" * 90, "[" * 90 + "]" * 90),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_whatever_n8n_answers_settles(tenant: Tenant, data: bytes, kept: Any) -> None:
    execution_id = await begun(tenant)
    assert await settle(tenant.database, execution_id, completed(data)) == Settlement(3, 7)
    row = await stored(tenant, execution_id)
    assert row["result"] == (json.loads(data) if kept is None else kept)
    assert not row["result_truncated"]
    assert Value.from_json(json.dumps(row["result"]))


async def test_a_text_with_nul_settles(tenant: Tenant) -> None:
    execution_id = await begun(tenant)
    await settle(tenant.database, execution_id, completed(b"a\x00\\u0000b", DocumentKind.TEXT))
    assert (await stored(tenant, execution_id))["result"] == "a\ufffd\\u0000b"


async def test_an_error_with_nul_settles(tenant: Tenant) -> None:
    """The names of nodes are those of whoever made the workflow."""
    error = Unknown('failed in "a\x00b"', metadata={"node": "a\x00b"})
    execution_id = await begun(tenant)
    assert await settle(tenant.database, execution_id, failed(error)) == Settlement(0, 10)
    assert (await stored(tenant, execution_id))["error"]["message"] == 'failed in "a\ufffdb"'


async def test_a_result_that_fits_to_the_byte_is_kept_whole(tenant: Tenant) -> None:
    execution_id = await begun(tenant)
    await settle(tenant.database, execution_id, completed(b'"' + b"x" * (KEPT_RESULT_BYTES - 2) + b'"'))
    row = await stored(tenant, execution_id)
    assert (row["result"], row["result_truncated"]) == ("x" * (KEPT_RESULT_BYTES - 2), False)


@pytest.mark.parametrize("content", ["x", "\u2603", '"', "\\", "\n", "\x00"])
async def test_of_a_longer_result_the_beginning_of_its_text_is_kept(tenant: Tenant, content: str) -> None:
    whole = json.dumps(["n", content * KEPT_RESULT_BYTES], ensure_ascii=False, separators=(",", ":"))
    execution_id = await begun(tenant)
    assert await settle(tenant.database, execution_id, completed(whole.encode())) == Settlement(
        3, 7, is_whole=False
    )
    row = await stored(tenant, execution_id)
    assert row["result_truncated"]
    assert whole.startswith(row["result"])
    assert KEPT_RESULT_BYTES - 4 < len(row["result"].encode()) <= KEPT_RESULT_BYTES


async def test_an_output_that_was_cut_says_so(tenant: Tenant) -> None:
    outcome = completed()
    outcome.output.truncated = True
    execution_id = await begun(tenant)
    await settle(tenant.database, execution_id, outcome)
    assert (await stored(tenant, execution_id))["result_truncated"]


async def test_no_output_is_no_result(tenant: Tenant) -> None:
    execution_id = await begun(tenant)
    await settle(tenant.database, execution_id, Outcome(Output(0)))
    row = await stored(tenant, execution_id)
    assert (row["result"], row["result_truncated"]) == (None, False)


@pytest.mark.parametrize("fault", [AWAY, Aborted("deadlock")])
async def test_it_is_tried_until_the_database_takes_it(fault: RpcError) -> None:
    accounts = Accounts(*[fault] * 5)
    assert await settle(accounts, "e", completed()) == Settlement(PRICE, BALANCE - PRICE)
    assert len(accounts.calls) == 6
    assert {json.dumps(call) for call in accounts.calls} == {json.dumps(accounts.settled["e"])}


@pytest.mark.parametrize("fault", [InvalidArgument("no jsonb"), Internal("who knows")])
async def test_what_the_database_refuses_of_a_result_does_not_keep_it_from_settling(
    fault: RpcError, logged: list[Any]
) -> None:
    accounts = Accounts(AWAY, fault, AWAY)
    assert await settle(accounts, "e", completed()) == Settlement(PRICE, BALANCE - PRICE, is_whole=False)
    kept = accounts.settled["e"]
    assert "p_result" not in kept
    assert (kept["p_state"], kept["p_result_truncated"]) == ("EXECUTION_STATE_COMPLETED", True)
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["result not kept"]


async def test_what_the_database_refuses_of_an_error_does_not_either() -> None:
    accounts = Accounts(InvalidArgument("no jsonb"))
    assert await settle(accounts, "e", failed(Unknown("x"))) == Settlement(0, BALANCE)
    kept = accounts.settled["e"]
    assert (kept["p_state"], kept["p_error"], kept["p_result_truncated"]) == (
        "EXECUTION_STATE_FAILED", None, False,
    )  # fmt: skip


async def test_what_it_refuses_altogether_is_an_error() -> None:
    with pytest.raises(Internal):
        await settle(Accounts(Internal("1"), Internal("2")), "e", completed())


async def test_nothing_of_a_result_is_logged(logged: list[Any]) -> None:
    accounts = Accounts(AWAY, InvalidArgument("no"))
    await settle(accounts, "e", completed(b'"secret result"'))
    assert logged
    assert "secret result" not in str(logged)


async def test_waiting_for_the_database_can_be_cancelled() -> None:
    accounts = Accounts()
    accounts.gate.clear()
    waiting = asyncio.create_task(settle(accounts, "e", completed()))
    await accounts.asked.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[LocalPostgres]:
    async with LocalPostgres(tmp_path) as server:
        yield server


async def test_a_real_database_that_is_away_and_comes_back_settles_once(own_server: LocalPostgres) -> None:
    url = URL(own_server.superuser_url)
    await migrations.apply(str(url), local=True, authenticator_password=AUTHENTICATOR_PASSWORD)
    database = PostgresDatabase(login(url))
    tenant = await new_tenant(database, balance=10, price=3)
    executions = [await begun(tenant) for _ in range(3)]
    await own_server.stop()
    settling = [asyncio.create_task(settle(database, execution, completed())) for execution in executions]
    with pytest.raises(Unavailable):
        await database.ping()
    assert not any(task.done() for task in settling)
    await own_server.start()
    assert await asyncio.gather(*settling) == [Settlement(3, 1)] * 3
    assert (await tenant.call("get_organization", p_id=tenant.organization_id))[
        "id"
    ] == tenant.organization_id
    await database.close()
