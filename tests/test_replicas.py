"""Several gateway processes in front of the same parts, as they are scaled out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.conftest import RunningDev
from tests.stub_n8n import StubN8n
from tests.test_cli import ROOT, SECONDS, environment_of

LIMIT, PERIOD, LOAD_SECONDS = 30, 1, 5
PATIENT = {"REDIS_TIMEOUT_SECONDS": "20", "ENABLE_FINGERPRINTING": "false"}
"""Redis shares its core with much else here, and must not be taken for dead because of that."""

Admitted = tuple[float, float]


@contextmanager
def serving(directory: Path, settings: dict[str, str]) -> Iterator[str]:
    """A `serve` with these settings alone; its URL."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | settings
    command = [sys.executable, "-m", "gateway", "serve"]
    log = directory / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=directory, stderr=output, env=environment)
    try:
        give_up = time.monotonic() + SECONDS
        while not (lines := [line for line in log.read_text().splitlines() if '"event":"serving"' in line]):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up
            time.sleep(0.02)
        yield f"http://127.0.0.1:{json.loads(lines[0])['http_port']}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)


async def admitted(url: str, headers: dict[str, str]) -> list[Admitted]:
    """Eight callers who never rest: when each call that got through was begun and answered."""
    found: list[Admitted] = []
    until = time.monotonic() + LOAD_SECONDS
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=SECONDS) as client:

        async def caller() -> None:
            while time.monotonic() < until:
                begun = time.monotonic()
                answer = await client.get("/api/v1/workflows")
                assert answer.status_code in {200, 429}
                assert "ratelimit-mode" not in answer.headers
                if answer.status_code == 200:
                    found.append((begun, time.monotonic()))

        await asyncio.gather(*(caller() for _ in range(8)))
    return found


async def test_two_gateways_keep_one_limit(dev: RunningDev, stub_n8n: StubN8n, tmp_path: Path) -> None:
    """A call is counted while it is under way, so what was begun and answered within a window was in it."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    limit = {"RATE_LIMIT_REQUESTS": str(LIMIT), "RATE_LIMIT_PERIOD": str(PERIOD), **PATIENT}
    settings = environment_of(dev, stub_n8n.url) | limit
    with serving(tmp_path / "one", settings) as one, serving(tmp_path / "other", settings) as other:
        both = await asyncio.gather(admitted(one, dev.bearer), admitted(other, dev.bearer))
    assert all(both)
    calls = sorted(call for found in both for call in found)
    assert len(calls) > LIMIT  # more than one window's, or nothing was shown
    for begun, _ in calls:
        assert sum(begun <= start and end < begun + PERIOD for start, end in calls) <= LIMIT


def test_the_ready_file_has_the_settings_of_another_replica(dev: RunningDev, tmp_path: Path) -> None:
    ports = {"HTTP_PORT": "0", "GRPC_PORT": "0"}
    with serving(tmp_path, dev.ready["settings"] | ports) as url:
        body = {"workflow_id": dev.ready["workflows"]["echo"]}
        run = httpx.post(f"{url}/api/v1/execute", json=body, headers=dev.bearer, timeout=SECONDS)
        assert run.json()["success"], run.text
    path = f"/api/v1/executions/{run.json()['execution_id']}"
    there = httpx.get(f"{dev.ready['http_url']}{path}", headers=dev.bearer, timeout=SECONDS)
    assert there.json()["state"] == "EXECUTION_STATE_COMPLETED", there.text
