"""An organization's own n8n through every door: set, used, never telling its secrets."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.rpc.errors import Code
from tests.stub_n8n import StubN8n
from tests.wire.clients import Client, Outcome
from tests.wire.conftest import World, call


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
