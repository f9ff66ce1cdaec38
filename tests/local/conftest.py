from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import asyncpg
import pytest

import gateway
from gateway.local.postgres import LocalPostgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

ROOT = Path(gateway.__file__).parents[1]
PROGRAM = Path(__file__).with_name("hold_stack.py")
PATIENCE = 90.0
"""Seconds after which a test gives up waiting for what should have happened."""


class Watch:
    """Processes that are to end. Holds a descriptor of each, so that no id can come to mean another."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._descriptors = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._descriptors[pid] = os.pidfd_open(pid)

    def __len__(self) -> int:
        return len(self._descriptors)

    async def left(self) -> list[int]:
        """Wait until all have ended, zombies included; return those that have not after a while."""
        return await asyncio.to_thread(self._left)

    def _left(self) -> list[int]:
        left = [
            pid for pid, item in self._descriptors.items() if not select.select([item], [], [], PATIENCE)[0]
        ]
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        return left


class Holder:
    """A process that holds a stack on a data directory."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.urls: dict[str, str] = {}

    async def until(self, part: str, state: str) -> None:
        """Wait until a part is in that state."""
        while await self._read() != [part, state]:
            pass

    async def until_up(self) -> None:
        """Wait until all parts answer."""
        while not isinstance(message := await self._read(), dict):
            pass
        self.urls = message

    async def end(self) -> tuple[int, str]:
        """Wait for its end; return its status and what it wrote to its standard error."""
        async with asyncio.timeout(PATIENCE):
            _, errors = await self.process.communicate()
        return cast("int", self.process.returncode), errors.decode()

    def watch(self) -> Watch:
        """Watch it and everything that it started."""
        return Watch({self.process.pid} | descendants(self.process.pid))

    async def _read(self) -> object:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await self.process.stdout.readline()
        if not line:
            status, errors = await self.end()
            pytest.fail(f"the stack did not start, status {status}: {errors}")
        return json.loads(line)


@pytest.fixture
async def hold() -> AsyncIterator[Callable[..., Awaitable[Holder]]]:
    """Start a process that holds a stack on a data directory.

    `before` is a command to run it by, other options are those of subprocess.Popen.
    """
    holders: list[Holder] = []

    async def start(
        data_dir: Path,
        *,
        before: Iterable[str] = (),
        python: str = sys.executable,
        **options: object,
    ) -> Holder:
        process = await asyncio.create_subprocess_exec(
            *(*before, python, str(PROGRAM), str(data_dir)),
            env={"PATH": os.environ["PATH"], "PYTHONPATH": python_path()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            **cast("dict[str, Any]", options),
        )
        holders.append(Holder(process))
        return holders[-1]

    yield start
    for holder in holders:
        with contextlib.suppress(ProcessLookupError):
            holder.process.kill()
        await holder.end()


@pytest.fixture(scope="session")
def _first_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("first-start")

    async def start_and_stop() -> None:
        async with LocalPostgres(data_dir):
            pass

    asyncio.run(start_and_stop())
    return data_dir


@pytest.fixture
def data_dir(tmp_path: Path, _first_start: Path) -> Path:
    """Return a data directory as a first start leaves it, with a long name that asks for quoting."""
    path = tmp_path / ('it\'s "data" é' + 100 * "x")
    shutil.copytree(_first_start, path)
    return path


@pytest.fixture
def sql() -> Callable[..., Awaitable[object]]:
    """Run statements on the database of a URL, and return the first value of the last one."""

    async def run(url: str, *statements: str) -> object:
        connection = await asyncpg.connect(url)
        try:
            value = None
            for statement in statements:
                value = await connection.fetchval(statement)
            return value
        finally:
            await connection.close()

    return run


@pytest.fixture
def processes_in() -> Callable[[Path], set[int]]:
    """Find the processes that work in a directory or below."""

    def find(directory: Path) -> set[int]:
        found = set()
        for pid in _pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cwd").readlink().is_relative_to(directory):
                    found.add(pid)
        return found

    return find


def python_path() -> str:
    return os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry.endswith("site-packages"))])


def descendants(pid: int) -> set[int]:
    children: dict[int, set[int]] = {}
    for child in _pids():
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, set()).add(child)
    found: set[int] = set()
    unvisited = [pid]
    while unvisited:
        new = children.get(unvisited.pop(), set())
        found |= new
        unvisited += new
    return found


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").glob("[1-9]*"))
