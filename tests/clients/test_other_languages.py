"""docs/clients.md: code for another language, as the page says it, with a plugin that is at hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/clients.md").read_text()
PROTOS = sorted(path.stem for path in (ROOT / "proto/n8ngateway/v1").glob("*.proto"))

pytest.importorskip("grpc_tools", reason="the code generators are not installed")


def run(command: list[str] | str) -> None:
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=ROOT,
        env=os.environ | {"PATH": search},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_buf(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert found
    template = found[1].replace("protoc_builtin: ruby", "local: protoc-gen-py")
    path = tmp_path / "buf.gen.yaml"
    path.write_text(template.replace("out: generated", f"out: {tmp_path / 'out'}"))
    run(["buf", "generate", "--template", str(path)])
    generated = {file.stem for file in tmp_path.glob("out/n8ngateway/v1/*_pb.py")}
    assert generated == {f"{name}_pb" for name in PROTOS}


def test_protoc(tmp_path: Path) -> None:
    found = re.search(r"^    protoc (.*?)\n\n", PAGE, re.DOTALL | re.MULTILINE)
    assert found
    arguments = found[1].replace("--ruby_out=generated", f"--python_out={tmp_path}")
    run(f"{sys.executable} -m grpc_tools.protoc {arguments}")
    generated = {file.stem for file in tmp_path.glob("n8ngateway/v1/*_pb2.py")}
    assert generated == {f"{name}_pb2" for name in PROTOS}
