"""What the whole suite shares: a gateway with real parts, started once as its users start it."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx._transports.default as httpx_transports
import pytest

from tests import leaks, workers
from tests.adapters.databases import spare_the_disk
from tests.stub_n8n import StubN8n

START_SECONDS = 150

# To read the certificates of all authorities takes each client 50 ms, and tests make thousands of clients.
httpx_transports.create_ssl_context = functools.cache(httpx_transports.create_ssl_context)


def pytest_xdist_auto_num_workers() -> int:
    """Three processes for two cores: for more than a third of its time, the suite waits for time to pass."""
    cores = os.cpu_count() or 1
    return cores + cores // 2


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(leaks, "leaks")
    config.pluginmanager.register(workers, "workers")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have recorded for the end, as the property "summary"."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, text in report.user_properties:
                if name == "summary":
                    terminalreporter.write_line(str(text))


@dataclass(frozen=True)
class RunningDev:
    """A `n8n-gateway dev` process that serves, and what its ready file says."""

    process: subprocess.Popen[bytes]
    ready: dict[str, Any]
    log: Path
    data_dir: Path

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.ready['token']}"}


def start_dev(directory: Path, *arguments: str, environment: dict[str, str] | None = None) -> RunningDev:
    """Start `n8n-gateway dev` on free ports with its data in `directory`, and wait until it serves."""
    ready_file = directory / "ready.json"
    log = directory / "dev.log"
    command = [sys.executable, "-m", "gateway", "dev", "--http-port", "0", "--grpc-port", "0"]
    command += ["--data-dir", str(directory / "data"), "--ready-file", str(ready_file), *arguments]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | (environment or {}), cwd=directory
        )
    give_up = time.monotonic() + START_SECONDS
    while not ready_file.exists():
        if process.poll() is not None or time.monotonic() > give_up:
            process.kill()
            pytest.fail(f"dev did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.02)
    running = RunningDev(process, json.loads(ready_file.read_text()), log, directory / "data")
    leaks.remember_ready(running.ready, running.data_dir)
    leaks.search_log(log)
    return running


def stop_dev(dev: RunningDev) -> None:
    """Stop it as Ctrl-C would, and wait for its end."""
    if dev.process.poll() is None:
        leaks.search("dev's metrics", httpx.get(dev.ready["metrics_url"]).text)
    dev.process.send_signal(signal.SIGINT)
    try:
        dev.process.wait(40)
    except subprocess.TimeoutExpired:
        dev.process.kill()
        pytest.fail(f"dev did not stop:\n{dev.log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def stub_n8n() -> Iterator[StubN8n]:
    """A scripted n8n, where a test needs an answer that the demo one does not give."""
    stub = StubN8n()
    yield stub
    stub.close()


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory, stub_n8n: StubN8n) -> Iterator[RunningDev]:
    """The gateway in front of the scripted n8n."""
    running = start_dev(
        tmp_path_factory.mktemp("dev"),
        *("--n8n-url", stub_n8n.url, "--log-level", "INFO"),
        environment={"REDIS_TIMEOUT_SECONDS": "20"},  # a busy machine is no Redis that is away
    )
    asyncio.run(spare_the_disk(running.ready["database_url"]))
    yield running
    stop_dev(running)
