"""An organization's own n8n through every door: set, used, never telling its secrets."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.rpc.errors import Code
from tests.stub_n8n import StubN8n
from tests.wire.clients import Client, Outcome
from tests.wire.conftest import NOTICED_WITHIN_SECONDS, World, call


@pytest.fixture(scope="module")
def own_n8n() -> Iterator[StubN8n]:
    stub = StubN8n()
    yield stub
    stub.close()


@pytest.fixture
def organization(client: Client, world: World) -> str:
    made = call(client, world, "CreateOrganization", {"organization": {"name": "Has its own n8n"}})
    return str(made.messages[0].get("organization", made.messages[0])["id"])


def setting(client: Client, world: World, organization: str, **fields: Any) -> Outcome:
    return call(client, world, "SetN8nInstance", {"organization_id": organization, "n8n_instance": fields})


def wait_until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + NOTICED_WITHIN_SECONDS
    while not holds():
        assert time.monotonic() < give_up


def ran_there(client: Client, world: World, organization: str, own_n8n: StubN8n) -> dict[str, str]:
    """Run a workflow of the organization, and give the headers that its n8n was sent."""
    workflow = {"organization_id": organization, "name": "echo", "webhook_path": "echo"}
    made = call(client, world, "RegisterWorkflow", {"workflow": workflow}).messages[0]
    headers = {**world.dev.bearer, "X-Tenant-ID": organization}
    request = {"workflow_id": made.get("workflow", made)["id"]}
    before = own_n8n.calls["echo"]
    ran = call(client, world, "Execute", request, headers=headers)
    assert ran.code is Code.OK, ran
    assert own_n8n.calls["echo"] == before + 1
    return own_n8n.headers["echo"]


def test_it_is_set_shown_and_forgotten(
    client: Client, world: World, organization: str, own_n8n: StubN8n
) -> None:
    about = {"organization_id": organization}
    assert call(client, world, "GetN8nInstance", about).code is Code.NOT_FOUND
    secret, key = f"internal-{uuid.uuid4().hex}", f"key-{uuid.uuid4().hex}"
    done = setting(
        client, world, organization, base_url=f"{own_n8n.url}/", internal_secret=secret, api_key=key
    )
    assert done.code is Code.OK, done
    shown = call(client, world, "GetN8nInstance", about)
    instance = shown.messages[0].get("n8n_instance", shown.messages[0])
    assert instance["base_url"] == own_n8n.url
    assert (instance["has_internal_secret"], instance["has_api_key"]) == (True, True)
    assert ran_there(client, world, organization, own_n8n)["x-n8n-internal-auth"] == secret
    assert call(client, world, "DeleteN8nInstance", about).code is Code.OK
    assert call(client, world, "GetN8nInstance", about).code is Code.NOT_FOUND
    told = f"{done} {shown} {world.dev.log.read_text()}"
    assert secret not in told
    assert key not in told


def test_a_run_that_waited_for_it_is_not_sent_to_the_shared_one(
    client: Client, world: World, organization: str, own_n8n: StubN8n
) -> None:
    """Nor are its credentials: it fails, and costs nothing."""
    own_n8n.close_gate()
    before, before_own = world.stub.calls["gated"], own_n8n.calls["gated"]
    assert setting(client, world, organization, base_url=own_n8n.url).code is Code.OK
    workflow = {
        "organization_id": organization, "name": "gated", "webhook_path": "gated", "concurrency_limit": 1,
        "credential_mode": "CREDENTIAL_MODE_INLINE",
    }  # fmt: skip
    made = call(client, world, "RegisterWorkflow", {"workflow": workflow}).messages[0]
    request = {"workflow_id": made.get("workflow", made)["id"]}
    headers = {**world.dev.bearer, "X-Tenant-ID": organization}
    begun = [call(client, world, "StartExecution", request, headers=headers) for _ in range(2)]
    runs = [b.messages[0].get("execution", b.messages[0])["id"] for b in begun]

    def state(run: str) -> Any:
        told = call(client, world, "GetExecution", {"id": run}, headers=headers).messages[0]
        return told.get("execution", told)

    wait_until(lambda: own_n8n.calls["gated"] > before_own)
    about = {"organization_id": organization}
    assert call(client, world, "DeleteN8nInstance", about).code is Code.OK
    own_n8n.open_gate()
    wait_until(lambda: all("finished_at" in state(run) for run in runs))
    assert state(runs[0])["state"] == "EXECUTION_STATE_COMPLETED"
    failed = state(runs[1])
    assert failed["state"] == "EXECUTION_STATE_FAILED"
    assert failed["error"]["details"][0]["reason"] == "N8N_CHANGED"
    assert failed.get("credits_used", 0) == failed.get("credits_reserved", 0) == 0
    assert world.stub.calls["gated"] == before


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://10.0.0.1:5678",
        "http://[fd00::1]",
        "ftp://n8n.example.com",
        "http://user@n8n.example.com",
        "http://n8n.example.com/?q=1",
        "",
    ],
)
def test_a_url_that_will_not_do_is_refused_by_its_field(
    client: Client, world: World, organization: str, url: str
) -> None:
    refused = setting(client, world, organization, base_url=url)
    assert refused.code is Code.INVALID_ARGUMENT
    assert "base_url" in str(refused)
