"""The servers under load: started on one core, stopped at the end, their CPU time read from the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.bench.generated import ROOT, descriptors
from tests.bench.servers import envoy
from tests.bench.servers.parts import Parts

START_SECONDS = 30.0
STOP_SECONDS = 20.0
SERVER_CORE, LOAD_CORE = 0, 1
_UPSTREAMS = {"parts", "postgrest_alone"}


class BenchError(Exception):
    """The benchmark cannot be run, or a peer does not do what it is measured for."""


@dataclass
class Server:
    """A running server: its ports by name, and the processes that its work is done in."""

    ports: Mapping[str, int]
    pids: tuple[int, ...]


@dataclass
class Servers:
    """Starts servers by name when they are first asked for, and stops the newest first. A context manager."""

    generated: Path
    keys: Path
    directory: Path
    _running: dict[str, Server] = field(default_factory=dict)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def get(self, name: str) -> Server:
        """The running server of that name. Raises BenchError when it does not start."""
        if name not in self._running:
            self._running[name] = self._made(name)
        return self._running[name]

    def new(self, name: str) -> Server:
        """Another server of that name, which nothing has been asked of."""
        return self._made(name)

    def parts(self) -> Parts:
        """What the whole gateway stands on, on the load generator's core."""
        self.get("parts")
        return Parts.read(self.directory)

    def _made(self, name: str) -> Server:
        if name == "envoy":
            return self._envoy()
        if name == "supabase":
            return self._supabase()
        if name in _GATEWAYS:
            return self._gateway(_GATEWAYS[name](self))
        return self._python(name)

    def _python(self, name: str) -> Server:
        arguments: dict[str, Callable[[], list[str]]] = {
            "gateway_doors": lambda: [str(self.keys)],
            "transcoder": lambda: [str(descriptors(self.generated))],
            "parts": lambda: [str(self.directory)],
            "postgrest_alone": lambda: [str(self.directory)],
            "bare_parts": lambda: [str((self.parts(), self.directory)[1])],
            "limiter": lambda: [self.parts().redis_url],
            "signature": lambda: [self.parts().redis_url],
            "fastapi_supabase": lambda: [str(self.directory), self._supabase_url()],
        }
        found = arguments.get(name, list)()
        command = [sys.executable, "-m", f"tests.bench.servers.{name}", *found]
        core = LOAD_CORE if name in _UPSTREAMS else SERVER_CORE
        process = self._start(command, stdout=subprocess.PIPE, core=core)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BenchError(f"{name} did not start: exit code {process.wait()}")
        return Server(json.loads(line), (process.pid,))

    def _gateway(self, data: Mapping[str, str]) -> Server:
        """`n8n-gateway serve`, as its users run it, with limits that the load does not reach."""
        parts, port = self.parts(), _free_port()
        environment = {
            "HTTP_PORT": str(port),
            "GRPC_PORT": "0",
            "REDIS_URL": parts.redis_url,
            "N8N_BASE_URL": parts.n8n_url,
            "N8N_INTERNAL_AUTH_SECRET": parts.internal_secret,
            "CLERK_JWT_ISSUER": parts.issuer,
            "CLERK_JWKS_URL": parts.jwks_url,
            "VAULT_KEY": parts.vault_key,
            "RATE_LIMIT": "1000000/minute",
            "RATE_LIMIT_PER_ADDRESS": "1000000/minute",
            **data,
        }
        command = [sys.executable, "-m", "gateway", "serve"]
        process = self._start(command, environment=environment, stdout=subprocess.DEVNULL)
        _wait_for(port, process)
        return Server({"http": port}, (process.pid,))

    def direct(self) -> dict[str, str]:
        """Settings of a gateway that talks to Postgres itself."""
        return {"DATABASE_URL": self.parts().database_url}

    def unguarded(self) -> dict[str, str]:
        """The same with every guard off that can be off."""
        off = ("ENABLE_RATE_LIMITING", "ENABLE_FINGERPRINTING", "ENABLE_HMAC_VALIDATION")
        return self.direct() | dict.fromkeys(off, "false")

    def over_rest(self) -> dict[str, str]:
        """Settings of a gateway that talks to Supabase's API."""
        parts = self.parts()
        return {
            "SUPABASE_URL": self._supabase_url(),
            "SUPABASE_ANON_KEY": parts.anon_key,
            "SUPABASE_SERVICE_ROLE_KEY": parts.service_key,
            "SUPABASE_JWT_SECRET": parts.jwt_secret,
        }

    def _supabase_url(self) -> str:
        return f"http://127.0.0.1:{self.get('supabase').ports['http']}"

    def _supabase(self) -> Server:
        self.parts()
        port, postgrest = _free_port(), self.get("postgrest_alone")
        configuration = envoy.supabase(port=port, postgrest_port=postgrest.ports["http"])
        process = self._run_envoy(configuration, LOAD_CORE)
        _wait_for(port, process)
        return Server({"http": port}, (process.pid,))

    def _envoy(self) -> Server:
        backend = self.get("grpc_alone")
        json_port, web_port = _free_port(), _free_port()
        configuration = envoy.configuration(
            json_port=json_port,
            web_port=web_port,
            grpc_port=backend.ports["grpc"],
            descriptors=descriptors(self.generated),
        )
        process = self._run_envoy(configuration, SERVER_CORE)
        for port in (json_port, web_port):
            _wait_for(port, process)
        return Server({"json": json_port, "web": web_port}, (process.pid, *backend.pids))

    def _run_envoy(self, configuration: str, core: int) -> subprocess.Popen[bytes]:
        binary = Path(sys.executable).parent / "envoy"
        command = [str(binary), "--config-yaml", configuration, "--concurrency", "1", "--log-level", "error"]
        return self._start([*command, "--disable-hot-restart"], core=core)

    def _start(
        self,
        command: list[str],
        *,
        core: int = SERVER_CORE,
        environment: Mapping[str, str] | None = None,
        stdout: int | None = None,
    ) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(ROOT), str(self.generated)])
        variables = {**os.environ, "PYTHONPATH": path, **(environment or {})}
        with on_core(core):
            process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=stdout, stderr=_quiet(stdout))
        self._processes.append(process)
        return process


_GATEWAYS: dict[str, Callable[[Servers], dict[str, str]]] = {
    "gateway": Servers.direct,
    "gateway_unguarded": Servers.unguarded,
    "gateway_over_rest": Servers.over_rest,
}


def _quiet(stdout: int | None) -> int | None:
    return stdout if stdout == subprocess.DEVNULL else None


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
