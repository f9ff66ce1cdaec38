"""Several gateways over one database, one Redis and one n8n, each a process that can be killed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase
from gateway.local.secrets import Secrets
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from tests.conftest import RunningDev
from tests.stub_n8n import StubN8n

SECONDS = 60
LEASE_SECONDS = 3
INTERNAL_SECRET = "Replicas-and-n8n-" * 4
"""In every encoding it begins as no output ends: what may begin a secret would come in a chunk of its own."""


@dataclass
class Replica:
    """A `n8n-gateway serve` process, and its REST door."""

    process: subprocess.Popen[bytes]
    url: str
    bearer: dict[str, str]

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, headers=self.bearer | headers, timeout=SECONDS)

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", params=parameters, headers=self.bearer, timeout=SECONDS)

    def events(self, execution_id: str, after: int = 0, **headers: str) -> list[dict[str, Any]]:
        """All that Watch tells, to the end."""
        with self.watch(execution_id, after, **headers) as lines:
            told = list(lines)
        assert all("sequence" in event for event in told) or len(told) == 1, told
        return told

    def watch(self, execution_id: str, after: int = 0, **headers: str) -> Lines:
        return Lines(
            "GET",
            f"{self.url}/executions/{execution_id}/events",
            params={"after_sequence": after} if after else {},
            headers=self.bearer | {"Accept": "application/x-ndjson"} | headers,
        )

    def raw_watch(self, execution_id: str, **headers: str) -> AbstractContextManager[httpx.Response]:
        """The answer of Watch as it comes, in the form that the headers ask for."""
        url = f"{self.url}/executions/{execution_id}/events"
        return httpx.stream("GET", url, headers=self.bearer | headers, timeout=SECONDS)

    def stream(self, body: Any, **headers: str) -> Lines:
        return Lines(
            "POST",
            f"{self.url}/execute/stream",
            json=body,
            headers=self.bearer | {"Accept": "application/x-ndjson"} | headers,
        )

    def kill(self) -> None:
        """As a machine dies: nothing is told to anyone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def pause(self) -> None:
        """As a machine stands still that is moved or swaps: connections stay, nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on, as if no time had passed."""
        self.process.send_signal(signal.SIGCONT)

    def credits(self, organization_id: str) -> dict[str, int]:
        """The organization's balance."""
        found = self.get(f"/organizations/{organization_id}/credits").raise_for_status().json()
        return {name: found.get(name, 0) for name in ("balance", "reserved", "available")}

    def resident_peak(self) -> int:
        """The most memory, in bytes, that it has held since it was started or `forget_peak` was called."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10

    def forget_peak(self) -> None:
        """Measure the peak from what it holds now (proc(5), clear_refs)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


class Lines:
    """A stream of NDJSON, line by line; leaving it breaks the connection."""

    def __init__(self, method: str, url: str, **options: Any) -> None:
        self._stream = httpx.stream(method, url, timeout=SECONDS, **options)

    def __enter__(self) -> Iterator[dict[str, Any]]:
        response = self._stream.__enter__()
        return map(json.loads, response.iter_lines())

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)  # type: ignore[arg-type]


StartReplica = Callable[..., Replica]


@pytest.fixture(scope="package")
def start_replica(
    dev: RunningDev, stub_n8n: StubN8n, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartReplica]:
    """Start a gateway beside the one of `dev`. What is left of them is killed at the end of these tests.

    Later ones would have them for company: each replica delivers webhooks and takes up runs.
    """
    issuer = jwt.decode(dev.ready["token"], options={"verify_signature": False})["iss"]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DATABASE_URL": _database_url(dev),
        "REDIS_URL": dev.ready["redis_url"],
        "CLERK_JWT_ISSUER": issuer,
        "CLERK_JWKS_URL": f"{issuer}/.well-known/jwks.json",
        "N8N_BASE_URL": stub_n8n.url,
        "N8N_INTERNAL_AUTH_SECRET": INTERNAL_SECRET,
        "EXECUTION_LEASE_SECONDS": str(LEASE_SECONDS),
        "N8N_API_KEY": "Scripted-n8n-api-key",
        "VAULT_KEY": _vault_key(dev),
        "RATE_LIMIT_REQUESTS": "1000000",
        "REDIS_TIMEOUT_SECONDS": "20",
        "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "HTTP_PORT": "0",
        "GRPC_PORT": "0",
    }
    started: list[subprocess.Popen[bytes]] = []

    def start(**more: str) -> Replica:
        log = tmp_path_factory.mktemp("replica") / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve"],
                cwd=log.parent,
                stderr=output,
                env=environment | more,
            )
        started.append(process)
        return Replica(process, f"http://127.0.0.1:{_port(process, log)}/api/v1", dev.bearer)

    yield start
    for process in started:
        process.kill()
        process.wait()


CallDirectly = Callable[..., Any]


@pytest.fixture(scope="session")
def call_directly(dev: RunningDev) -> CallDirectly:
    """Call a function of the database with the token's claims, as PostgREST would."""
    claims = jwt.decode(dev.ready["token"], options={"verify_signature": False})
    caller = Principal(
        kind=Kind.USER,
        subject=claims["sub"],
        database_role=DatabaseRole.AUTHENTICATED,
        claims=json.dumps(claims),
    )

    async def call(function: str, **arguments: Any) -> Any:
        database = PostgresDatabase(_database_url(dev), max_connections=1)
        try:
            return json.loads(await database.call(function, caller, **arguments))
        finally:
            await database.close()

    return lambda function, **arguments: asyncio.run(call(function, **arguments))


def _database_url(dev: RunningDev) -> str:
    """The gateway's own login: the ready file has that of the owner."""
    password = Secrets(dev.data_dir).get("authenticator_password")
    return str(URL(dev.ready["database_url"]).with_user("authenticator").with_password(password))


def _vault_key(dev: RunningDev) -> str:
    """The key of `dev`, whose gateway takes queued runs too."""
    return base64.b64encode(hashlib.sha256(Secrets(dev.data_dir).get("vault_key").encode()).digest()).decode()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            told = json.loads(line) if line.startswith("{") else {}
            if told.get("event") == "serving":
                return int(told["http_port"])
    pytest.fail(f"the replica did not start:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="package")
def first(start_replica: StartReplica) -> Replica:
    return start_replica()


@pytest.fixture(scope="package")
def second(start_replica: StartReplica) -> Replica:
    return start_replica()


@pytest.fixture(scope="package")
def workflows(first: Replica) -> dict[str, str]:
    """A workflow of one credit for each webhook."""
    return {
        path: register(first, path)
        for path in ("echo", "stream", "stream-fail", "gated", "endless", "hang", "text", "empty")
    }


def register(replica: Replica, path: str, **fields: Any) -> str:
    workflow = {"name": f"{path} {uuid.uuid4()}", "webhook_path": path, "credits_per_execution": 1} | fields
    identifier: str = replica.post("/workflows", workflow).raise_for_status().json()["id"]
    return identifier
