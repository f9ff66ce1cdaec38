"""The clients that have to be built before they can be tried, where their toolchains are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from proto.toolchains import MissingToolchainError, find, go_install, npm_install

ROOT = Path(__file__).resolve().parents[2]
TYPESCRIPT = ROOT / "clients/typescript"
GO = ROOT / "clients/go"


def build_typescript() -> Path:
    """Build the TypeScript client, its example and its tests, and return its folder; or skip, saying why."""
    try:
        compiler = npm_install(TYPESCRIPT) / ".bin/tsc"
    except MissingToolchainError as missing:
        pytest.skip(f"the TypeScript client is not tried: {missing}")
    built = run([str(compiler), "--build"], TYPESCRIPT)
    assert built.returncode == 0, built.stdout
    return TYPESCRIPT


def build_go_example(directory: Path) -> Path:
    """Build the Go client's example into `directory` and return it; or skip, saying why."""
    try:
        go_install(GO, directory, "./examples/execute")
    except MissingToolchainError as missing:
        pytest.skip(f"the Go client is not tried: {missing}")
    return directory / "execute"


def run(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command, whose path may be that of a tool on PATH, in a directory."""
    return subprocess.run(
        [find(command[0]), *command[1:]], cwd=directory, check=False, capture_output=True, text=True
    )
