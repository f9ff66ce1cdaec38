"""Starts an installed n8n on the loopback interface with a database of its own, and stops it again."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from tests.live.n8n_install import node_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.live.n8n_install import Installation

HOST = "127.0.0.1"

_START_DEADLINE_SECONDS = 180
_STOP_DEADLINE_SECONDS = 30
_POLL_SECONDS = 0.1
_LOG_TAIL_LINES = 20


class StartError(Exception):
    """n8n did not become ready; the message carries the end of its log."""


@dataclass(frozen=True)
class N8nServer:
    """One running n8n process; its log is `log`."""

    port: int
    process: subprocess.Popen[bytes] = field(repr=False)
    log: Path

    @property
    def base_url(self) -> str:
        """What a webhook's path is appended to, without a trailing slash: `{base_url}/webhook/{path}`."""
        return f"http://{HOST}:{self.port}"

    def wait_until_ready(self) -> None:
        """Return when n8n serves webhooks and its API.

        `/healthz` already answers 200 while the webhook routes are missing, so `/healthz/readiness` is asked.

        Raises:
            StartError: n8n ended, or is not ready after three minutes.

        """
        deadline = time.monotonic() + _START_DEADLINE_SECONDS
        while not self._is_ready():
            code = self.process.poll()
            if code is not None:
                message = f"n8n ended with code {code} while it started:\n{self._log_tail()}"
                raise StartError(message)
            if time.monotonic() > deadline:
                message = f"n8n is not ready after {_START_DEADLINE_SECONDS} s:\n{self._log_tail()}"
                raise StartError(message)
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """End n8n and the task runners it started; running executions get half a minute."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        # n8n leads a session of its own, so whatever is left in its group is a child that outlived it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.base_url}/healthz/readiness").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])


@contextlib.contextmanager
def started(installation: Installation, data: Path) -> Iterator[N8nServer]:
    """Start n8n on free ports with everything it writes below `data`, and stop it at the end of the block.

    It is not ready yet when the block begins.
    """
    data.mkdir(parents=True, exist_ok=True)
    port, broker_port = _free_ports(2)
    log = data / "n8n.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(installation.node), str(installation.n8n), "start"],
            cwd=data,
            env={**node_environment(installation), **_settings(data, port, broker_port)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = N8nServer(port, process, log)
    try:
        yield server
    finally:
        server.stop()


def create_owner(base_url: str) -> str:
    """Set up the owner of a fresh n8n and return an API key of theirs with every scope n8n offers.

    Raises:
        httpx.HTTPStatusError: n8n refused, as it does when it has an owner already.

    """
    owner = {
        "email": "owner@example.com",
        "firstName": "Live",
        "lastName": "Owner",
        "password": f"A1{secrets.token_urlsafe(16)}",
    }
    with httpx.Client(base_url=f"{base_url}/rest", timeout=30) as browser:
        browser.post("/owner/setup", json=owner).raise_for_status()
        scopes = _data(browser.get("/api-keys/scopes"))
        key = _data(browser.post("/api-keys", json={"label": "live", "expiresAt": None, "scopes": scopes}))
    return str(key["rawApiKey"])


def _data(response: httpx.Response) -> Any:
    return response.raise_for_status().json()["data"]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


def _settings(data: Path, port: int, broker_port: int) -> dict[str, str]:
    """Keep n8n on this machine, away from the user's files, and silent towards its makers."""
    return {
        "HOME": str(data),
        "N8N_USER_FOLDER": str(data),
        "DB_TYPE": "sqlite",
        "N8N_ENCRYPTION_KEY": secrets.token_hex(16),
        "N8N_HOST": HOST,
        "N8N_LISTEN_ADDRESS": HOST,
        "N8N_PORT": str(port),
        "N8N_PROTOCOL": "http",
        "N8N_RUNNERS_BROKER_LISTEN_ADDRESS": HOST,
        "N8N_RUNNERS_BROKER_PORT": str(broker_port),
        "N8N_SECURE_COOKIE": "false",
        # As a deployment runs it: without it n8n's error bodies carry a stack trace.
        "NODE_ENV": "production",
        # A third of the default engine's cost on these workflows.
        "N8N_EXPRESSION_ENGINE": "legacy",
        "N8N_DIAGNOSTICS_ENABLED": "false",
        "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
        "N8N_TEMPLATES_ENABLED": "false",
        "N8N_PERSONALIZATION_ENABLED": "false",
        "N8N_HIRING_BANNER_ENABLED": "false",
        "N8N_COMMUNITY_PACKAGES_ENABLED": "false",
        "N8N_PUBLIC_API_SWAGGERUI_DISABLED": "true",
        "EXECUTIONS_DATA_SAVE_ON_SUCCESS": "all",
        "EXECUTIONS_DATA_SAVE_ON_ERROR": "all",
        "N8N_LOG_LEVEL": "info",
        "N8N_LOG_OUTPUT": "console",
        "GENERIC_TIMEZONE": "UTC",
        "TZ": "UTC",
    }
