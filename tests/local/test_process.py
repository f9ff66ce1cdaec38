from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.local import launcher
from gateway.local.errors import PartFailed
from gateway.local.process import Process, Program, is_surely_not_in, rotate, run, stop_orphans

SHELL = "/bin/bash"
DEAF = "trap '' TERM; echo deaf; while :; do read -t 60 <> <(:); done"
"""A shell script that says when it has begun to ignore SIGTERM."""


def shell(tmp_path: Path, script: str) -> Program:
    return Program((SHELL, "-c", script), directory=tmp_path, log=tmp_path / "log", grace=0.2)


async def says(program: Program, words: str) -> str:
    """Wait until the words are in the program's log; return all that it said."""

    def read() -> str:
        for _ in range(3000):
            if program.log.exists() and words in (said := program.log.read_text()):
                return said
            time.sleep(0.01)
        pytest.fail(f"{program} never said {words}")

    return await asyncio.to_thread(read)


async def test_it_works_in_its_directory_without_this_processs_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    program = shell(tmp_path, "pwd; env; umask")
    await run(program)
    log = program.log.read_text()
    assert str(tmp_path) in log
    assert "DATABASE_URL" not in log
    assert log.splitlines()[-1] == "0077"


async def test_a_failure_has_the_last_lines_of_this_run(tmp_path: Path) -> None:
    await run(shell(tmp_path, "echo earlier run"))
    with pytest.raises(PartFailed, match="bash ended with status 3") as failure:
        await run(shell(tmp_path, "for n in {1..100}; do echo line $n; done; exit 3"))
    assert failure.value.log.splitlines() == [f"line {n}" for n in range(81, 101)]


async def test_a_program_that_does_not_exist_is_a_failure_too(tmp_path: Path) -> None:
    program = Program(("/nowhere/server",), directory=tmp_path, log=tmp_path / "log")
    with pytest.raises(PartFailed, match="No such file or directory"):
        await run(program)


async def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    program = shell(tmp_path, DEAF)
    process = await Process.start(program)
    await says(program, "deaf")
    await process.stop()
    assert process.returncode == -signal.SIGKILL
    await process.stop()


async def test_cancelling_a_run_ends_it(tmp_path: Path) -> None:
    program = shell(tmp_path, "echo $$; read -t 60 <> <(:)")
    task = asyncio.create_task(run(program))
    pid = int(await says(program, "\n"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_orphans_are_found_by_program_and_directory(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    processes = []
    for directory in (here, elsewhere):
        directory.mkdir()
        program = shell(directory, DEAF)
        processes.append(await Process.start(program))
        await says(program, "deaf")
    await stop_orphans(here, "sleep", [signal.SIGTERM], 0.2)
    assert processes[0].returncode is None
    await stop_orphans(here, "bash", [signal.SIGTERM], 0.2)
    assert await processes[0].wait() == -signal.SIGKILL
    assert processes[1].returncode is None
    await processes[1].stop()


def test_what_a_process_id_stands_for(tmp_path: Path) -> None:
    zombie = subprocess.Popen([sys.executable, "-c", ""], cwd=tmp_path)
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    assert is_surely_not_in(tmp_path, zombie.pid)
    zombie.wait()
    assert not is_surely_not_in(tmp_path, zombie.pid)
    assert is_surely_not_in(tmp_path, os.getpid())
    assert not is_surely_not_in(Path.cwd(), os.getpid())


def test_a_long_log_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rotate(log)
    log.write_bytes(b"x" * 1000)
    rotate(log)
    assert log.exists()
    log.write_bytes(b"x" * (2 << 20))
    rotate(log)
    assert [path.name for path in tmp_path.iterdir()] == ["log.1"]


def launch(parent: int, tmp_path: Path) -> subprocess.CompletedProcess[bytes]:
    arguments = ["15", str(parent), "same", str(tmp_path), "--", SHELL, "-c", "echo ran"]
    return subprocess.run(
        [sys.executable, "-I", "-S", launcher.__file__, *arguments], capture_output=True, check=False
    )


def test_the_launcher_runs_nothing_for_a_parent_that_is_gone(tmp_path: Path) -> None:
    assert launch(os.getpid(), tmp_path).stdout == b"ran\n"
    orphaned = launch(os.getppid(), tmp_path)
    assert orphaned.stdout == b""
    assert orphaned.stderr == b"the parent is gone\n"
    assert orphaned.returncode == 1


def test_where_the_kernel_does_not_the_launcher_watches_the_parent() -> None:
    parent = subprocess.Popen([SHELL, "-c", "read -t 60 <> <(:)"])
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(launcher.__file__).parent)!r})
import launcher
launcher.watch({parent.pid}, {int(signal.SIGTERM)})
os.execv({SHELL!r}, [{SHELL!r}, "-c", "echo up; read -t 60 <> <(:)"])
"""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        assert child.poll() is None
        parent.kill()
        parent.wait()
        assert child.wait(timeout=30) == -signal.SIGTERM
        # The watcher holds the pipe: its end is the pipe's.
        assert child.stdout.read() == b""
