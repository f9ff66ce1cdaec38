"""Child processes that never outlive this one.

A child runs in a session of its own, so that Ctrl-C reaches only this process, which then stops its children
in order. If this process dies without stopping them, each gets its stop signal all the same (`launcher`); one
that is still at work, or ignored it, is found by the next start with `stop_orphans`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.local.errors import PartFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_LAUNCHER = Path(__file__).with_name("launcher.py")
_LOG_LINES = 20
_LOG_KEEP_BYTES = 1 << 20
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and how it wants to be treated.

    `command[0]` is an absolute path. `directory` is where it writes and its working directory. `stop_signals`
    are sent one after the other, each with `grace` seconds to end, before SIGKILL; the first is also the one
    it gets if this process dies. `unprivileged` programs refuse to run as root.
    """

    command: tuple[str, ...]
    directory: Path
    log: Path
    stop_signals: tuple[signal.Signals, ...] = (signal.SIGTERM,)
    grace: float = 10
    unprivileged: bool = False


class Process:
    """A running child."""

    def __init__(self, program: Program, child: asyncio.subprocess.Process, log_start: int) -> None:
        self._program = program
        self._child = child
        self._log_start = log_start

    @classmethod
    async def start(cls, program: Program) -> Process:
        """Start the program; output goes to its log, the environment is empty but for PATH and the C locale.

        None of this process's settings reach it, so no secret shows in its environment.
        """
        arguments = [
            sys.executable,
            *("-I", "-S", str(_LAUNCHER)),
            str(int(program.stop_signals[0])),
            str(os.getpid()),
            "nobody" if program.unprivileged and _needs_another_user() else "same",
            str(program.directory),
            "--",
            *program.command,
        ]
        log = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            log_start = os.fstat(log).st_size
            child = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=program.directory,
                env=_environment(),
                start_new_session=True,
            )
        finally:
            os.close(log)
        return cls(program, child, log_start)

    @property
    def pid(self) -> int:
        """Process id of the program itself."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._child.returncode

    async def wait(self) -> int:
        """Wait for the end and return the exit status."""
        return await self._child.wait()

    async def stop(self) -> None:
        """End the process and wait until it is gone."""
        for number in (*self._program.stop_signals, signal.SIGKILL):
            if self._child.returncode is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._child.wait(), self._program.grace)

    def log_tail(self) -> str:
        """Return the last lines that this run wrote to its log."""
        with contextlib.suppress(OSError), self._program.log.open("rb") as file:
            file.seek(self._log_start)
            return "\n".join(file.read().decode(errors="replace").splitlines()[-_LOG_LINES:])
        return ""


async def run(program: Program) -> None:
    """Run the program to its end; raise PartFailed with its last log lines unless it ends with status 0."""
    process = await Process.start(program)
    try:
        status = await process.wait()
    finally:
        await process.stop()
    if status != 0:
        name = Path(program.command[0]).name
        msg = f"{name} ended with {describe(status)}; its last words, from {program.log}:"
        raise PartFailed(msg, process.log_tail())


def describe(status: int) -> str:
    """Say an exit status in words."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def rotate(log: Path) -> None:
    """Set a log aside once it is large; one earlier file is kept."""
    if log.exists() and log.stat().st_size > _LOG_KEEP_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))


async def stop_orphans(
    directory: Path, program: str, stop_signals: Sequence[signal.Signals], grace: float
) -> None:
    """End every process named `program` that works in `directory`.

    For the holder of the directory's lock only: to nobody else are they orphans. Sees processes through
    /proc; on systems without it, does nothing.
    """
    for number in (*stop_signals, signal.SIGKILL):
        pids = list(_working_in(directory, program))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while pids := list(_working_in(directory, program)):  # noqa: ASYNC110 - they tell us nothing
                    await asyncio.sleep(_POLL_SECONDS)
        if not pids:
            return


def _working_in(directory: Path, program: str) -> Iterator[int]:
    for entry in Path("/proc").glob("[1-9]*"):
        # Processes of others, and ones that end meanwhile (a zombie has neither link), are none of ours.
        with contextlib.suppress(OSError):
            executable = (entry / "exe").readlink().name.removesuffix(" (deleted)")
            if executable == program and (entry / "cwd").readlink() == directory.resolve():
                yield int(entry.name)


def is_surely_not_in(directory: Path, pid: int) -> bool:
    """Whether a process of that id exists, and is a zombie or works elsewhere; False if in doubt."""
    process = Path("/proc", str(pid))
    try:
        # proc_pid_stat(5): the state follows the name, which is in parentheses and may have some in it.
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        return state in {"Z", "X"} or (process / "cwd").readlink() != directory.resolve()
    except OSError:
        return False


def _needs_another_user() -> bool:
    """Whether this user is root, or one that has no name, as containers like to make them."""
    uid = os.geteuid()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return True
    return uid == 0


def _environment() -> Mapping[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
