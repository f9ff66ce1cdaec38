"""Node and Go packages, fetched by their own package managers into directories that git ignores."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

OLDEST_NODE = 20
_FETCH_SECONDS = 300
_NPM_OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retry-mintimeout=1000")
_SHOWN_LINES = 4


class MissingToolchainError(Exception):
    """What is needed is not on this machine and cannot be fetched; the message says why."""


def npm_install(directory: Path) -> Path:
    """Install what package-lock.json in `directory` says, unless it is there, and return node_modules.

    Raises MissingToolchainError where node or npm is absent or too old, or the packages cannot be fetched.
    """
    lock = directory / "package-lock.json"
    modules = directory / "node_modules"
    stamp = modules / ".installed"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    npm = _npm()
    with (directory / "package.json").open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != wanted:
            _run([npm, "ci", *_NPM_OPTIONS], directory)
            stamp.write_text(wanted)
    return modules


def go_install(module: Path, bin_directory: Path, *commands: str) -> None:
    """Build `commands` at the versions that go.mod in `module` requires into `bin_directory`.

    Raises MissingToolchainError where Go is absent or the modules cannot be fetched.
    """
    _run([find("go"), "install", *commands], module, GOBIN=str(bin_directory))


def find(command: str) -> str:
    """Return the path of a command; raise MissingToolchainError where there is none."""
    path = shutil.which(command)
    if path is None:
        raise MissingToolchainError(f"{command} is not installed")
    return path


def _npm() -> str:
    command = [find("node"), "--version"]
    version = subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
    major = version.removeprefix("v").partition(".")[0]
    if not major.isdecimal() or int(major) < OLDEST_NODE:
        raise MissingToolchainError(f"node {OLDEST_NODE} or newer is needed, not {version}")
    return find("npm")


def _run(command: list[str], directory: Path, **environment: str) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, **environment},
            check=False,
            capture_output=True,
            text=True,
            timeout=_FETCH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        problem = f"no end after {_FETCH_SECONDS} s"
    else:
        if done.returncode == 0:
            return
        told = [line for line in done.stderr.splitlines() if not line.startswith("npm warn")]
        problem = "; ".join(told[:_SHOWN_LINES])
    raise MissingToolchainError(f"{Path(command[0]).name} {command[1]} failed: {problem}")
