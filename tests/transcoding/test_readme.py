"""The example of the README, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

import gateway.transcoding
from tests.transcoding.compiling import compile_proto
from tests.transcoding.server import serve

README = Path(gateway.transcoding.__file__).parent / "README.md"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


async def test_the_example_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = tmp_path / "greeter.proto"
    proto.write_text(block("proto"))
    (tmp_path / "greeter.binpb").write_bytes(compile_proto(proto))
    monkeypatch.chdir(tmp_path)
    module: dict[str, Any] = {}
    exec(compile(block("python"), str(README), "exec"), module)
    async with serve(module["app"]) as server, httpx.AsyncClient(base_url=server.url) as client:
        shown = re.findall(r"^\$ curl (.*)\n(.*)$", block("console"), re.MULTILINE)
        assert len(shown) == 3
        for command, first_line in shown:
            accept = re.search(r"Accept: ([^']*)", command)
            target = re.search(r"localhost:8000([^']*)", command)
            assert target is not None
            headers = {"accept": accept[1]} if accept else {}
            assert (await client.get(target[1], headers=headers)).text.splitlines()[0] == first_line
