"""Installs a real n8n with npm into one directory: `python tests/live/n8n_install.py [DIR]`.

n8n wants a newer node than most machines carry, so node itself comes from npm too. Of everything n8n depends
on, only `sqlite3` has to be compiled; no other package's install script is run. A cold installation takes a
few minutes and about 2.4 GB; a finished one is recognised by its stamp and costs nothing.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

NODE_VERSION = "24.21.0"
N8N_VERSION = "2.41.1"
NODE_GYP_VERSION = "12.4.0"
# n8n asks for the newest linkedom, whose own dependency is not published everywhere.
LINKEDOM_VERSION = "0.18.12"

DIRECTORY_VARIABLE = "N8N_DIR"
NEEDED_COMMANDS = ("npm", "gcc", "g++", "make")

_QUIET_NPM = ("--no-audit", "--no-fund", "--loglevel", "error")
_N8N_SETTINGS = ("N8N_", "DB_", "EXECUTIONS_", "QUEUE_", "WEBHOOK_")
_HEARTBEAT_SECONDS = 20
_LOG_TAIL_LINES = 20


class InstallError(Exception):
    """n8n cannot be installed here; the message says what is missing or which log to read."""


@dataclass(frozen=True)
class Installation:
    """Where the parts of one finished installation lie."""

    root: Path

    @property
    def node(self) -> Path:
        """The node executable that runs n8n."""
        return self.root / "node" / "node_modules" / "node" / "bin" / "node"

    @property
    def n8n(self) -> Path:
        """n8n's entry script, to be run by `node`."""
        return self.root / "app" / "node_modules" / "n8n" / "bin" / "n8n"


def default_directory() -> Path:
    """`$N8N_DIR`, else `.n8n` in the root of the checkout."""
    configured = os.environ.get(DIRECTORY_VARIABLE)
    return Path(configured).resolve() if configured else Path(__file__).resolve().parents[2] / ".n8n"


def install(directory: Path, report: Callable[[str], None] = print) -> Installation:
    """Install n8n into `directory` unless it is there already; `report` receives one line per step.

    Two processes that install into the same directory do it one after the other. What an interrupted
    installation left is completed by the next one.

    Raises:
        InstallError: a needed command is missing or a step failed.

    """
    installation = Installation(directory)
    if _is_complete(installation):
        return installation
    _check_commands()
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / "install.lock"):
        if _is_complete(installation):
            return installation
        _drop_other_version(directory)
        report(f"installing n8n {N8N_VERSION} into {directory} (a few minutes, about 2.4 GB)")
        _install_node(installation, report)
        _install_packages(installation, report)
        _compile_sqlite(installation, report)
        _write_atomically(directory / "installed.json", _stamp())
    report(f"n8n {N8N_VERSION} is installed")
    return installation


def node_environment(installation: Installation) -> dict[str, str]:
    """Take this process's environment, put the installed node first on the path, leave n8n's settings out."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_N8N_SETTINGS)}
    path = f"{installation.node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**inherited, "PATH": path}


def _stamp() -> str:
    parts = {
        "n8n": N8N_VERSION,
        "linkedom": LINKEDOM_VERSION,
        "node": NODE_VERSION,
        "node-gyp": NODE_GYP_VERSION,
    }
    return json.dumps(parts)


def _is_complete(installation: Installation) -> bool:
    stamp = installation.root / "installed.json"
    return stamp.is_file() and stamp.read_text() == _stamp() and installation.n8n.is_file()


def _check_commands() -> None:
    missing = [command for command in NEEDED_COMMANDS if shutil.which(command) is None]
    if missing:
        message = (
            f"installing n8n needs {', '.join(missing)} on the PATH: npm fetches the packages, "
            "a C++ compiler and make build sqlite3 (on Debian: apt-get install npm build-essential)"
        )
        raise InstallError(message)


def _drop_other_version(directory: Path) -> None:
    stamp = directory / "installed.json"
    if stamp.is_file() and stamp.read_text() != _stamp():
        stamp.unlink()
        for part in ("node", "build", "app"):
            shutil.rmtree(directory / part, ignore_errors=True)


def _install_node(installation: Installation, report: Callable[[str], None]) -> None:
    if not installation.node.is_file():
        # The scripts of the package `node` choose the build for this machine, so they are run here.
        manifest = {"private": True, "dependencies": {"node": NODE_VERSION}}
        folder = _package_folder(installation.root / "node", manifest)
        _Step(f"node {NODE_VERSION}", ["npm", "install", *_QUIET_NPM], folder).run(report)
    if not _node_gyp(installation).is_file():
        # Not in node's folder: npm would take what the scripts there fetched for a leftover and remove it.
        manifest = {"private": True, "dependencies": {"node-gyp": NODE_GYP_VERSION}}
        folder = _package_folder(installation.root / "build", manifest)
        command = ["npm", "install", *_QUIET_NPM, "--ignore-scripts"]
        _Step(f"node-gyp {NODE_GYP_VERSION}", command, folder).run(report)


def _install_packages(installation: Installation, report: Callable[[str], None]) -> None:
    manifest = {
        "private": True,
        "dependencies": {"n8n": N8N_VERSION},
        "overrides": {"linkedom": LINKEDOM_VERSION},
    }
    folder = _package_folder(installation.root / "app", manifest)
    command = ["npm", "install", *_QUIET_NPM, "--ignore-scripts", "--legacy-peer-deps"]
    _Step(f"n8n {N8N_VERSION}", command, folder, node_environment(installation)).run(report)


def _compile_sqlite(installation: Installation, report: Callable[[str], None]) -> None:
    folder = installation.root / "app" / "node_modules" / "sqlite3"
    node, environment = str(installation.node), node_environment(installation)
    command = [
        node,
        str(_node_gyp(installation)),
        "rebuild",
        f"--nodedir={_node_headers(installation)}",
        f"--python={sys.executable}",
        f"--jobs={os.cpu_count() or 1}",
    ]
    _Step("sqlite3 (compiling)", command, folder, environment).run(report)
    _Step("sqlite3 (loading)", [node, "-e", "require('.')"], folder, environment).run(report)


def _node_gyp(installation: Installation) -> Path:
    return installation.root / "build" / "node_modules" / "node-gyp" / "bin" / "node-gyp.js"


def _node_headers(installation: Installation) -> Path:
    """Find the directory that node-gyp takes as `--nodedir`: the one that has include/node/node.h."""
    package = installation.root / "node" / "node_modules" / "node"
    header = next(package.glob("node_modules/*/include/node/node.h"), None)
    if header is None:
        message = f"no node headers below {package}: remove {installation.root} and install again"
        raise InstallError(message)
    return header.parents[2]


def _package_folder(folder: Path, manifest: Mapping[str, object]) -> Path:
    """Make the directory with this package.json for npm to install into."""
    folder.mkdir(exist_ok=True)
    _write_atomically(folder / "package.json", json.dumps(manifest))
    return folder


@dataclass(frozen=True)
class _Step:
    """A command of the installation; what it prints goes to `install.log` in its folder."""

    title: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] | None = None

    def run(self, report: Callable[[str], None]) -> None:
        """Run the command to its end, saying now and then that it is still at work."""
        report(f"  {self.title} ...")
        started = time.monotonic()
        log = self.folder / "install.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                while not _finished(process):
                    report(f"  {self.title} ... {time.monotonic() - started:.0f} s")
            finally:
                process.terminate()
                process.wait()
        if process.returncode != 0:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
            message = f"{self.title} ended with code {process.returncode}, see {log}\n{tail}"
            raise InstallError(message)


def _finished(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_HEARTBEAT_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def main() -> int:
    """Install into the directory named on the command line, else into the default one."""
    directory = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else default_directory()
    try:
        install(directory, functools.partial(print, flush=True))
    except InstallError as error:
        print(f"n8n is not installed: {error}", file=sys.stderr)  # noqa: T201 - the script's own message
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
