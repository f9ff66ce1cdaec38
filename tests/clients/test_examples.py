"""Each client's example as its reader runs it, against the gateway."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.builds import GO, ROOT, build_go_example, build_typescript, run
from tests.conftest import RunningDev

Example = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def python_example() -> Example:
    script = ROOT / "clients/python/examples/execute.py"
    return lambda *arguments: run([sys.executable, str(script), *arguments], ROOT)


@pytest.fixture(scope="session")
def typescript_example() -> Example:
    script = build_typescript() / "build/examples/execute.js"
    return lambda *arguments: run(["node", str(script), *arguments], ROOT)


@pytest.fixture(scope="session")
def go_example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    program = build_go_example(tmp_path_factory.mktemp("go"))
    return lambda *arguments: run([str(program), *arguments], ROOT)


EXAMPLES = [
    ("python_example", []),
    *(
        (example, ["--protocol", protocol])
        for example in ("typescript_example", "go_example")
        for protocol in ("connect", "grpc-web", "grpc")
    ),
]


@pytest.fixture(params=EXAMPLES, ids=lambda each: " ".join([each[0], *each[1][1:]]))
def example(request: pytest.FixtureRequest) -> Example:
    """Each client's example, over each protocol that it speaks."""
    name, protocol = request.param
    program = request.getfixturevalue(name)
    return lambda *arguments: program(*protocol, *arguments)


def ready_file(directory: Path, dev: RunningDev, **changed: object) -> str:
    path = directory / "ready.json"
    path.write_text(json.dumps(dev.ready | changed))
    return str(path)


def test_runs_and_streams(example: Example, dev: RunningDev, tmp_path: Path) -> None:
    result = example("--ready-file", ready_file(tmp_path, dev))
    assert (result.returncode, result.stderr) == (0, "")
    answer, _, events = result.stdout.partition("\n}\n")
    told = json.loads(answer + "}")
    assert (told["success"], told["status"], told["credits_used"]) == (True, "completed", 1)
    assert told["data"]["echo"] == {"message": "hello"}
    lines = [line.split(maxsplit=2)[1:] for line in events.splitlines()]
    assert [int(sequence) for sequence, _ in lines] == list(range(1, len(lines) + 1))
    chunks = [text.split(maxsplit=1)[1] for _, text in lines if text.startswith("chunk")]
    assert [chunk.partition(":")[0] for chunk in chunks] == ["A", "B", "C"]
    assert lines[0][1] == "started"
    assert re.fullmatch(r"completed +1 credits, \d+ ms", lines[-1][1])


def test_an_api_key_signs_in_place_of_a_token(example: Example, dev: RunningDev, tmp_path: Path) -> None:
    result = example("--signed", "--ready-file", ready_file(tmp_path, dev, token="the-token"))
    assert (result.returncode, result.stderr) == (0, "")
    assert "completed" in result.stdout
    wrong = ready_file(tmp_path, dev, client_secret="the-secret")
    result = example("--signed", "--ready-file", wrong)
    assert result.returncode == 1
    assert "SIGNATURE_INVALID" in result.stderr
    assert "the-secret" not in result.stderr + result.stdout


def test_says_what_the_gateway_refuses(example: Example, dev: RunningDev, tmp_path: Path) -> None:
    result = example("--ready-file", ready_file(tmp_path, dev, token="the-secret"))
    assert result.returncode == 1
    assert re.match(r"the call failed: unauthenticated \([A-Z_]+\): ", result.stderr, re.IGNORECASE)
    assert "the-secret" not in result.stderr + result.stdout


def test_says_which_workflow_is_unknown(example: Example, dev: RunningDev, tmp_path: Path) -> None:
    unknown = {"echo": "no-id", "stream": "no-id"}
    result = example("--ready-file", ready_file(tmp_path, dev, workflows=unknown))
    assert result.returncode == 1
    assert re.match(r"the call failed: invalid_?argument \([A-Z_]+\): ", result.stderr, re.IGNORECASE)
    assert "\n  workflow_id: " in result.stderr


def test_arguments_that_do_not_say_where(example: Example) -> None:
    result = example()
    assert (result.returncode, result.stdout) == (2, "")
    assert re.search(r"give --?ready-file, or --?\w+, --?workflow and --?token\n", result.stderr)
    signed = example("--signed")
    assert signed.returncode == 2
    assert "N8N_GATEWAY_API_KEY and N8N_GATEWAY_CLIENT_SECRET in the environment" in signed.stderr


def test_ready_file_that_is_not_there(example: Example, tmp_path: Path) -> None:
    result = example("--ready-file", str(tmp_path / "none.json"))
    assert (result.returncode, result.stdout) == (2, "")
    assert "none.json" in result.stderr
    assert "give " not in result.stderr
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    result = example("--ready-file", str(broken))
    assert result.returncode == 2
    assert "broken.json" in result.stderr


def test_typescript_units() -> None:
    folder = build_typescript()
    result = run(["npm", "test"], folder)
    assert result.returncode == 0, result.stdout


def test_go_units(go_example: Example) -> None:
    assert go_example
    result = run(["go", "test", "./..."], GO)
    assert result.returncode == 0, result.stdout
