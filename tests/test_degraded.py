"""Each part taken away under load and brought back: what calls get meanwhile, and where it shows.

The gateway runs in this process, its parts are real: Postgres, Valkey, an issuer, a scripted n8n.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa
from grpc_health.v1 import health_pb2, health_pb2_grpc
from n8n_gateway_client import RequestSigner
from prometheus_client.parser import text_string_to_metric_families

from gateway.adapters import jwks
from gateway.local.dev import Dev, DevOptions, Ready
from tests.command import ROOT
from tests.stub_n8n import StubN8n

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class World:
    """The gateway, the parts around it, and callers that never stop."""

    dev: Dev
    ready: Ready
    stub: StubN8n
    client: httpx.AsyncClient
    workflow: str
    answers: list[httpx.Response] = field(default_factory=list)

    async def get(self, path: str, token: str | None = None) -> httpx.Response:
        return await self.client.get(path, headers=self._headers(token))

    async def run(self) -> httpx.Response:
        body = {"workflow_id": self.workflow}
        return await self.client.post("/api/v1/execute", json=body, headers=self._headers(None))

    def _headers(self, token: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {token or self.ready.token}"}

    async def part(self, name: str) -> dict[str, Any]:
        """What readiness says of a part, whether it is ready or not."""
        answer = (await self.client.get("/api/v1/health/ready")).json()
        if "dependencies" not in answer:
            answer = next(d for d in answer["details"] if "dependencies" in d)
        return next(part for part in answer["dependencies"] if part["name"] == name)

    async def grpc_health(self) -> int:
        """The status of the whole server, as gRPC's health checks ask for it."""
        async with grpc.aio.insecure_channel(self.ready.grpc_url) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            return int((await check(health_pb2.HealthCheckRequest())).status)

    async def away(self, name: str) -> float:
        """What the metrics say of a part."""
        text = (await self.client.get(self.ready.metrics_url)).text
        (family,) = (f for f in text_string_to_metric_families(text) if f.name == "n8n_gateway_part_away")
        return next(sample.value for sample in family.samples if sample.labels["part"] == name)

    async def shows(self, name: str, status: str) -> bool:
        """Readiness and metrics agree about a part."""
        part = await self.part(name)
        return part["status"] == status and await self.away(name) == (status != "ok")

    async def counts_with_others(self) -> bool:
        """A call is counted over all replicas, and nothing is told to be away."""
        told = (await self.get("/api/v1/workflows")).headers
        return "ratelimit-mode" not in told and "gateway-degraded" not in told

    @asynccontextmanager
    async def under_load(self, call: Callable[[], Awaitable[httpx.Response]]) -> AsyncIterator[None]:
        """Six callers, who go on whatever they get."""
        self.answers.clear()
        stopping = asyncio.Event()

        async def caller() -> None:
            while not stopping.is_set():
                self.answers.append(await call())

        callers = [asyncio.create_task(caller()) for _ in range(6)]
        try:
            yield
        finally:
            stopping.set()
            await asyncio.gather(*callers)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Ask again and again, as an operator's probe does."""
        async with asyncio.timeout(60):
            while not await holds():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def answered(self, *statuses: int, times: int = 20) -> None:
        """Wait until so many more answers of these kinds have come."""
        seen = len(self.answers)

        async def enough() -> bool:
            return sum(answer.status_code in statuses for answer in self.answers[seen:]) >= times

        await self.until(enough)

    def statuses(self) -> Counter[int]:
        return Counter(answer.status_code for answer in self.answers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, stub_n8n: StubN8n) -> AsyncIterator[World]:
    patience = pytest.MonkeyPatch()
    patience.setenv("REDIS_TIMEOUT_SECONDS", "5")  # a busy machine is no Redis that is away
    options = DevOptions(tmp_path_factory.mktemp("degraded"), 0, 0, n8n_url=stub_n8n.url)
    async with Dev(options, lambda _part, _state: None) as dev:
        ready = await dev.start()
        async with httpx.AsyncClient(base_url=ready.http_url, timeout=30) as client:
            answer = await client.post(
                "/api/v1/workflows",
                json={"name": "degraded", "webhook_path": "echo", "credits_per_execution": 1},
                headers={"Authorization": f"Bearer {ready.token}"},
            )
            yield World(dev, ready, stub_n8n, client, answer.raise_for_status().json()["id"])
    patience.undo()


def reason(answer: httpx.Response) -> str:
    text: str = answer.json()["details"][0]["reason"]
    return text


async def test_redis(world: World) -> None:
    """Calls go on, limited by this process alone; nobody is refused, and nobody waits for long."""
    valkey = world.dev.stack.valkey
    assert valkey
    async with world.under_load(lambda: world.get("/api/v1/workflows")):
        await world.answered(200)
        await valkey.stop()
        await world.until(lambda: world.shows("redis", "unavailable"))
        await world.answered(200)
        lone = await world.get("/api/v1/workflows")
        assert lone.headers["ratelimit-mode"] == "local"
        assert lone.headers["gateway-degraded"] == "redis=local_fallback"
        assert (await world.part("redis"))["mode"] == "local_fallback"
        assert (await world.get("/api/v1/health/ready")).json()["status"] == "degraded"
        await valkey.start()
        await world.until(lambda: world.shows("redis", "ok"))
        await world.answered(200)
        await world.until(world.counts_with_others)
    assert world.statuses().keys() == {200}


async def test_redis_and_signed_calls(world: World) -> None:
    """Nobody can tell a replay then: they are told to come back, and none goes on."""
    valkey = world.dev.stack.valkey
    assert valkey
    path = "/api/v1/workflows"
    signer = RequestSigner(world.ready.api_key, world.ready.client_secret)

    async def signed() -> httpx.Response:
        parts = signer.headers(http_method="GET", target=path, content_type="", message=b"")
        return await world.client.get(path, headers=parts)

    async with world.under_load(signed):
        await world.answered(200)
        await valkey.stop()
        await world.answered(503)
        refused = next(answer for answer in world.answers if answer.status_code != 200)
        assert reason(refused) == "REPLAY_PROTECTION_AWAY"
        assert int(refused.headers["retry-after"]) >= 1
        await valkey.start()
        await world.answered(200)
    assert world.statuses().keys() == {200, 503}


async def test_postgres(world: World) -> None:
    """Calls are UNAVAILABLE and say when to come back; n8n gets nothing that could not be charged."""
    postgres = world.dev.stack.postgres
    assert postgres
    async with world.under_load(world.run):
        await world.answered(200)
        await postgres.stop()
        await world.until(lambda: world.shows("database", "unavailable"))
        await world.answered(503)
        ran = world.stub.calls["echo"]
        await world.answered(503)
        assert world.stub.calls["echo"] == ran
        refused = await world.run()
        assert reason(refused) == "DATABASE_UNAVAILABLE"
        assert int(refused.headers["retry-after"]) >= 1
        assert any(detail["@type"].endswith("RetryInfo") for detail in refused.json()["details"])
        assert "database=unavailable" in refused.headers["gateway-degraded"]
        assert (await world.get("/api/v1/health/ready")).status_code == 503
        assert (await world.get("/api/v1/health/live")).status_code == 200
        assert await world.grpc_health() == health_pb2.HealthCheckResponse.NOT_SERVING
        await postgres.start()
        await world.until(lambda: world.shows("database", "ok"))
        await world.answered(200)
    assert (await world.get("/api/v1/health/ready")).json()["status"] == "ready"
    assert await world.grpc_health() == health_pb2.HealthCheckResponse.SERVING


async def test_postgres_that_comes_after_the_gateway(world: World, tmp_path: Path) -> None:
    """One that starts without its database says which, is alive and not ready, and serves once it can."""
    postgres = world.dev.stack.postgres
    assert postgres
    await postgres.stop()
    is_back = False
    try:
        async with _serving(world.ready, tmp_path) as (client, lines):
            assert any(line["event"].startswith("THE DATABASE CANNOT BE REACHED") for line in lines)
            late = World(world.dev, world.ready, world.stub, client, world.workflow)
            assert (await late.get("/api/v1/health/live")).status_code == 200
            assert (await late.get("/api/v1/health/ready")).status_code == 503
            ran = world.stub.calls["echo"]
            refused = await late.run()
            assert (refused.status_code, reason(refused)) == (503, "DATABASE_UNAVAILABLE")
            assert world.stub.calls["echo"] == ran
            await postgres.start()
            is_back = True

            async def is_ready() -> bool:
                return (await late.get("/api/v1/health/ready")).status_code == 200

            await late.until(is_ready)
            answer = await late.run()
            assert (answer.status_code, answer.json()["credits_used"]) == (200, 1)
    finally:
        if not is_back:
            await postgres.start()
        await world.until(lambda: world.shows("database", "ok"))


@asynccontextmanager
async def _serving(
    ready: Ready, directory: Path
) -> AsyncIterator[tuple[httpx.AsyncClient, list[dict[str, Any]]]]:
    """Another replica as a process of its own: a client of it, and what it logged until it served."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve"),
        cwd=directory,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HTTP_PORT": "0", "GRPC_PORT": "0"}
        | ready.settings,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    lines: list[dict[str, Any]] = []
    try:
        while not lines or lines[-1]["event"] != "serving":
            lines.append(json.loads(await process.stderr.readline()))
        draining = asyncio.create_task(process.stderr.read())
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{lines[-1]['http_port']}", timeout=30
        ) as client:
            yield client, lines
        process.terminate()
        await draining
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_identity_provider(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of a known key are served; one of another key is UNAUTHENTICATED."""
    monkeypatch.setattr(jwks, "UNKNOWN_KEY_SECONDS", 0.2)
    issuer = world.dev.stack.issuer
    assert issuer
    fresh = issuer.mint("user_degraded", lifetime=timedelta(minutes=5))
    async with world.under_load(lambda: world.get("/api/v1/workflows")):
        await world.answered(200)
        await issuer.stop()
        assert (await world.get("/api/v1/organizations", fresh)).status_code == 200
        refused = await world.get("/api/v1/organizations", _of_another_key(fresh))
        assert (refused.status_code, reason(refused)) == (401, "TOKEN_INVALID")
        await world.until(lambda: world.shows("identity", "unavailable"))
        assert (await world.part("identity"))["mode"] == "cached_keys"
        shown = await world.get("/api/v1/organizations", fresh)
        assert shown.headers["gateway-degraded"] == "identity=cached_keys"
        await world.answered(200)
        await issuer.start()
        await world.until(lambda: world.shows("identity", "ok"))
    assert world.statuses().keys() == {200}


def _of_another_key(token: str) -> str:
    """The same token, as if a key that nobody knows had signed it."""
    claims = jwt.decode(token, options={"verify_signature": False})
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": "another"})


async def test_n8n(world: World) -> None:
    """Runs are UNAVAILABLE and cost nothing; everything else is served."""
    before = (await world.run()).json()["credits_remaining"]
    async with world.under_load(world.run):
        await world.answered(200)
        world.stub.go_away()
        await world.until(lambda: world.shows("n8n", "unavailable"))
        await world.answered(503)
        refused = await world.run()
        assert reason(refused) in {"N8N_UNREACHABLE", "N8N_CIRCUIT_OPEN", "N8N_CONNECTION_LOST"}
        listed = await world.get("/api/v1/workflows")
        assert listed.status_code == 200
        assert listed.headers["gateway-degraded"] == "n8n=unavailable"
        assert (await world.get("/api/v1/health/ready")).json()["status"] == "degraded"
        world.stub.listen()
        await world.until(lambda: world.shows("n8n", "ok"))
        await world.answered(200)
    paid = world.statuses()[200] + 1
    assert (await world.run()).json()["credits_remaining"] == before - paid


async def test_strangers_cannot_make_readiness_hammer_the_database(world: World) -> None:
    """However many ask, each part is looked at once a second."""
    started = time.monotonic()
    answers = await asyncio.gather(*(world.client.get("/api/v1/health/ready") for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    looks = {tuple(part["latency_ms"] for part in answer.json()["dependencies"]) for answer in answers}
    assert len(looks) <= 2 + (time.monotonic() - started)
