from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 150


@pytest.mark.parametrize("loader", ["bundled", "found"])
def test_rows_of_the_gateway_run(tmp_path: Path, loader: str) -> None:
    results, chart = tmp_path / "results.json", tmp_path / "chart.svg"
    command = [sys.executable, "-m", "tests.bench", "--rounds", "1", "--seconds", "1"]
    command += ["--only", "REST: n8n-gateway", "--only", "stream, gRPC: n8n-gateway"]
    command += ["--only", "execute: n8n-gateway", "--only", "execute, stream: n8n-gateway"]
    command += ["--json", str(results), "--chart", str(chart)]
    command += ["--loader", "bundled"] if loader == "bundled" else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["group"]: row["calls_per_second"] for row in json.loads(results.read_text())["rows"]}
    assert rows["REST"] > 0
    assert rows["stream, gRPC"] > 0
    assert chart.read_text().startswith("<svg")
    assert "n8n-gateway" in done.stdout
