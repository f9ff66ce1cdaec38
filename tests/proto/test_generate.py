"""proto/generate.py on a copy of the repository: what it writes, what it finds, what it calls broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTO = Path("proto/n8ngateway/v1/health_service.proto")
COPIED = (
    "proto",
    "gateway/gen",
    "gateway/transcoding/gen",
    "clients/python/src/n8n_gateway_client/v1",
    "clients/typescript/src/gen",
    "clients/go/v1",
)
COPIED_FILES = (
    "buf.yaml",
    "buf.gen.yaml",
    "clients/typescript/package.json",
    "clients/typescript/package-lock.json",
    "clients/typescript/.npmrc",
    "clients/go/go.mod",
    "clients/go/go.sum",
)
NODE_MODULES = Path("clients/typescript/node_modules")
WITHOUT_TOOLCHAINS = (
    "clients/typescript/src/gen skipped: node is not installed\nclients/go/v1 skipped: go is not installed\n"
)

pytest.importorskip("grpc_tools", reason="the code generators are not installed")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Copy what generate.py reads and writes, with the npm packages that are installed already."""
    for directory in COPIED:
        shutil.copytree(ROOT / directory, tmp_path / directory, ignore=shutil.ignore_patterns("__pycache__"))
    for name in COPIED_FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    if (ROOT / NODE_MODULES).is_dir():
        (tmp_path / NODE_MODULES).symlink_to(ROOT / NODE_MODULES)
    return tmp_path


def run(repository: Path, *arguments: str, toolchains: bool = False) -> subprocess.CompletedProcess[str]:
    """Run it, with node and Go hidden from it unless `toolchains` are asked for."""
    command = [sys.executable, "proto/generate.py", *arguments]
    search = os.environ["PATH"] if toolchains else str(hidden_toolchains(repository))
    environment = {**os.environ, "PATH": search}
    return subprocess.run(
        command, cwd=repository, env=environment, check=False, capture_output=True, text=True
    )


def hidden_toolchains(repository: Path) -> Path:
    """Make a directory with git and diff alone, for a PATH where neither node nor Go is."""
    directory = repository.with_name(f"{repository.name}-bin")
    directory.mkdir(exist_ok=True)
    for command in ("git", "diff"):
        path = shutil.which(command)
        if path and not (directory / command).exists():
            (directory / command).symlink_to(path)
    return directory


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def commit(repository: Path) -> None:
    author = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "state"]):
        subprocess.run(["git", *command], cwd=repository, check=True, capture_output=True)


def test_committed_code_is_as_generated(repository: Path) -> None:
    commit(repository)
    result = run(repository, "--check")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", WITHOUT_TOOLCHAINS)


def test_clients_with_toolchains_are_as_generated(repository: Path) -> None:
    files = {
        "npm": "clients/typescript/src/gen/n8ngateway/v1/credit_pb.ts",
        "go": "clients/go/v1/credit.pb.go",
    }
    committed = {
        file: (repository / file).read_bytes() for command, file in files.items() if shutil.which(command)
    }
    for file in committed:
        (repository / file).write_text("")
    result = run(repository, "--check", toolchains=True)
    if not committed or "skipped" in result.stderr:
        pytest.skip(result.stderr)
    differing = [line for line in result.stderr.splitlines() if "run make generate" in line]
    assert sorted(differing) == sorted(f"differs: {file} (run make generate)" for file in committed)
    assert run(repository, toolchains=True).returncode == 0
    assert {file: (repository / file).read_bytes() for file in committed} == committed


def test_clients_without_toolchains_stay_as_they_are(repository: Path) -> None:
    path = repository / "clients/typescript/src/gen/n8ngateway/v1/credit_pb.ts"
    path.write_text("// stays\n")
    result = run(repository)
    assert (result.returncode, result.stderr) == (0, WITHOUT_TOOLCHAINS)
    assert path.read_text() == "// stays\n"


def test_check_names_what_differs_and_generate_mends_it(repository: Path) -> None:
    gone, extra = repository / "gateway/gen/n8ngateway/v1/credit_pb.py", repository / "gateway/gen/extra.py"
    gone.unlink()
    extra.write_text("")
    replace(repository / "clients/python/src/n8n_gateway_client/v1/credit_pb2.pyi", "import", " import")
    result = run(repository, "--check")
    assert result.returncode == 1
    assert {line.partition(" (")[0] for line in result.stderr.splitlines() if "make" in line} == {
        "missing: gateway/gen/n8ngateway/v1/credit_pb.py",
        "left over: gateway/gen/extra.py",
        "differs: clients/python/src/n8n_gateway_client/v1/credit_pb2.pyi",
    }
    assert run(repository).returncode == 0
    assert gone.exists()
    assert not extra.exists()
    assert run(repository, "--check").returncode == 0


def test_check_says_that_there_is_nothing_to_compare_with(repository: Path) -> None:
    result = run(repository, "--check")
    assert result.returncode == 0
    assert result.stderr == WITHOUT_TOOLCHAINS + "breaking changes not looked for: no n8ngateway/v1 in HEAD\n"


def test_check_finds_lint_format_and_breaking_faults(repository: Path) -> None:
    commit(repository)
    replace(repository / PROTO, '  // "healthy".\n  string status = 1;', "    string state = 1;")
    assert run(repository).returncode == 0
    result = run(repository, "--check")
    assert result.returncode == 1
    assert 'Field "state" should have a non-empty comment for documentation.' in result.stdout
    assert "-    string state = 1;" in result.stdout
    assert 'changed name from "status" to "state"' in result.stdout


def test_a_proto_that_does_not_compile_changes_nothing(repository: Path) -> None:
    before = (repository / "gateway/gen/descriptors.binpb").read_bytes()
    replace(repository / PROTO, "string status = 1;", "strin status = 1;")
    result = run(repository)
    assert result.returncode == 1
    assert '"strin" is not defined' in result.stderr
    assert (repository / "gateway/gen/descriptors.binpb").read_bytes() == before
