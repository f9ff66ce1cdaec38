"""What a real n8n keeps of the credentials that a run was given."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from tests import leaks
from tests.live import workflows
from tests.live.doors import RestDoor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunningDev
    from tests.live.conftest import LiveN8n

pytestmark = pytest.mark.timeout(120, func_only=True)

NAME = "CRM_TOKEN"
REDEEMED = "live-redeemed-4Vq8Zt2m0c"
INLINE = "live-inline-7Hx1Lw5s9d"


class Upstream(HTTPServer):
    """What a workflow uses a credential for; keeps the headers that it was shown."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.shown: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/contacts"


class _Answering(BaseHTTPRequestHandler):
    server: Upstream

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.shown.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(HTTPStatus.OK)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"contacts":3}')

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def rest(gateway: RunningDev) -> RestDoor:
    return RestDoor(gateway.ready)


@contextmanager
def stored(rest: RestDoor, organization_id: str, value: str) -> Iterator[None]:
    """Have the organization a credential NAME for a while."""
    path = f"/api/v1/organizations/{organization_id}/credentials"
    leaks.remember("a credential", value)
    rest.http.post(path, json={"credentials": {NAME: value}}).raise_for_status()
    try:
        yield
    finally:
        rest.http.delete(path, params={"names": NAME}).raise_for_status()


def register(rest: RestDoor, path: str, mode: str) -> str:
    workflow = {
        "name": f"{mode} {path}",
        "webhook_path": path,
        "credential_mode": f"CREDENTIAL_MODE_{mode}",
    }
    answer = rest.http.post("/api/v1/workflows", json=workflow)
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


def files_with(value: str, directory: Path) -> list[str]:
    """Names of the files below a directory that hold a value, as it is or as JSON within JSON writes it."""
    forms = {value.encode(), json.dumps(value)[1:-1].encode()}
    return [
        path.name
        for path in directory.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in forms)
    ]


def test_a_handle_is_redeemed_within_a_workflow_and_n8n_keeps_nothing_of_it(
    rest: RestDoor, gateway: RunningDev, n8n: LiveN8n, upstream: Upstream
) -> None:
    organization_id = gateway.ready["organization_id"]
    with workflows.N8nApi(n8n.base_url, n8n.api_key) as api:
        n8n_id = workflows.create_redeeming(
            api, gateway.ready["http_url"], n8n.internal_secret, NAME, upstream.url
        )
        with stored(rest, organization_id, REDEEMED):
            answer = rest.execute({"workflow_id": register(rest, workflows.REDEEMING, "HANDLE")})
        [shown] = upstream.shown
        assert shown["authorization"] == f"Bearer {REDEEMED}"
        assert answer["data"] == {"upstream": {"contacts": 3}, "told": "[redacted]"}
        while kept := api.executions(n8n_id):
            assert REDEEMED not in json.dumps(kept)
            time.sleep(0.1)
    assert files_with(REDEEMED, n8n.data) == []
    again = rest.http.post(
        "/api/v1/internal/credentials/redeem",
        json={"handle": shown[workflows.HANDLE_HEADER.lower()]},
        headers={
            workflows.SECRET_HEADER: n8n.internal_secret,
            workflows.RUN_HEADER: answer["execution_id"],
        },
    )
    assert again.status_code == HTTPStatus.FORBIDDEN
    assert again.json()["details"][0]["reason"] == "HANDLE_INVALID"


def test_what_is_sent_inline_n8n_keeps(rest: RestDoor, gateway: RunningDev, n8n: LiveN8n) -> None:
    """So the search that finds nothing of a redeemed one would have found it."""
    with stored(rest, gateway.ready["organization_id"], INLINE):
        data = rest.execute({"workflow_id": register(rest, workflows.ECHO, "INLINE")})["data"]
    assert data["echo"] == {"credentials": {NAME: "[redacted]"}}
    with workflows.N8nApi(n8n.base_url, n8n.api_key) as api:
        assert INLINE in json.dumps(api.executions(n8n.workflow_ids[workflows.ECHO])[0])
    assert "database.sqlite" in {name.removesuffix("-wal") for name in files_with(INLINE, n8n.data)}
