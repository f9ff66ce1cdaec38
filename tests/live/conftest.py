"""A real n8n for the tests of this directory, which run with `--live-n8n` only."""

from __future__ import annotations

import secrets
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.conftest import RunningDev, start_dev, stop_dev
from tests.live import n8n_install, n8n_server, workflows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_OPTION = "--live-n8n"


@dataclass(frozen=True)
class LiveN8n:
    """A running n8n with the workflows of `tests/live/workflows.py` in it."""

    base_url: str
    api_key: str = field(repr=False)
    internal_secret: str = field(repr=False)
    workflow_ids: Mapping[str, str]
    """n8n's id of each workflow by its webhook path."""
    data: Path
    """Where n8n keeps all that it stores: its database, binary data, its log."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that lets the live tests run."""
    parser.addoption(
        _OPTION,
        action="store_true",
        help=f"start a real n8n {n8n_install.N8N_VERSION}, after installing it the first time (2.4 GB)",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a real n8n unless one was asked for."""
    # A run that names other directories reads this file too late for the option to be known.
    if not item.config.getoption(_OPTION, default=False):
        pytest.skip(f"needs a real n8n: make test-n8n, or pytest tests/live {_OPTION}")


@pytest.fixture(scope="session")
def progress(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say on the terminal what takes minutes, past pytest's capturing."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None

    def report(line: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"\n{line}")
            sys.stdout.flush()

    return report


@pytest.fixture(scope="session")
def n8n_installation(progress: Callable[[str], None]) -> n8n_install.Installation:
    """Have the real n8n's files, installed now if this is the first time."""
    return n8n_install.install(n8n_install.default_directory(), progress)


@pytest.fixture(scope="session", autouse=True)
def _terminated_as_interrupted() -> Iterator[None]:
    """On SIGTERM end as on Ctrl-C, so that the fixtures stop the processes they started."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def n8n(
    n8n_installation: n8n_install.Installation,
    tmp_path_factory: pytest.TempPathFactory,
    progress: Callable[[str], None],
) -> Iterator[LiveN8n]:
    """Start n8n with an empty database, an owner and every workflow of the live tests."""
    data = tmp_path_factory.mktemp("n8n")
    with n8n_server.started(n8n_installation, data) as server:
        progress(f"starting n8n {n8n_install.N8N_VERSION} on {server.base_url}")
        server.wait_until_ready()
        api_key = n8n_server.create_owner(server.base_url)
        internal_secret = secrets.token_hex(32)
        with workflows.N8nApi(server.base_url, api_key) as api:
            ids = workflows.create_all(api, internal_secret)
        yield LiveN8n(server.base_url, api_key, internal_secret, ids, data)


@pytest.fixture(scope="session")
def gateway(
    n8n: LiveN8n, tmp_path_factory: pytest.TempPathFactory, progress: Callable[[str], None]
) -> Iterator[RunningDev]:
    """Start the gateway in front of the real n8n."""
    progress("starting the gateway")
    environment = {"N8N_API_KEY": n8n.api_key, "N8N_INTERNAL_AUTH_SECRET": n8n.internal_secret}
    directory = tmp_path_factory.mktemp("gateway")
    running = start_dev(directory, "--n8n-url", n8n.base_url, environment=environment)
    try:
        yield running
    finally:
        stop_dev(running)
