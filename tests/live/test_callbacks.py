"""What a real n8n tells the gateway, and what the gateway stops in it."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from gateway.rpc.errors import Code
from tests.live import workflows
from tests.live.doors import Refused, RestDoor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.conftest import RunningDev
    from tests.live.conftest import LiveN8n

pytestmark = pytest.mark.timeout(120, func_only=True)


@pytest.fixture(scope="module")
def rest(gateway: RunningDev) -> RestDoor:
    return RestDoor(gateway.ready)


@pytest.fixture(scope="module")
def reporting(gateway: RunningDev, n8n: LiveN8n, rest: RestDoor) -> Mapping[str, str]:
    """Make the workflows that call the gateway; give its ids of them by their paths."""
    with workflows.N8nApi(n8n.base_url, n8n.api_key) as api:
        paths = workflows.create_reporting(api, gateway.ready["http_url"], n8n.internal_secret)
    registered = {}
    for path in paths:
        answer = rest.http.post("/api/v1/workflows", json={"name": path, "webhook_path": path})
        assert answer.is_success, answer.text
        registered[path] = answer.json()["id"]
    return registered


def test_a_cancelled_run_is_stopped_in_n8n(
    rest: RestDoor, reporting: Mapping[str, str], n8n: LiveN8n
) -> None:
    """Its first node has told n8n's id of it, without which nothing could be stopped."""
    events: list[Any] = []
    cancelled: Any = None

    def run() -> None:
        nonlocal cancelled
        for event in rest.stream({"workflow_id": reporting[workflows.REPORTING_SLOW]}):
            events.append(event)
            if "chunk" in event:
                assert event["chunk"]["text"] == "begun"
                path = f"/api/v1/executions/{event['execution_id']}/cancel"
                cancelled = rest.http.post(path, json={}).json()

    with pytest.raises(Refused) as refused:
        run()
    assert refused.value.code is Code.CANCELLED
    assert cancelled["n8n_stopped"] is True
    execution = rest.http.get(f"/api/v1/executions/{events[0]['execution_id']}").json()
    assert execution["state"] == "EXECUTION_STATE_CANCELLED"
    with workflows.N8nApi(n8n.base_url, n8n.api_key) as api:
        assert api.execution_status(execution["n8n_execution_id"]) == "canceled"


def test_an_error_workflow_reports_the_run_that_failed(
    rest: RestDoor, reporting: Mapping[str, str], gateway: RunningDev
) -> None:
    with pytest.raises(Refused) as refused:
        rest.execute({"workflow_id": reporting[workflows.REPORTING_FAIL]})
    execution_id = refused.value.metadata["execution_id"]
    row = asyncio.run(_error_of(gateway.ready["database_url"], execution_id))
    assert str(row["organization_id"]) == gateway.ready["organization_id"]
    assert row["error_message"] == workflows.FAILURE_MESSAGE
    assert (row["node_name"], row["workflow_name"]) == ("Stop", workflows.REPORTING_FAIL)
    assert row["n8n_execution_id"]
    path = f"/api/v1/organizations/{gateway.ready['organization_id']}/error-logs"
    [told] = rest.http.get(path, params={"execution_id": execution_id}).json()["error_logs"]
    assert (told["id"], told["error_message"]) == (str(row["id"]), workflows.FAILURE_MESSAGE)


def test_an_organization_runs_on_an_n8n_of_its_own(rest: RestDoor, n8n: LiveN8n) -> None:
    made = rest.http.post("/api/v1/organizations", json={"name": "Has its own"}).json()
    instance = {"base_url": n8n.base_url, "internal_secret": n8n.internal_secret, "api_key": n8n.api_key}
    put = rest.http.put(f"/api/v1/organizations/{made['id']}/n8n-instance", json=instance)
    assert put.is_success, put.text
    workflow = {"organization_id": made["id"], "name": "echo", "webhook_path": workflows.HEADER_AUTH}
    registered = rest.http.post("/api/v1/workflows", json=workflow).json()
    request = {"workflow_id": registered["id"], "data": {"n": 1}}
    answer = rest.http.post("/api/v1/execute", json=request, headers={"X-Tenant-ID": made["id"]})
    assert answer.is_success, answer.text
    assert answer.json()["data"]["echo"] == {"n": 1}


async def _error_of(database_url: str, execution_id: str) -> Any:
    """Wait for the error of a run: n8n starts the error workflow after it has answered."""
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(30):
            while True:
                row = await connection.fetchrow(
                    "select * from error_logs where execution_id = $1", uuid.UUID(execution_id)
                )
                if row is not None:
                    return row
                await asyncio.sleep(0.1)
    finally:
        await connection.close()
