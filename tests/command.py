"""The command as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt

from tests.conftest import RunningDev
from tests.forked import SECONDS, forked

ROOT = Path(__file__).parents[1]


_SERVERS = ("dev", "serve")
"""They import much more than the others, and start processes themselves."""


def run(*arguments: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in an environment that holds nothing else."""
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT), **environment
    }  # fmt: skip
    if arguments[0] not in _SERVERS:
        ended = forked(*arguments, directory=directory, environment=environment)
        return subprocess.CompletedProcess(
            ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
        )
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def complaint(ended: subprocess.CompletedProcess[str]) -> str:
    """What a command that failed tells its user, which is no traceback."""
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    _, _, text = ended.stderr.partition("error: ")
    assert text
    return text


def environment_of(dev: RunningDev, n8n_url: str) -> dict[str, str]:
    """What `serve` is told to stand on the parts of a `dev`."""
    issuer = jwt.decode(dev.ready["token"], options={"verify_signature": False})["iss"]
    return {
        "ENVIRONMENT": "staging",  # for the database's superuser
        "DATABASE_URL": dev.ready["database_url"],
        "REDIS_URL": dev.ready["redis_url"],
        "CLERK_JWT_ISSUER": issuer,
        "CLERK_JWKS_URL": f"{issuer}/.well-known/jwks.json",
        "N8N_BASE_URL": n8n_url,
        "N8N_INTERNAL_AUTH_SECRET": "s" * 64,
        "VAULT_KEY": dev.ready["settings"]["VAULT_KEY"],
        "HTTP_PORT": "0",
        "GRPC_PORT": "0",
    }


@contextlib.contextmanager
def serving(
    directory: Path, environment: dict[str, str], *options: str
) -> Iterator[tuple[subprocess.Popen[str], Any, Any]]:
    """A `serve`, the lines of its log, and the one that tells its ports."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "serve", *options],
        cwd=directory,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | environment,
    )
    assert process.stderr is not None
    lines = map(json.loads, process.stderr)
    try:
        yield process, lines, next(line for line in lines if line["event"] == "serving")
    finally:
        process.kill()
        process.wait()
