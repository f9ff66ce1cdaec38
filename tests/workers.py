"""A pytest plugin: how `--numprocesses` spreads the tests over processes, each with a stack of its own."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/replicas",)
"""Directories whose files share what takes long to start."""
FIRST = ("tests/conformance", "tests/faults", "tests/replicas", "tests/test_cli.py", "tests/wire")
"""What takes longest, so that no process is left with it while the others have nothing to do any more."""


class ByFile(LoadScopeScheduling):
    """Gives each process one file after another, and never a part of one: fixtures may be a module's."""

    def _split_scope(self, nodeid: str) -> str:
        file = PurePosixPath(nodeid.partition("::")[0])
        return next((folder for folder in TOGETHER if file.is_relative_to(folder)), str(file))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """In the order of the collection, which is the longest first."""
    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest first where several processes take turns."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(FIRST))
