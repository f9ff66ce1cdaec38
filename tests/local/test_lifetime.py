"""However the process that holds a stack ends, nothing of the stack is left, and the next start works."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Hold = Callable[..., Awaitable["Holder"]]
    Sql = Callable[..., Awaitable[object]]
    ProcessesIn = Callable[[Path], set[int]]

    from typing import Protocol

    class Watch(Protocol):
        def __len__(self) -> int: ...
        async def left(self) -> list[int]: ...

    class Holder(Protocol):
        process: subprocess.Popen[bytes]
        urls: dict[str, str]

        async def until(self, part: str, state: str) -> None: ...
        async def until_up(self) -> None: ...
        async def end(self) -> tuple[int, str]: ...
        def watch(self) -> Watch: ...


NOBODY = 65534
AS_NOBODY = Path(__file__).with_name("as_nobody.py")
WITHOUT_NAMESPACES = Path(__file__).with_name("without_user_namespaces.py")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Make a directory that every user can reach: pytest's own are private."""
    path = Path(tempfile.mkdtemp(prefix="stack-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_told_to_stop_it_leaves_no_process(data_dir: Path, hold: Hold, number: signal.Signals) -> None:
    holder = await hold(data_dir)
    await holder.until_up()
    watch = holder.watch()
    assert len(watch) > 2
    # As a terminal does on Ctrl-C: the whole group gets it.
    os.killpg(holder.process.pid, number)
    assert await holder.end() == (0, "")
    assert await watch.left() == []
    assert "database system is shut down" in (data_dir / "postgres.log").read_text()


async def test_killed_it_leaves_no_process_and_the_next_start_recovers(
    data_dir: Path, hold: Hold, sql: Sql
) -> None:
    holder = await hold(data_dir)
    await holder.until_up()
    await sql(holder.urls["database_url"], "create table kept ()")
    watch = holder.watch()
    holder.process.kill()
    # Not waiting for the servers, which are on their way down now.
    again = await hold(data_dir)
    await again.until_up()
    assert await watch.left() == []
    assert again.urls == holder.urls
    assert await sql(again.urls["database_url"], "select to_regclass('kept') is not null") is True


async def test_killed_with_its_servers_the_next_start_recovers(
    data_dir: Path, hold: Hold, sql: Sql, processes_in: ProcessesIn
) -> None:
    holder = await hold(data_dir)
    await holder.until_up()
    await sql(holder.urls["database_url"], "create table kept ()")
    for pid in (holder.process.pid, *processes_in(data_dir)):
        with contextlib.suppress(ProcessLookupError):  # servers go with the process that started them
            os.kill(pid, signal.SIGKILL)
    assert (data_dir / "postgres" / "postmaster.pid").exists()
    again = await hold(data_dir)
    await again.until_up()
    assert await sql(again.urls["database_url"], "select to_regclass('kept') is not null") is True


async def test_a_pid_file_that_names_some_other_process_is_no_obstacle(data_dir: Path, hold: Hold) -> None:
    holder = await hold(data_dir)
    await holder.until_up()
    pid_file = data_dir / "postgres" / "postmaster.pid"
    left_over = pid_file.read_text().splitlines()
    holder.process.terminate()
    await holder.end()
    # As after a restart of the machine, where the old id is somebody else's.
    pid_file.write_text("\n".join([str(os.getpid()), *left_over[1:]]) + "\n")
    again = await hold(data_dir)
    await again.until_up()


async def test_servers_that_outlived_their_parent_are_stopped_by_the_next_start(
    data_dir: Path, hold: Hold, processes_in: ProcessesIn
) -> None:
    holder = await hold(data_dir)
    await holder.until_up()
    servers = processes_in(data_dir)
    # Stopped processes take no signal but SIGKILL until they are continued.
    for pid in servers:
        os.kill(pid, signal.SIGSTOP)
    watch = holder.watch()
    holder.process.kill()
    await holder.end()
    assert processes_in(data_dir) == servers
    for pid in servers:
        os.kill(pid, signal.SIGCONT)
    again = await hold(data_dir)
    await again.until_up()
    assert await watch.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_a_first_start_that_was_cut_short_is_done_again(
    tmp_path: Path, hold: Hold, number: signal.Signals
) -> None:
    holder = await hold(tmp_path)
    await holder.until("postgres", "initialising")
    watch = holder.watch()
    os.killpg(holder.process.pid, number)
    await holder.end()
    assert await watch.left() == []
    again = await hold(tmp_path)
    await again.until_up()


async def test_a_directory_in_use_by_another_process_is_refused_by_its_id(data_dir: Path, hold: Hold) -> None:
    holder = await hold(data_dir)
    await holder.until_up()
    status, errors = await (await hold(data_dir)).end()
    assert status == 1
    assert f"{data_dir} is in use by process {holder.process.pid}" in errors


@root_only
async def test_it_runs_for_an_ordinary_user(open_directory: Path, hold: Hold) -> None:
    python = interpreter_for_everybody()
    os.chown(open_directory, NOBODY, NOBODY)
    before = (sys.executable, str(AS_NOBODY))
    holder = await hold(open_directory / "data", before=before, python=python, cwd=open_directory)
    await holder.until_up()
    watch = holder.watch()
    assert owners(open_directory / "data") == {NOBODY}
    holder.process.terminate()
    assert await holder.end() == (0, "")
    assert await watch.left() == []


@root_only
async def test_it_runs_for_root_where_no_user_namespace_can_be_made(
    data_dir: Path, hold: Hold, processes_in: ProcessesIn
) -> None:
    before = (sys.executable, str(WITHOUT_NAMESPACES))
    holder = await hold(data_dir, before=before)
    await holder.until_up()
    servers = processes_in(data_dir / "postgres")
    assert {user_of(pid) for pid in servers} == {NOBODY}
    watch = holder.watch()
    # The holder dies with it, and then its servers.
    holder.process.kill()
    assert await watch.left() == []
    # The files go back to root where a namespace can be made.
    again = await hold(data_dir)
    await again.until_up()
    assert owners(data_dir) == {0}


def owners(directory: Path) -> set[int]:
    return {path.stat().st_uid for path in (directory, *directory.rglob("*"))}


def user_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def interpreter_for_everybody() -> str:
    """Find an interpreter of this version that other users can run, too."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            subprocess.run(
                [sys.executable, str(AS_NOBODY), candidate, "-c", "import gateway.local.stack"],
                env={"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    pytest.skip(f"no {version} here that an ordinary user could run with the packages of {sys.prefix}")
