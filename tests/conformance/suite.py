"""Runs the public Connect conformance suite against the doors: `python -m tests.conformance.suite`.

The suite is the Go module `connectrpc.com/conformance`. Go's own client fetches and
builds it into `.cache/conformance`; the descriptors of its service are compiled from
the protos that come with the module.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

MODULE = "connectrpc.com/conformance"
VERSION = "v1.0.7"

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "conformance" / VERSION


class SuiteUnavailableError(Exception):
    """The suite cannot be had on this machine; the message says why."""


@dataclass(frozen=True)
class Report:
    """How a run ended: the suite's exit status, its counts and its whole output."""

    status: int
    known: int
    total: int
    passed: int
    failed: int
    output: str

    def __str__(self) -> str:
        skipped = self.known - self.total
        outcome = f"{self.passed} passed, {self.failed} failed, {skipped} left out"
        return f"conformance {VERSION}: {self.total} cases run, {outcome}"


def fetch() -> tuple[Path, Path]:
    """The suite's program and the descriptors of its service, built where they are not yet.

    Raises SuiteUnavailableError.
    """
    program, descriptors = CACHE / "connectconformance", CACHE / "descriptors.binpb"
    if program.exists() and descriptors.exists():
        return program, descriptors
    if shutil.which("go") is None:
        raise SuiteUnavailableError("go is not on PATH")
    CACHE.mkdir(parents=True, exist_ok=True)
    module = json.loads(_go("mod", "download", "-json", f"{MODULE}@{VERSION}"))
    _go("install", f"{MODULE}/cmd/connectconformance@{VERSION}")
    _compile_protos(Path(module["Dir"]) / "proto", descriptors)
    return program, descriptors


def run(*arguments: str) -> Report:
    """Run the suite with the server of this directory. Raises SuiteUnavailableError."""
    program, descriptors = fetch()
    command = [str(program), "--mode", "server", "--conf", str(HERE / "config.yaml"), "-v"]
    command += ["--skip", f"@{HERE / 'skipped.txt'}", "--max-servers", "1", *arguments]
    with _listening(descriptors) as address:
        command += ["--", sys.executable, "-I", "-S", str(HERE / "launcher.py"), address]
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    return Report(
        status=done.returncode,
        known=_count(r"Computed (\d+) test case", done.stdout),
        total=_count(r"Total cases: (\d+)", done.stdout),
        passed=_count(r"(\d+) passed", done.stdout),
        failed=_count(r"(\d+) failed", done.stdout),
        output=done.stdout,
    )


@contextmanager
def _listening(descriptors: Path) -> Iterator[str]:
    """The server, and the address of the socket where it waits for launchers."""
    with tempfile.TemporaryDirectory() as directory:
        address = str(Path(directory, "socket"))
        command = [sys.executable, "-m", "tests.conformance.server", str(descriptors), address]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline(), "the server did not start"
                yield address
            finally:
                server.kill()


def _go(*arguments: str) -> str:
    environment = os.environ | {"GOBIN": str(CACHE), "GOFLAGS": "-mod=mod"}
    done = subprocess.run(
        ["go", *arguments], cwd=CACHE, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        problem = done.stderr.strip() or done.stdout.strip()
        raise SuiteUnavailableError(f"go {' '.join(arguments)}: {problem}")
    return done.stdout


def _compile_protos(source: Path, target: Path) -> None:
    protos = [str(path) for path in sorted(source.rglob("*.proto"))]
    includes = [f"-I{source}", f"-I{files('grpc_tools') / '_proto'}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes, "--include_imports"]
    subprocess.run([*command, f"--descriptor_set_out={target}", *protos], check=True)


def _count(pattern: str, output: str) -> int:
    match = re.search(pattern, output)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    try:
        report = run(*sys.argv[1:])
    except SuiteUnavailableError as error:
        sys.exit(f"The conformance suite cannot be had: {error}")
    reasons = [(HERE / name).read_text() for name in ("config.yaml", "skipped.txt")]
    print(report.output, *reasons, report, sep="\n")  # noqa: T201 (a command)
    sys.exit(report.status)
