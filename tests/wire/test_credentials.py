"""Credentials through every door: stored, named, given to runs, and never told."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway.rpc.errors import Code
from tests import leaks
from tests.wire.clients import Client, Outcome
from tests.wire.conftest import World, call
from tests.wire.signing import seeded_key


@pytest.fixture
def secret() -> str:
    value = f"hunter2-{uuid.uuid4().hex}"
    leaks.remember("a credential", value)
    return value


@pytest.fixture
def gate(world: World) -> Iterator[None]:
    """The gated workflow goes on when it is told to."""
    world.stub.close_gate()
    yield
    world.stub.open_gate()


def of(world: World, **fields: Any) -> dict[str, Any]:
    return {"organization_id": world.dev.ready["organization_id"], **fields}


def unlogged(world: World, secret: str) -> bool:
    return secret not in world.dev.log.read_text()


def test_names_are_listed_and_values_never(client: Client, world: World, secret: str) -> None:
    call(client, world, "DeleteCredentials", of(world))
    stored = call(client, world, "StoreCredentials", of(world, credentials={"B": secret, "A.key-1": secret}))
    assert [credential["name"] for credential in stored.messages[0]["credentials"]] == ["A.key-1", "B"]
    first = call(client, world, "ListCredentials", of(world, page_size=1)).messages[0]
    token = first["next_page_token"]
    second = call(client, world, "ListCredentials", of(world, page_size=1, page_token=token)).messages[0]
    assert [page["credentials"][0]["name"] for page in (first, second)] == ["A.key-1", "B"]
    assert second["next_page_token"] == ""
    assert secret not in str([stored, first, second])
    deleted = call(client, world, "DeleteCredentials", of(world, names=["B", "unknown"]))
    assert deleted.messages[0]["names"] == ["B"]
    assert unlogged(world, secret)


def test_a_workflow_is_given_them_and_they_do_not_come_back(
    client: Client, world: World, secret: str
) -> None:
    call(client, world, "StoreCredentials", of(world, credentials={"TOKEN": secret}))
    workflow = {
        "name": uuid.uuid4().hex,
        "webhook_path": "echo",
        "credential_mode": "CREDENTIAL_MODE_INLINE",
    }
    made = call(client, world, "RegisterWorkflow", {"workflow": workflow}).messages[0]
    workflow_id = made.get("workflow", made)["id"]
    ran = call(client, world, "Execute", {"workflow_id": workflow_id, "data": {"n": 1}})
    assert ran.code is Code.OK
    assert json.loads(world.stub.bodies["echo"])["credentials"]["TOKEN"] == secret
    assert ran.messages[0]["data"]["echo"]["credentials"]["TOKEN"] == "[redacted]"
    assert secret not in str(ran.messages)
    assert unlogged(world, secret)


@pytest.mark.usefixtures("gate")
def test_a_handle_is_redeemed_once_by_its_own_run(client: Client, world: World, secret: str) -> None:
    call(client, world, "StoreCredentials", of(world, credentials={"TOKEN": secret, "OTHER": "x"}))
    workflow = {
        "name": uuid.uuid4().hex,
        "webhook_path": "gated",
        "credential_mode": "CREDENTIAL_MODE_HANDLE",
    }
    made = call(client, world, "RegisterWorkflow", {"workflow": workflow}).messages[0]
    before = world.stub.calls["gated"]
    with ThreadPoolExecutor(1) as other:
        ran = other.submit(call, client, world, "Execute", {"workflow_id": made.get("workflow", made)["id"]})
        while world.stub.calls["gated"] == before:
            assert not ran.done()
        sent = world.stub.headers["gated"]
        assert secret not in str(world.stub.bodies["gated"])
        handle = sent["x-gateway-credential-handle"]

        def redeem(execution_id: str, **fields: Any) -> Outcome:
            headers = {"X-N8N-Internal-Auth": world.dev.ready["internal_secret"]}
            if execution_id:
                headers["X-Gateway-Execution-Id"] = execution_id
            return call(client, world, "RedeemCredentials", {"handle": handle, **fields}, headers=headers)

        for stranger in ("", "none"):
            assert redeem(stranger).fields == ["X-Gateway-Execution-Id"]
        assert redeem(str(uuid.uuid4())).reason == "HANDLE_INVALID"
        own = sent["x-gateway-execution-id"]
        redeemed = redeem(own, names=["TOKEN", "unknown"])
        assert redeemed.messages == [{"credentials": {"TOKEN": secret}}]
        again = redeem(own)
        assert (again.code, again.reason) == (Code.PERMISSION_DENIED, "HANDLE_INVALID")
        world.stub.open_gate()
        assert ran.result().code is Code.OK
    assert unlogged(world, secret)
    assert unlogged(world, handle)


@pytest.mark.parametrize(
    "credentials",
    [
        {},
        {"A": ""},
        {"A": "hunter2" * 150_000},
        {"A": "hunter2\0"},
        {"9A": "hunter2"},
        {"../A": "hunter2"},
        {"A\0": "hunter2"},
        {"\u202eA": "hunter2"},
        {"A" * 129: "hunter2"},
        {f"N{number}": "hunter2" for number in range(65)},
        {f"{number}{'x' * 200}": "hunter2" for number in range(64)},
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_credential_is_refused_and_not_told(
    client: Client, world: World, credentials: dict[str, str]
) -> None:
    outcome = call(client, world, "StoreCredentials", of(world, credentials=credentials))
    assert outcome.code is Code.INVALID_ARGUMENT
    assert outcome.fields[0].startswith("credentials")
    assert "hunter2" not in str(outcome)


def test_they_are_bounded_together(client: Client, world: World) -> None:
    most = {f"LONG_{number}": "x" * (1 << 16) for number in range(7)}
    assert call(client, world, "StoreCredentials", of(world, credentials=most)).code is Code.OK
    more = {f"MORE_{number}": "x" * (1 << 16) for number in range(2)}
    outcome = call(client, world, "StoreCredentials", of(world, credentials=more))
    assert (outcome.code, outcome.reason) == (Code.FAILED_PRECONDITION, "CREDENTIALS_FULL")
    listed = call(client, world, "ListCredentials", of(world, page_size=200)).messages[0]["credentials"]
    assert not {credential["name"] for credential in listed} & {*more}
    call(client, world, "DeleteCredentials", of(world, names=[*most]))


def test_a_name_of_1_mb_is_refused_in_few_words(client: Client, world: World) -> None:
    outcome = call(client, world, "StoreCredentials", of(world, credentials={"A" * (1 << 20): "hunter2"}))
    assert outcome.code is Code.INVALID_ARGUMENT
    assert len(str(outcome)) < 2000


def test_another_tenants_credentials_do_not_exist(
    client: Client, world: World, other_tenant: World, secret: str
) -> None:
    call(client, world, "StoreCredentials", of(world, credentials={"TOKEN": secret}))
    token = call(client, world, "ListCredentials", of(world, page_size=1)).messages[0]["next_page_token"]
    for method, fields in (
        ("StoreCredentials", {"credentials": {"TOKEN": "mine"}}),
        ("ListCredentials", {}),
        ("ListCredentials", {"page_token": token}),
        ("DeleteCredentials", {}),
    ):
        outcome = call(client, other_tenant, method, of(world, **fields))
        assert (outcome.code, outcome.reason) == (Code.NOT_FOUND, "ORGANIZATION_NOT_FOUND")


@pytest.mark.parametrize("token", ["forged", "AAAA", "A" * 1024])
def test_a_forged_page_token_is_refused(client: Client, world: World, token: str) -> None:
    outcome = call(client, world, "ListCredentials", of(world, page_token=token))
    assert (outcome.code, outcome.reason) == (Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


def test_a_key_does_not_reach_them(client: Client, world: World) -> None:
    for method in ("ListCredentials", "DeleteCredentials"):
        outcome = call(client, world, method, of(world), headers={}, signed=seeded_key(world).headers)
        assert (outcome.code, outcome.reason) == (Code.PERMISSION_DENIED, "SCOPE_MISSING")
