"""The gateway with SUPABASE_URL alone: everything over the REST API of a real PostgREST."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from yarl import URL

from gateway.app import Gateway
from gateway.local.valkey import LocalValkey
from gateway.settings import Settings
from tests.adapters.databases import add_credits, cluster, superuser_url
from tests.adapters.postgrest import JWT_SECRET, OPAQUE, Postgrests, Project, postgrests
from tests.stub_n8n import StubN8n

__all__ = ["cluster", "postgrests", "superuser_url"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream(superuser_url: URL, postgrests: Postgrests) -> str:
    return (await postgrests.serve(superuser_url)).url


@pytest.fixture
async def project(upstream: str) -> AsyncIterator[Project]:
    async with Project(upstream) as started:
        yield started


@contextlib.asynccontextmanager
async def serving(
    project: Project, postgrests: Postgrests, n8n: StubN8n, directory: Path, **settings: Any
) -> AsyncIterator[str]:
    """Serve; give the URL of the REST door."""
    key = postgrests.issuer._key
    assert key is not None
    async with LocalValkey(directory) as valkey:
        gateway = Gateway(
            Settings.load(
                http_port=0,
                grpc_port=0,
                shutdown_grace_seconds=2,
                supabase_url=project.url,
                supabase_anon_key=OPAQUE.anon,
                supabase_service_role_key=OPAQUE.service,
                redis_url=valkey.url,
                clerk_jwt_issuer=postgrests.issuer.url,
                clerk_jwt_key=key.public_key()
                .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
                .decode(),
                n8n_base_url=n8n.url,
                n8n_internal_auth_secret="s" * 64,
                **settings,
            )
        )
        await gateway.start()
        try:
            yield f"http://127.0.0.1:{gateway.http_port}/api/v1/"
        finally:
            await gateway.stop()


@pytest.fixture(autouse=True)
def _nothing_else_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


async def test_a_workflow_is_executed_over_supabases_api_alone(
    project: Project, postgrests: Postgrests, stub_n8n: StubN8n, tmp_path: Path
) -> None:
    caller = postgrests.user(f"user_{uuid.uuid4().hex}")
    bearer = {"Authorization": f"Bearer {caller.token}"}
    async with (
        serving(project, postgrests, stub_n8n, tmp_path, supabase_jwt_secret=JWT_SECRET) as url,
        aiohttp.ClientSession(url, headers=bearer) as client,
    ):

        async def call(method: str, path: str, body: Any = None, status: int = 200) -> Any:
            async with client.request(method, path, json=body) as answer:
                assert answer.status == status, await answer.text()
                return await answer.json()

        ready = await call("GET", "health/ready")
        modes = {part["name"]: (part["mode"], part["status"]) for part in ready["dependencies"]}
        assert modes["database"] == ("supabase-rest", "ok")
        organization = await call("POST", "organizations", {"name": "Acme"})
        registered = {"organization_id": organization["id"], "name": "echo", "webhook_path": "echo"}
        registered["credits_per_execution"] = 2
        workflow = await call("POST", "workflows", registered)
        order = {"workflow_id": workflow["id"], "data": {"text": "☃"}}
        refused = await call("POST", "execute", order, status=402)
        assert "INSUFFICIENT_CREDITS" in str(refused)
        database = project.database(OPAQUE)
        await add_credits(database, organization["id"], 5)
        done = await call("POST", "execute", order)
        assert (done["status"], done["credits_used"], done["credits_remaining"]) == ("completed", 2, 3)
        assert "☃" in str(done["data"])
        stored = json.loads(await database.call("get_execution", caller, p_id=done["execution_id"]))
        assert (stored["state"], stored["credits_used"]) == ("EXECUTION_STATE_COMPLETED", 2)
        await database.close()
        # What the caller asked for went as the caller, what the gateway does by itself as the gateway.
        assert (OPAQUE.anon, f"Bearer {caller.token}") in project.seen
        assert (OPAQUE.service, "") in project.seen
        await project.stop()
        away = await call("GET", f"workflows/{workflow['id']}", status=503)
        assert "DATABASE_UNAVAILABLE" in str(away)
        assert "NOT_READY" in str(await call("GET", "health/ready", status=503))
        await project.start()
        await call("GET", f"workflows/{workflow['id']}")


async def test_readiness_says_that_keys_cannot_be_served_without_the_secret(
    project: Project, postgrests: Postgrests, stub_n8n: StubN8n, tmp_path: Path
) -> None:
    async with (
        serving(project, postgrests, stub_n8n, tmp_path) as url,
        aiohttp.ClientSession(url) as client,
        client.get("health/ready") as answer,
    ):
        ready = await answer.json()
    assert (answer.status, ready["status"]) == (200, "degraded")
    [keys] = [part for part in ready["dependencies"] if part["name"] == "api_keys"]
    assert keys["status"] == "unavailable"
    assert "SUPABASE_JWT_SECRET is not set" in keys["message"]
