"""The command in a process that is forked from one that has imported it.

Its imports are most of what a command that only reads and writes takes of a machine. Each still has a process
of its own, with its environment, directory, standard streams and exit status.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SECONDS = 150
"""Enough on a machine that is busy with much else; a test has 180."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["gateway.cli", __name__])


def forked(
    *arguments: str, directory: Path, environment: Mapping[str, str], body: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end, with `body` on its standard input. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryDirectory() as streams:
        files = [Path(streams, name) for name in ("input", "output", "errors")]
        files[0].write_bytes(body)
        process = _CONTEXT.Process(target=_command, args=(arguments, directory, environment, files))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, SECONDS)
        _, output, errors = (file.read_bytes() for file in files)
        return subprocess.CompletedProcess(arguments, process.exitcode, output, errors)


def _command(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str], files: Sequence[Path]
) -> None:
    from gateway.__main__ import main  # noqa: PLC0415 - not where the tests run

    for descriptor, file in enumerate(files):
        opened = os.open(file, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing has closed it
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["n8n-gateway", *arguments]
    main()
