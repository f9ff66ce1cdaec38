"""A wheel of the package, installed apart from the repository, serves as docs/setup.md says."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import sysconfig
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import jwt
import pytest
from yarl import URL

from tests.conftest import RunningDev

ROOT = Path(__file__).parent.parent
SECONDS = 150


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(directory), str(ROOT)], check=True, timeout=120)
    [built] = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an installation that has nothing of the repository but the wheel."""
    directory = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--python", str(directory / "bin/python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True, timeout=120)
    # Its dependencies are those of the tests; of what is editable there nothing is found by this.
    [packages] = directory.glob("lib/python3.*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return directory / "bin/n8n-gateway"


def test_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    files = {path for path in (ROOT / "gateway").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    names = {path.relative_to(ROOT).as_posix() for path in files}
    assert {
        "gateway/gen/descriptors.binpb",
        "gateway/adapters/redis/windows.lua",
        "gateway/py.typed",
    } <= names
    assert names <= set(zipfile.ZipFile(wheel).namelist())


def test_wheel_has_the_page_of_the_documentation(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = ("LICENSE", "favicon-32x32.png", "swagger-ui-bundle.js", "swagger-ui.css")
    assert {f"gateway/_swagger_ui/{name}" for name in files} <= names


def test_wheel_has_all_sql(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for directory in ("migrations", "local"):
        files = {path.name for path in (ROOT / "supabase" / directory).glob("*.sql")}
        prefix = f"gateway/_supabase/{directory}/"
        assert {name.removeprefix(prefix) for name in names if name.startswith(prefix)} == files


def test_what_is_installed_migrates_a_plain_postgres_and_serves_in_production(
    command: Path, dev: RunningDev, tmp_path: Path
) -> None:
    name = f"installed_{uuid.uuid4().hex}"
    owner = str(URL(dev.ready["database_url"]).with_path(f"/{name}"))
    asyncio.run(executed(dev.ready["database_url"], f"create database {name}"))
    try:
        assert "add --plain-postgres" in ran(command, "migrate", cwd=tmp_path, DATABASE_URL=owner).stderr
        for said in (f"Applied {len(list((ROOT / 'supabase/migrations').glob('*.sql')))}.", "up to date."):
            migrated = ran(command, "migrate", "--plain-postgres", cwd=tmp_path, DATABASE_URL=owner)
            assert migrated.stdout.rstrip().endswith(said), migrated.stderr
        login = made_as_documented(owner, name)
        with serving(command, dev, login, tmp_path) as url:
            assert httpx.get(f"{url}/api/v1/health/ready").json()["status"] == "ready"
            page = httpx.get(f"{url}/docs").text
            for asset in re.findall(r'(?:src|href)="(docs/[^"]+)"', page):
                assert httpx.get(f"{url}/{asset}").status_code == 200, asset
            assert httpx.get(f"{url}/openapi.json").json()["openapi"].startswith("3.1")
            listed = httpx.get(f"{url}/api/v1/organizations", headers=dev.bearer)
            assert (listed.status_code, listed.json()["organizations"]) == (200, [])
    finally:
        asyncio.run(executed(dev.ready["database_url"], f"drop database {name} with (force)"))
        asyncio.run(executed(dev.ready["database_url"], f"drop role if exists {name}"))


def ran(command: Path, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command, *arguments],
        cwd=cwd,
        env=ENVIRONMENT | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


ENVIRONMENT = {"PATH": os.environ["PATH"]}


def made_as_documented(owner: str, name: str) -> str:
    """Make the gateway's login by the statements of docs/setup.md; its URL."""
    text = (ROOT / "docs/setup.md").read_text()
    found = re.search(r"create role gateway_login.*?;\n.*?;\n.*?;\n", text, re.DOTALL)
    assert found is not None
    asyncio.run(
        executed(owner, found[0].replace("gateway_login", name).replace("\u2026", "hunter2-of-the-login"))
    )
    return str(URL(owner).with_user(name).with_password("hunter2-of-the-login"))


async def executed(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


@contextmanager
def serving(command: Path, dev: RunningDev, database_url: str, directory: Path) -> Iterator[str]:
    """What is installed, as a replica in production of its own; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    issuer = jwt.decode(dev.ready["token"], options={"verify_signature": False})["iss"]
    settings = {
        "DATABASE_URL": database_url,
        "REDIS_URL": dev.ready["redis_url"],
        "CLERK_JWT_ISSUER": issuer,
        "N8N_BASE_URL": dev.ready["n8n_url"],
        "N8N_INTERNAL_AUTH_SECRET": uuid.uuid4().hex * 2,
        "VAULT_KEY": "A" * 43 + "=",
        "HTTP_PORT": str(port),
        "GRPC_PORT": "0",
    }
    log = directory / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [command, "serve"], cwd=directory, env=ENVIRONMENT | settings, stdout=output, stderr=output
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/api/v1/health/live", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(SECONDS) == 0, log.read_text()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up, log.read_text()
        try:
            httpx.get(url).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
