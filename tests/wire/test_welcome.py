"""What `dev` prints to be pasted is pasted, and works."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RunningDev

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_printed_command_works(dev: RunningDev) -> None:
    printed = dev.log.read_text()
    commands = printed.partition("Paste into another terminal:")[2].partition("Ctrl-C stops")[0]
    assert commands.count("curl") >= 8
    script = commands.replace("curl -s", "echo; curl --fail-with-body -s")
    script = script.replace(".venv/bin/python", f"echo; {sys.executable}")
    script = script.replace(".venv/bin/n8n-gateway", f"echo; {sys.executable} -m gateway")
    # The one that is meant to fail is told by its comment; all others must succeed.
    before, _, after = script.partition("# a workflow that fails costs nothing")
    failing, _, rest = after.partition("# the same over Connect")
    assert failing.strip()
    assert rest.strip()
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{before}\n#{rest}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    answers = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith('{"success"')]
    assert len(answers) == 3
    assert all(answer["success"] for answer in answers)
