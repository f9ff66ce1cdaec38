"""The servers under load: started on one core, stopped at the end, their CPU time read from the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.bench.generated import ROOT, descriptors
from tests.bench.servers.envoy import configuration

START_SECONDS = 30.0
SERVER_CORE, LOAD_CORE = 0, 1


class BenchError(Exception):
    """The benchmark cannot be run, or a peer does not do what it is measured for."""


@dataclass
class Server:
    """A running server: its ports by name, and the processes that its work is done in."""

    ports: Mapping[str, int]
    pids: tuple[int, ...]


@dataclass
class Servers:
    """Starts servers by name when they are first asked for. Use it as a context manager."""

    generated: Path
    keys: Path
    _running: dict[str, Server] = field(default_factory=dict)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def get(self, name: str) -> Server:
        """The running server of that name. Raises BenchError when it does not start."""
        if name not in self._running:
            self._running[name] = self._envoy() if name == "envoy" else self._python(name)
        return self._running[name]

    def _python(self, name: str) -> Server:
        arguments = {
            "gateway_doors": [str(self.keys)],
            "transcoder": [str(descriptors(self.generated))],
        }.get(name, [])
        command = [sys.executable, "-m", f"tests.bench.servers.{name}", *arguments]
        process = self._start(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BenchError(f"{name} did not start: exit code {process.wait()}")
        return Server(json.loads(line), (process.pid,))

    def _envoy(self) -> Server:
        backend = self.get("grpc_alone")
        json_port, web_port = _free_port(), _free_port()
        config = configuration(
            json_port=json_port,
            web_port=web_port,
            grpc_port=backend.ports["grpc"],
            descriptors=descriptors(self.generated),
        )
        binary = Path(sys.executable).parent / "envoy"
        command = [str(binary), "--config-yaml", config, "--concurrency", "1", "--log-level", "error"]
        process = self._start([*command, "--disable-hot-restart"])
        for port in (json_port, web_port):
            _wait_for(port, process)
        return Server({"json": json_port, "web": web_port}, (process.pid, *backend.pids))

    def _start(self, command: list[str], stdout: int | None = None) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(ROOT), str(self.generated)])
        environment = {**os.environ, "PYTHONPATH": path}
        with on_core(SERVER_CORE):
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout)
        self._processes.append(process)
        return process


def pinned() -> bool:
    """Whether servers and load generator get a core each."""
    return hasattr(os, "sched_setaffinity") and {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0)


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep processes that are started meanwhile on one core, where that is possible."""
    if not pinned():
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def cpu_seconds(pids: Iterable[int]) -> float | None:
    """User and system time of processes so far; None where the kernel does not tell."""
    if not Path("/proc/self/stat").exists():
        return None
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchError(f"{process.args!r:.60} does not listen on port {port}: exit code {process.poll()}")
