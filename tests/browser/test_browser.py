"""The TypeScript client in a real browser, over Connect (JSON) and gRPC-Web, from two origins."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from proto.toolchains import MissingToolchainError, npm_install
from tests.clients.builds import build_typescript
from tests.conftest import RunningDev, start_dev, stop_dev
from tests.stub_n8n import StubN8n

FOLDER = Path(__file__).parent
PAGES = ("connect", "grpc_web")
WEBHOOKS = ("echo", "gated", "stream-fail")
DRIVE_SECONDS = 120


class PageServer(ThreadingHTTPServer):
    """Serves the pages on an origin of its own, and opens n8n's gate when a page has seen a first chunk."""

    daemon_threads = True

    def __init__(self, directory: Path, stub: StubN8n) -> None:
        super().__init__(("127.0.0.1", 0), partial(PageHandler, directory=str(directory)))
        self.stub = stub

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class PageHandler(SimpleHTTPRequestHandler):
    """Takes POST first-chunk besides the files, and keeps quiet."""

    server: PageServer

    def do_POST(self) -> None:
        self.server.stub.open_gate()
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        pass


@pytest.fixture(scope="module")
def chromium() -> str:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("the client is not tried in a browser: chromium is not installed")
    return path


@pytest.fixture(scope="module")
def tools() -> Path:
    """The bundler and the driver's packages."""
    try:
        return npm_install(FOLDER)
    except MissingToolchainError as missing:
        pytest.skip(f"the client is not tried in a browser: {missing}")


@pytest.fixture(scope="module")
def site(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages with the client as its users bundle it."""
    client = build_typescript()
    modules = tmp_path_factory.mktemp("modules")
    (modules / client.name).symlink_to(client)
    (modules / "n8n-gateway-client").symlink_to(client)
    directory = tmp_path_factory.mktemp("site")
    scripts = [str(FOLDER / f"pages/{page}.js") for page in PAGES]
    command = [str(tools / ".bin/esbuild"), *scripts, "--bundle", "--format=esm", f"--outdir={directory}"]
    search = os.pathsep.join([str(modules), str(client / "node_modules")])
    bundled = subprocess.run(
        command, env=os.environ | {"NODE_PATH": search}, check=False, capture_output=True, text=True
    )
    assert bundled.returncode == 0, bundled.stderr
    for page in PAGES:
        shutil.copy(FOLDER / f"pages/{page}.html", directory)
    return directory


@contextmanager
def serving(directory: Path, stub: StubN8n) -> Iterator[str]:
    """Serve the pages and yield their origin."""
    server = PageServer(directory, stub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.origin
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Origins:
    """Two sites with the same pages, and the gateway that lets in those of the first."""

    allowed: str
    foreign: str
    dev: RunningDev


@pytest.fixture(scope="module")
def origins(
    chromium: str, site: Path, stub_n8n: StubN8n, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Origins]:
    assert chromium
    with serving(site, stub_n8n) as allowed, serving(site, stub_n8n) as foreign:
        directory = tmp_path_factory.mktemp("dev")
        dev = start_dev(directory, "--n8n-url", stub_n8n.url, "--cors-origin", allowed)
        yield Origins(allowed, foreign, dev)
        stop_dev(dev)


@pytest.fixture(scope="module")
def workflows(origins: Origins) -> dict[str, str]:
    ids = {}
    for webhook in WEBHOOKS:
        workflow = {"name": f"browser {webhook}", "webhook_path": webhook, "credits_per_execution": 1}
        url = f"{origins.dev.ready['http_url']}/api/v1/workflows"
        answer = httpx.post(url, json=workflow, headers=origins.dev.bearer)
        ids[webhook] = answer.raise_for_status().json()["id"]
    return ids


@pytest.fixture
def visit(
    chromium: str, tools: Path, origins: Origins, workflows: dict[str, str], stub_n8n: StubN8n, tmp_path: Path
) -> Iterator[Any]:
    """Opens a page of a site, and returns what it saw."""
    assert tools

    def opened(origin: str, page: str) -> Any:
        ready = origins.dev.ready
        given = {"url": ready["http_url"], "token": ready["token"], "workflows": workflows}
        visits = [{"page": f"{origin}/{page}.html", "arguments": given}]
        order = {"chromium": chromium, "profile": str(tmp_path / "profile"), "visits": visits}
        done = subprocess.run(
            ["node", str(FOLDER / "drive.js")],
            input=json.dumps(order),
            check=False,
            capture_output=True,
            text=True,
            timeout=DRIVE_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)[0]

    stub_n8n.close_gate()
    yield opened
    stub_n8n.close_gate()


@pytest.mark.parametrize("page", PAGES)
def test_page_of_an_allowed_origin(visit: Any, origins: Origins, page: str) -> None:
    seen = visit(origins.allowed, page)
    executed = seen["executed"]["value"]
    assert (executed["success"], executed["status"], executed["creditsUsed"]) == (True, "completed", 1)
    assert executed["data"]["echo"] == {"message": "hello ☃"}

    streamed = seen["streamed"]["value"]
    assert streamed["texts"] == ["first!", "second!"]
    assert (streamed["kinds"][0], streamed["kinds"][-1]) == ("started", "completed")

    refused = seen["refused"]["error"]
    assert (refused["code"], refused["domain"]) == ("InvalidArgument", "n8n-gateway")
    assert refused["reason"]
    assert [violation["field"] for violation in refused["fieldViolations"]] == ["workflow_id"]
    assert refused["requestId"]

    assert seen["failed"]["error"]["reason"] == "WORKFLOW_FAILED"


@pytest.mark.parametrize("page", PAGES)
def test_page_of_a_foreign_origin(visit: Any, origins: Origins, stub_n8n: StubN8n, page: str) -> None:
    before = stub_n8n.calls.copy()
    seen = visit(origins.foreign, page)
    assert [(told["error"]["code"], told["error"]["reason"]) for told in seen.values()] == [
        ("Unknown", "")
    ] * 4
    assert {"Failed to fetch"} == {told["error"]["message"] for told in seen.values()}
    assert stub_n8n.calls == before
