"""`serve --workers`: several processes on the same ports, as operators see them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import structlog

from gateway import cli
from gateway.doors.http.server import _Server
from gateway.settings import Settings
from gateway.workers import CANNOT_SERVE, Workers
from tests.command import SECONDS, complaint, environment_of, run, serving
from tests.conftest import RunningDev
from tests.stub_n8n import StubN8n


@pytest.fixture
def environment(dev: RunningDev, stub_n8n: StubN8n) -> dict[str, str]:
    return environment_of(dev, stub_n8n.url)


def event(lines: Any, name: str) -> dict[str, Any]:
    return dict(next(line for line in lines if line["event"] == name))


def two_free_ports() -> int:
    """A port that is free, as is the one behind it."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as free, contextlib.suppress(OSError):
            port = int(free.getsockname()[1])
            with socket.create_server(("127.0.0.1", port + 1)):
                return port


def test_all_serve_on_the_same_ports_and_one_that_dies_is_replaced(
    environment: dict[str, str], tmp_path: Path
) -> None:
    metrics = two_free_ports()
    environment = environment | {"METRICS_PORT": str(metrics)}
    with serving(tmp_path, environment, "--workers", "2") as (process, lines, first):
        second = event(lines, "serving")
        for port in (metrics, metrics + 1):
            assert "n8n_gateway_part_away" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert first["pid"] != second["pid"]
        assert (first["http_port"], first["grpc_port"]) == (second["http_port"], second["grpc_port"])
        os.kill(first["pid"], signal.SIGKILL)
        assert event(lines, "worker died")["exit_code"] == -signal.SIGKILL
        third = event(lines, "serving")
        assert third["http_port"] == first["http_port"]
        os.kill(second["pid"], signal.SIGKILL)
        assert event(lines, "worker died")
        # The one that replaced the first is alone now, until the second is replaced too.
        url = f"http://127.0.0.1:{third['http_port']}/api/v1/health"
        assert httpx.get(url, timeout=SECONDS).json()["status"] == "healthy"
        with grpc.insecure_channel(f"127.0.0.1:{third['grpc_port']}") as channel:
            grpc.channel_ready_future(channel).result(SECONDS)
        fourth = event(lines, "serving")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        for worker in (first, second, third, fourth):
            with pytest.raises(ProcessLookupError):
                os.kill(worker["pid"], 0)


def test_workers_stop_when_the_process_that_keeps_them_is_killed(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with serving(tmp_path, environment, "--workers", "2") as (process, lines, _):
        event(lines, "serving")
        process.kill()
        # Their log ends with them.
        assert sum(line["event"] == "stopping" for line in lines) == 2


def test_a_port_in_use_is_told_before_any_worker_starts(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = environment | {"GRPC_PORT": str(taken.getsockname()[1])}
        told = complaint(run("serve", "--workers", "2", directory=tmp_path, **environment))
    assert "choose another port with GRPC_PORT" in told


def test_what_keeps_a_worker_from_serving_ends_all(environment: dict[str, str], tmp_path: Path) -> None:
    wrong = environment | {"VAULT_KEY": "d3Jvbmd3cm9uZ3dyb25nd3Jvbmd3cm9uZ3dyb25nd3I="}
    ended = run("serve", "--workers", "2", directory=tmp_path, **wrong)
    assert ended.returncode == 1
    assert "VAULT_KEY" in ended.stderr
    assert "a worker cannot serve: see above" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "worker died" not in ended.stderr


def fail_twice(attempts: Path, replaced: Path, _settings: Settings) -> None:
    """A worker's work: it dies of an exception, then cannot serve, and the third time it goes on."""
    attempts.mkdir(exist_ok=True)
    attempt = len(list(attempts.iterdir()))
    (attempts / str(attempt)).touch()
    if attempt == 0:
        raise RuntimeError("nobody foresaw this")
    if attempt == 1:
        sys.exit(CANNOT_SERVE)
    replaced.write_text("serves")
    threading.Event().wait()


def lose_port(lost: Path, replaced: Path, settings: Settings) -> None:
    """A worker's work: it serves, and the first one's HTTP server dies of an exception."""
    is_first = not lost.exists()
    lost.touch()

    async def on_tick(server: Any, counter: int) -> bool:
        if is_first:
            raise RuntimeError("a fault of the server")
        if not counter:
            await asyncio.to_thread(replaced.write_text, str(settings.http_port))
        return bool(server.should_exit)

    _Server.on_tick = on_tick  # type: ignore[method-assign]
    cli._work(settings)


@contextlib.asynccontextmanager
async def keeping(work: Any, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, path: Path) -> Any:
    """Keep one worker; gives what a later one writes to `path`."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stopping = asyncio.Event()
    os.mkfifo(path)
    running = asyncio.create_task(Workers(work, Settings.load(), 1).run(stopping))
    told = asyncio.create_task(asyncio.to_thread(path.read_text))
    done, _ = await asyncio.wait([running, told], return_when=asyncio.FIRST_COMPLETED)
    if told not in done:
        os.close(os.open(path, os.O_RDWR))  # nobody writes: let go of who reads
    try:
        yield await told
    finally:
        stopping.set()
        await running


async def test_one_that_an_unforeseen_exception_ends_is_replaced_until_it_serves(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replaced = tmp_path / "replaced"
    work = partial(fail_twice, tmp_path / "attempts", replaced)
    async with keeping(work, environment, monkeypatch, replaced) as told:
        assert told == "serves"


async def test_one_that_has_lost_its_http_port_is_replaced(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replaced = tmp_path / "replaced"
    work = partial(lose_port, tmp_path / "lost", replaced)
    with structlog.testing.capture_logs() as lines:
        async with keeping(work, environment, monkeypatch, replaced) as port, httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{port}/api/v1/health", timeout=SECONDS)
            assert answer.json()["status"] == "healthy"
    died = [line for line in lines if line["event"] == "worker died"]
    assert [line["exit_code"] for line in died] == [1]
