"""The command as its users run it: real processes, told to stop in every way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import httpx
import pytest
from yarl import URL

from tests.command import ROOT, SECONDS, complaint, environment_of, run, serving
from tests.conftest import RunningDev, start_dev, stop_dev
from tests.stub_n8n import StubN8n


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and theirs."""
    parents = {}
    for entry in Path("/proc").glob("[1-9]*"):
        with contextlib.suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


def lives(pid: int) -> bool:
    """Whether a process is there and not merely unburied."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def execute(dev: RunningDev, name: str = "echo") -> Any:
    answer = httpx.post(
        f"{dev.ready['http_url']}/api/v1/execute",
        json={"workflow_id": dev.ready["workflows"][name], "data": {"n": 1}},
        headers=dev.bearer,
        timeout=SECONDS,
    )
    return answer.raise_for_status().json()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory as a first run leaves it."""
    directory = tmp_path_factory.mktemp("warm")
    stop_dev(start_dev(directory))
    return directory / "data"


@pytest.fixture
def directory(warm: Path, tmp_path: Path) -> Path:
    """A place to start `dev` in, with the data of a first run."""
    shutil.copytree(warm, tmp_path / "data")
    return tmp_path


@contextlib.contextmanager
def started(directory: Path, *arguments: str) -> Iterator[RunningDev]:
    dev = start_dev(directory, *arguments)
    try:
        yield dev
    finally:
        if dev.process.poll() is None:
            stop_dev(dev)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_dev_told_to_stop_leaves_no_process_and_no_ready_file(
    directory: Path, number: signal.Signals
) -> None:
    with started(directory) as dev:
        assert execute(dev)["success"]
        children = descendants(dev.process.pid)
        assert len(children) > 2
        dev.process.send_signal(number)
        assert dev.process.wait(SECONDS) == 0
    assert [pid for pid in children if lives(pid)] == []
    assert not (directory / "ready.json").exists()
    assert "Traceback" not in dev.log.read_text()


def test_dev_stopped_while_it_starts_leaves_no_process(directory: Path) -> None:
    with (directory / "out").open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gateway",
                "dev",
                "--data-dir",
                "data",
                "--http-port",
                "0",
                "--grpc-port",
                "0",
            ],
            cwd=directory,
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        children: set[int] = set()
        while not children and process.poll() is None:
            children = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
    assert [pid for pid in children if lives(pid)] == []
    assert "Traceback" not in (directory / "out").read_text()


def test_dev_killed_serves_its_data_again(directory: Path) -> None:
    with started(directory) as first:
        balance = execute(first)["credits_remaining"]
        children = descendants(first.process.pid)
        first.process.kill()
        first.process.wait(SECONDS)
        assert (directory / "ready.json").exists()
    (directory / "ready.json").rename(directory / "stale.json")
    with started(directory) as again:
        kept = ("organization_id", "workflows", "database_url", "redis_url", "internal_secret")
        assert {name: again.ready[name] for name in kept} == {name: first.ready[name] for name in kept}
        assert execute(again)["credits_remaining"] == balance - 1
        assert [pid for pid in children if lives(pid)] == []


def test_a_ready_file_of_before_does_not_outlive_a_new_start(directory: Path) -> None:
    stale = directory / "ready.json"
    stale.write_text("{}")
    ended = run(
        "dev", "--data-dir", "data", "--http-port", "0", "--grpc-port", "0", "--n8n-url", "nowhere",
        "--ready-file", "ready.json", directory=directory,
    )  # fmt: skip
    assert complaint(ended).startswith("--n8n-url ")
    assert not stale.exists()


def test_wrong_options_of_dev_are_told_by_their_names_before_anything_starts(tmp_path: Path) -> None:
    ended = run(
        "dev", "--data-dir", "data", "--http-port", "0", "--grpc-port", "0", "--n8n-url", "localhost:5678",
        "--cors-origin", "https://app.example/",
        directory=tmp_path, LOG_FORMAT="xml", REDIS_URL="dev has one of its own",
    )  # fmt: skip
    assert [line.split()[0] for line in complaint(ended).splitlines()] == [
        "LOG_FORMAT", "--cors-origin", "--n8n-url"
    ]  # fmt: skip
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("command", "option", "variable"),
    [
        (
            ("keys", "create", "--organization", str(uuid.UUID(int=7)), "--name", "x"),
            "--vault-key",
            "VAULT_KEY",
        ),
        (("keys", "rotate", f"gw_live_{'a' * 16}"), "--vault-key", "VAULT_KEY"),
        (("dev", "--n8n-url", "http://n8n"), "--n8n-internal-secret", "N8N_INTERNAL_AUTH_SECRET"),
        (("sign", "http://x/"), "--api-key", "N8N_GATEWAY_API_KEY"),
        (("sign", "http://x/"), "--client-secret", "N8N_GATEWAY_CLIENT_SECRET"),
    ],
)
def test_a_secret_on_a_command_line_is_refused(
    tmp_path: Path, command: tuple[str, ...], option: str, variable: str
) -> None:
    others = {"DATABASE_URL": "postgresql://127.0.0.1:1/none", "N8N_GATEWAY_API_KEY": f"gw_test_{'b' * 16}_x"}
    refused = run(*command, option, "hunter2", directory=tmp_path, **others)
    assert refused.returncode == 2
    assert option in refused.stderr
    assert variable in refused.stderr
    assert "hunter2" not in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    ("command", "url"),
    [
        (("migrate",), "postgresql://me:hunter2@127.0.0.1/postgres"),
        (("platform", "show"), "postgresql://me:hunter2/with#signs@127.0.0.1/postgres"),
        (("credits", "check"), "postgresql://me@127.0.0.1/postgres?password=hunter2"),
        (("keys", "revoke", f"gw_live_{'a' * 16}"), "mysql://me:hunter2@127.0.0.1/postgres"),
    ],
)
def test_a_databases_password_on_a_command_line_is_refused(
    tmp_path: Path, command: tuple[str, ...], url: str
) -> None:
    refused = run(*command, "--database-url", url, directory=tmp_path)
    assert refused.returncode == 2
    assert "--database-url" in refused.stderr
    assert "set DATABASE_URL, or give @FILE or @-" in " ".join(refused.stderr.split())
    assert "hunter2" not in refused.stdout + refused.stderr


def test_a_database_is_given_in_a_file_or_without_a_password(dev: RunningDev, tmp_path: Path) -> None:
    url = URL(dev.ready["database_url"])
    (tmp_path / "url").write_text(f"{url}\n")
    assert url.password is not None
    for database, environment in (
        ("@url", {}),
        (str(url.with_password(None)), {"PGPASSWORD": url.password}),
    ):
        shown = run("platform", "show", "--database-url", database, directory=tmp_path, **environment)
        assert "workflow_management" in shown.stdout, shown.stderr
    for wrong, told in (("@nowhere", "nowhere cannot be read"), ("@/dev/null", "must not be empty")):
        refused = run("platform", "show", "--database-url", wrong, directory=tmp_path)
        assert (refused.returncode, told in refused.stderr) == (2, True)


def test_each_command_that_takes_a_database_says_where_its_password_belongs(tmp_path: Path) -> None:
    for command in (("migrate",), ("platform", "show"), ("credits", "check"), ("keys", "list")):
        shown = " ".join(run(*command, "--help", directory=tmp_path).stdout.split())
        assert "With a password: in the environment, @FILE, or @- for standard input" in shown
        assert "DATABASE_URL" in shown


def test_a_wrong_origin_of_the_environment_is_no_options_fault(tmp_path: Path) -> None:
    free = ("--http-port", "0", "--grpc-port", "0")
    told = complaint(run("dev", "--data-dir", "data", *free, directory=tmp_path, CORS_ORIGINS="app"))
    assert told.startswith("CORS_ORIGINS must list origins such as https://app.example.com, without a path")


def test_ports_of_dev_that_cannot_be_are_told(tmp_path: Path) -> None:
    beyond = run("dev", "--http-port", "70000", directory=tmp_path)
    assert beyond.returncode == 2
    assert "--http-port" in beyond.stderr
    same = run("dev", "--http-port", "8123", "--grpc-port", "8123", directory=tmp_path)
    assert complaint(same) == "--http-port and --grpc-port cannot both be 8123\n"


def test_two_at_once_do_not_meet(dev: RunningDev, directory: Path) -> None:
    with started(directory) as other:
        assert execute(other)["success"]
        urls = ("http_url", "grpc_url", "database_url", "redis_url", "n8n_url")
        assert not [name for name in urls if dev.ready[name] == other.ready[name]]
        stranger = httpx.get(f"{other.ready['http_url']}/api/v1/organizations", headers=dev.bearer)
        assert stranger.status_code == 401
        assert httpx.get(f"{dev.ready['http_url']}/api/v1/health").status_code == 200


def test_a_data_directory_in_use_is_told(dev: RunningDev, tmp_path: Path) -> None:
    ports = ["--http-port", "0", "--grpc-port", "0"]
    ended = run("dev", "--data-dir", str(dev.data_dir), *ports, directory=tmp_path)
    assert f"is in use by process {dev.process.pid}" in complaint(ended)
    assert httpx.get(f"{dev.ready['http_url']}/api/v1/health/ready").status_code == 200


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port"])
def test_a_port_in_use_is_told_and_leaves_no_process(directory: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"--http-port": "0", "--grpc-port": "0"} | {option: str(port)}
        arguments = [part for pair in ports.items() for part in pair]
        ended = run("dev", "--data-dir", "data", *arguments, directory=directory)
    assert re.fullmatch(rf"cannot listen for .* on 127\.0\.0\.1:{port}: .*in use.*\n", complaint(ended))
    assert "starting" not in ended.stderr
    alive = [entry for entry in Path("/proc").glob("[1-9]*") if _works_in(entry, directory)]
    assert not alive


def _works_in(process: Path, directory: Path) -> bool:
    try:
        return (process / "cwd").readlink().is_relative_to(directory) and lives(int(process.name))
    except OSError:
        return False


def test_the_ready_file_of_a_dev_that_runs_is_left_alone(dev: RunningDev, tmp_path: Path) -> None:
    ready_file = tmp_path / "ready.json"
    ready_file.write_text(json.dumps(dev.ready))
    told = complaint(run("dev", "--ready-file", str(ready_file), directory=tmp_path))
    assert "is of a `dev` that is running" in told
    assert json.loads(ready_file.read_text()) == dev.ready


@pytest.mark.parametrize(
    "options", [["--user", ""], ["--user", " "], ["--user", "user_two", "--role", "boss"]], ids=str
)
def test_a_token_for_nobody_is_a_usage_error(tmp_path: Path, options: list[str]) -> None:
    ended = run("token", *options, directory=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")


@pytest.mark.parametrize("option", [[], ["--plan"], ["--status"]], ids=str)
def test_migrate_with_the_gateways_own_login_says_whose_is_needed(
    dev: RunningDev, tmp_path: Path, option: list[str]
) -> None:
    url = dev.ready["settings"]["DATABASE_URL"]
    told = complaint(run("migrate", *option, directory=tmp_path, DATABASE_URL=url))
    assert "log in as the owner of the schema" in told


@pytest.mark.parametrize("name", ["missing/ready.json", "[red]/ready.json"])
def test_a_ready_file_that_cannot_be_written_is_told_before_anything_starts(
    tmp_path: Path, name: str
) -> None:
    ended = run("dev", "--data-dir", "data", "--ready-file", name, directory=tmp_path)
    assert complaint(ended).startswith(f"{name} cannot be written")
    assert not (tmp_path / "data").exists()


def test_an_unknown_log_level_is_told(tmp_path: Path) -> None:
    ended = run("dev", "--log-level", "loud", directory=tmp_path)
    assert ended.returncode == 2
    assert "--log-level" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_serve_without_an_environment_names_every_fault_at_once(tmp_path: Path) -> None:
    title, *told = complaint(run("serve", directory=tmp_path)).splitlines()
    named = {"CLERK_JWT_ISSUER", "DATABASE_URL", "N8N_BASE_URL", "N8N_INTERNAL_AUTH_SECRET"}
    assert title == "these settings are to be mended:"
    assert named <= {line.split()[0] for line in told}
    assert told == sorted(f"  {line.strip()}" for line in told)


@pytest.mark.parametrize(
    ("setting", "door", "url"), [("HTTP_PORT", "HTTP", "http_url"), ("GRPC_PORT", "gRPC", "grpc_url")]
)
def test_serve_on_a_port_in_use_tells_so(
    dev: RunningDev, stub_n8n: StubN8n, tmp_path: Path, setting: str, door: str, url: str
) -> None:
    port = dev.ready[url].rpartition(":")[2]
    ended = run("serve", directory=tmp_path, **(environment_of(dev, stub_n8n.url) | {setting: port}))
    where = f"cannot listen for {door} on 127.0.0.1:{port}: Address already in use"
    assert complaint(ended) == f"{where}: choose another port with {setting}\n"
    others = [line for line in ended.stderr.splitlines() if not line.startswith(("{", "error: "))]
    assert others == []


def test_a_second_user_of_dev_gets_a_token(dev: RunningDev, tmp_path: Path) -> None:
    def token(*arguments: str) -> str:
        ended = run("token", *arguments, "--data-dir", str(dev.data_dir), directory=tmp_path)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.removesuffix("\n")

    url, user = f"{dev.ready['http_url']}/api/v1", f"user_{uuid.uuid4().hex}"
    second = {"Authorization": f"Bearer {token('--user', user)}"}
    of = f"{url}/organizations/{dev.ready['organization_id']}"
    assert httpx.get(of, headers=second).status_code == 404
    member = {"profile_id": user, "role": "MEMBER_ROLE_VIEWER"}
    httpx.post(f"{of}/members", json=member, headers=dev.bearer).raise_for_status()
    [invitation] = httpx.get(f"{url}/invitations", headers=second).raise_for_status().json()["invitations"]
    assert invitation["organization_id"] == dev.ready["organization_id"]
    named = {"Authorization": f"Bearer {token('--user', user, '--clerk-organization', 'org_dev')}"}
    assert httpx.get(of, headers=named).status_code == 200


def test_where_no_dev_has_served_there_is_no_token(tmp_path: Path) -> None:
    told = complaint(run("token", "--user", "user_two", directory=tmp_path))
    assert told.startswith("no `n8n-gateway dev` has ever served with its data in ")
    assert not (tmp_path / ".n8n-gateway").exists()
    (tmp_path / "file").touch()
    told = complaint(run("token", "--user", "user_two", "--data-dir", "file", directory=tmp_path))
    assert told.endswith("file/ports.json cannot be read: Not a directory\n")


@pytest.mark.parametrize(
    "command", [("--help",), ("--version",), ("openapi",), ("call", "--list")], ids=" ".join
)
def test_an_output_that_cannot_be_written_is_told(tmp_path: Path, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "gateway", *command],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    told = "error: the output cannot be written: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (1, told)


_INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == "gateway.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from gateway.__main__ import main
main()
"""


def test_an_interrupt_while_the_command_starts_tells_nothing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_the_version_is_told(tmp_path: Path) -> None:
    told = run("--version", directory=tmp_path)
    assert (told.returncode, told.stdout) == (0, f"n8n-gateway {version('n8n-gateway')}\n")


def test_serve_in_production_does_not_log_in_as_a_superuser(
    dev: RunningDev, stub_n8n: StubN8n, tmp_path: Path
) -> None:
    environment = environment_of(dev, stub_n8n.url) | {"ENVIRONMENT": "production"}
    assert "DATABASE_URL logs in as a superuser" in complaint(run("serve", directory=tmp_path, **environment))


def test_serve_with_another_vault_key_than_that_of_what_is_stored_tells_so(
    dev: RunningDev, stub_n8n: StubN8n, tmp_path: Path
) -> None:
    environment = environment_of(dev, stub_n8n.url) | {"VAULT_KEY": "A" * 43 + "="}
    told = complaint(run("serve", directory=tmp_path, **environment))
    assert told.startswith(
        "The key '1' in VAULT_KEY is not the one that has sealed stored secrets: give every"
    )


def test_serve_with_a_certificate_that_is_not_there_tells_so(
    dev: RunningDev, stub_n8n: StubN8n, tmp_path: Path
) -> None:
    environment = environment_of(dev, stub_n8n.url)
    environment |= {"TLS_CERT_FILE": "/no/such.pem", "TLS_KEY_FILE": "/no/such.key"}
    told = complaint(run("serve", directory=tmp_path, **environment))
    assert "TLS_CERT_FILE /no/such.pem cannot be read: No such file or directory" in told


_DYING = """
import sys
from gateway.doors.http.server import _Server

async def on_tick(self, counter):
    if counter:
        raise RuntimeError("a fault of the server")
    return False

_Server.on_tick = on_tick
sys.argv = ["n8n-gateway", "serve"]
from gateway.__main__ import main
main()
"""


def test_serve_ends_when_the_http_port_is_served_no_longer(
    dev: RunningDev, stub_n8n: StubN8n, tmp_path: Path
) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | environment_of(dev, stub_n8n.url)
    ended = subprocess.run(
        [sys.executable, "-c", _DYING],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert "the HTTP port is served no longer: RuntimeError('a fault of the server')" in complaint(ended)


def test_serve_listens_on_ipv6(dev: RunningDev, stub_n8n: StubN8n, tmp_path: Path) -> None:
    environment = environment_of(dev, stub_n8n.url) | {"HOST": "[::1]"}
    with serving(tmp_path, environment) as (_, _, told):
        answer = httpx.get(f"http://[::1]:{told['http_port']}/api/v1/health")
        assert answer.json()["status"] == "healthy"
        with grpc.insecure_channel(f"[::1]:{told['grpc_port']}") as channel:
            grpc.channel_ready_future(channel).result(SECONDS)


def test_a_second_interrupt_does_not_wait_for_running_calls(
    dev: RunningDev, stub_n8n: StubN8n, tmp_path: Path
) -> None:
    workflow = {"name": f"cli {uuid.uuid4()}", "webhook_path": "gated", "credits_per_execution": 1}
    registered = httpx.post(f"{dev.ready['http_url']}/api/v1/workflows", json=workflow, headers=dev.bearer)
    request = {"workflow_id": registered.raise_for_status().json()["id"]}
    stub_n8n.close_gate()
    before = stub_n8n.calls["gated"]

    def call(port: int) -> None:
        with contextlib.suppress(httpx.HTTPError):
            url = f"http://127.0.0.1:{port}/api/v1/execute"
            httpx.post(url, json=request, headers=dev.bearer, timeout=SECONDS)

    try:
        # Others wait for the credit of the run, which is free again when its lease is over.
        environment = environment_of(dev, stub_n8n.url) | {"EXECUTION_LEASE_SECONDS": "10"}
        with serving(tmp_path, environment) as (process, lines, told):
            calling = threading.Thread(target=call, args=[told["http_port"]])
            calling.start()
            while stub_n8n.calls["gated"] == before:
                assert calling.is_alive()
            process.send_signal(signal.SIGINT)
            assert next(line for line in lines if line["event"] == "stopping")
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == -signal.SIGINT
            calling.join(SECONDS)
    finally:
        stub_n8n.open_gate()


def test_serve_drains_on_sigterm(dev: RunningDev, stub_n8n: StubN8n, tmp_path: Path) -> None:
    """A call that is under way is answered, and no new one is taken."""
    workflow = {"name": f"cli {uuid.uuid4()}", "webhook_path": "gated", "credits_per_execution": 1}
    registered = httpx.post(f"{dev.ready['http_url']}/api/v1/workflows", json=workflow, headers=dev.bearer)
    workflow_id = registered.raise_for_status().json()["id"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "serve"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | environment_of(dev, stub_n8n.url),
    )
    assert process.stderr is not None
    lines = map(json.loads, process.stderr)
    try:
        serving = next(line for line in lines if line["event"] == "serving")
        url = f"http://127.0.0.1:{serving['http_port']}/api/v1"
        assert httpx.get(f"{url}/health").json()["status"] == "healthy"
        assert httpx.get(f"{url}/health/ready").json()["status"] == "ready"
        stub_n8n.close_gate()
        before = stub_n8n.calls["gated"]
        answers: list[httpx.Response] = []

        def call() -> None:
            request = {"workflow_id": workflow_id}
            answers.append(httpx.post(f"{url}/execute", json=request, headers=dev.bearer, timeout=SECONDS))

        calling = threading.Thread(target=call)
        calling.start()
        while stub_n8n.calls["gated"] == before:
            assert calling.is_alive()
        process.send_signal(signal.SIGTERM)
        assert next(line for line in lines if line["event"] == "stopping")
        _wait_until_refused(url)
        stub_n8n.open_gate()
        calling.join(SECONDS)
        assert process.wait(SECONDS) == 0
    finally:
        stub_n8n.open_gate()
        process.kill()
        process.wait()
    [answer] = answers
    assert (answer.status_code, answer.json()["data"]) == (200, ["first!", "second!"])


def _wait_until_refused(url: str) -> None:
    for _ in range(10_000):
        try:
            httpx.get(f"{url}/health", timeout=SECONDS)
        except httpx.ConnectError:
            return
        except httpx.TransportError:
            continue  # it was in the queue of the listener that closed
    pytest.fail("new connections are still taken")


def test_the_status_tells_of_each_migration_whether_it_is_applied(dev: RunningDev, tmp_path: Path) -> None:
    narrow = {"COLUMNS": "20"}  # which breaks no line
    told = run("migrate", "--status", directory=tmp_path, DATABASE_URL=dev.ready["database_url"], **narrow)
    versions = [file.name[:14] for file in sorted((ROOT / "supabase/migrations").glob("*.sql"))]
    lines = told.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["applied", version] for version in versions]
    assert lines[-1] == f"{len(versions)} applied, 0 pending."


def test_a_plan_shows_what_would_be_applied_and_applies_nothing(dev: RunningDev, tmp_path: Path) -> None:
    superuser = URL(dev.ready["database_url"])
    up_to_date = run("migrate", "--plan", directory=tmp_path, DATABASE_URL=str(superuser))
    assert (up_to_date.returncode, up_to_date.stdout) == (0, "The schema is up to date.\n")
    name = f"plan_{uuid.uuid4().hex}"

    async def on_the_side(statement: str) -> None:
        connection = await asyncpg.connect(str(superuser))
        await connection.execute(statement)
        await connection.close()

    asyncio.run(on_the_side(f"create database {name}"))
    there = {"DATABASE_URL": str(superuser.with_path(name))}
    refused = run("migrate", directory=tmp_path, **there)
    assert "for plain Postgres add --plain-postgres" in complaint(refused)
    assert refused.stdout == ""
    plan = ("--plan", "--plain-postgres")
    plans = [run("migrate", *plan, directory=tmp_path, **there) for _ in range(2)]
    status = run("migrate", "--status", directory=tmp_path, **there)
    asyncio.run(on_the_side(f"drop database {name}"))
    assert plans[0].stdout == plans[1].stdout
    assert "applied  " not in status.stdout
    files = sorted((ROOT / "supabase/migrations").glob("*.sql"))
    assert plans[0].stdout.split() == [part for file in files for part in file.stem.split("_", 1)]


def test_without_the_schema_it_is_said_what_to_run(dev: RunningDev, tmp_path: Path) -> None:
    async def on_the_side(statement: str) -> None:
        connection = await asyncpg.connect(dev.ready["database_url"])
        await connection.execute(statement)
        await connection.close()

    name = f"empty_{uuid.uuid4().hex}"
    asyncio.run(on_the_side(f"create database {name} template template0"))
    url = str(URL(dev.ready["database_url"]).with_path(name))
    serving = {
        "DATABASE_URL": url,
        "ENVIRONMENT": "development",
        "CLERK_JWT_ISSUER": "https://issuer.example",
        "N8N_BASE_URL": "http://127.0.0.1:1",
        "N8N_INTERNAL_AUTH_SECRET": "s" * 64,
    }
    try:
        for command in (("platform", "show"), ("credits", "check")):
            said = complaint(run(*command, directory=tmp_path, DATABASE_URL=url))
            assert "the schema is missing or of an older version: set DATABASE_URL to" in said
            assert "--database-url" not in said
        said = complaint(run("serve", directory=tmp_path, **serving))
        assert "the schema is missing: set DATABASE_URL to" in said
        assert "then run `n8n-gateway migrate`" in said
        assert "--database-url" not in said
    finally:
        asyncio.run(on_the_side(f"drop database {name}"))


def test_the_platform_keeps_to_itself_what_it_says(dev: RunningDev, tmp_path: Path) -> None:
    def platform(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("platform", *arguments, directory=tmp_path, DATABASE_URL=dev.ready["database_url"])

    shown = platform("show").stdout
    assert re.match(r"  workflow_management organization( \(by default\))?\n", shown)
    assert shown.endswith("  organization_creation anyone (by default)\n")
    url, organization_id = f"{dev.ready['http_url']}/api/v1/workflows", dev.ready["organization_id"]
    names = [uuid.uuid4().hex for _ in range(2)]
    assert "workflow_management platform" in platform("set", "workflow_management", "platform").stdout
    try:
        refused = httpx.post(url, json={"name": names[0], "webhook_path": "echo"}, headers=dev.bearer)
        assert (refused.status_code, refused.json()["details"][0]["reason"]) == (403, "PLATFORM_ONLY")
        registered = platform(
            "register-workflow", "--organization", organization_id, "--name", names[0],
            "--webhook-path", "echo", "--credits", "7",
        )  # fmt: skip
        made = json.loads(registered.stdout)
        assert made == httpx.get(f"{url}/{made['id']}", headers=dev.bearer).json()
        platform("update-workflow", "--workflow", made["id"], "--credits", "8", "--inactive")
        found = httpx.get(f"{url}/{made['id']}", headers=dev.bearer).json()
        assert (found["credits_per_execution"], found.get("is_active", False)) == (8, False)
        update = ("update-workflow", "--workflow", made["id"])
        assert "both credits_per_unit and credits_per_execution" in complaint(
            platform(*update, "--pricing-mode", "per-second")
        )
        metered = ("--pricing-mode", "per-second", "--credits-per-unit", "2", "--response-mode", "streaming")
        told = json.loads(platform(*update, *metered).stdout)
        assert (told["pricing_mode"], told["credits_per_unit"]) == ("PRICING_MODE_PER_SECOND", 2)
        assert (told["response_mode"], told["credits_per_execution"]) == ("RESPONSE_MODE_STREAMING", 8)
        token = {"X-Platform-Token": dev.ready["platform_token"]}
        patched = httpx.patch(f"{url}/{made['id']}", json={"credits_per_execution": 60}, headers=token)
        assert (patched.json()["credits_per_unit"], patched.json()["credits_per_execution"]) == (2, 60)
    finally:
        platform("set", "workflow_management", "organization")
    httpx.post(url, json={"name": names[1], "webhook_path": "echo"}, headers=dev.bearer).raise_for_status()
    created = json.loads(platform("create-organization", "--name", names[0], "--owner", "user_1").stdout)
    assert created["name"] == names[0]
    told = complaint(platform("set", "workflow_management", "nobody")).splitlines()
    assert told[0].startswith("Settings are workflow_management (organization, platform)")
    assert told[1] == "  value is not one of the setting's values"
    assert (
        "workflow_management organization (by default)"
        in platform("set", "workflow_management", "default").stdout
    )


def test_every_option_of_a_workflow_is_what_the_api_then_tells(dev: RunningDev, tmp_path: Path) -> None:
    organization_id, name = dev.ready["organization_id"], uuid.uuid4().hex
    registered = run(
        "platform", "register-workflow", "--organization", organization_id, "--name", name,
        "--webhook-path", "echo", "--description", "Says it again", "--pricing-mode", "reported-units",
        "--credits", "7", "--credits-per-unit", "2", "--response-mode", "document",
        directory=tmp_path, DATABASE_URL=dev.ready["database_url"],
    )  # fmt: skip
    made = json.loads(registered.stdout)
    url = f"{dev.ready['http_url']}/api/v1/workflows/{made['id']}"
    assert made == httpx.get(url, headers=dev.bearer).json()
    assert made.items() >= {
        "name": name, "description": "Says it again", "webhook_path": "echo", "credits_per_unit": 2,
        "credits_per_execution": 7, "pricing_mode": "PRICING_MODE_REPORTED_UNITS",
        "response_mode": "RESPONSE_MODE_DOCUMENT", "organization_id": organization_id,
    }.items()  # fmt: skip


NOBODY = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("platform create-organization --name x", "--owner", "two\nlines"),
        ("platform create-organization --name x --owner user_1", "--clerk-organization", "two words"),
        (f"platform limit --organization {NOBODY}", "--open-streams", "99999999999"),
        (f"platform limit --organization {NOBODY}", "--concurrent-executions", "999999"),
        (f"keys create --organization {NOBODY} --name x", "--scope", "all"),
        (f"credits refund --organization {NOBODY} --execution {NOBODY}", "--amount", "99999999999"),
    ],
)
def test_an_option_that_the_api_would_refuse_is_told_by_its_own_name(
    tmp_path: Path, command: str, option: str, value: str
) -> None:
    nowhere = {"DATABASE_URL": "postgresql://127.0.0.1:1/none"}
    refused = run(*command.split(), option, value, directory=tmp_path, **nowhere)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"Invalid value for {option}: " in refused.stderr


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--webhook-path", "http://localhost:5678/webhook/summarise", "give summarise"),
        ("--credits", "-1", "must be greater than or equal to 0"),
        ("--credits", "99999999999", "expected an integer in the range of int32"),
        ("--name", "", "is required"),
        ("--pricing-mode", "monthly", "fixed"),
        ("--response-mode", "lines", "streaming"),
    ],
)
def test_options_of_a_workflow_are_held_to_the_rules_of_the_api(
    tmp_path: Path, option: str, value: str, told: str
) -> None:
    options = {"--organization": str(uuid.uuid4()), "--name": "w", "--webhook-path": "w"} | {option: value}
    given = [part for pair in options.items() for part in pair]
    nowhere = ("--database-url", "postgresql://127.0.0.1:1/none")
    ended = run("platform", "register-workflow", *given, *nowhere, directory=tmp_path, COLUMNS="200")
    assert ended.returncode == 2
    assert re.search(rf"Invalid value for '?{option}'?: .*{told}", ended.stderr)


def test_the_platform_limits_an_organization(dev: RunningDev, tmp_path: Path) -> None:
    def limit(*arguments: str) -> subprocess.CompletedProcess[str]:
        limited = ("platform", "limit", "--organization", made["id"])
        return run(*limited, *arguments, directory=tmp_path, DATABASE_URL=dev.ready["database_url"])

    url = dev.ready["http_url"]
    token = {"Authorization": dev.bearer["Authorization"]}
    name = {"name": uuid.uuid4().hex}
    made = httpx.post(f"{url}/api/v1/organizations", json=name, headers=token).raise_for_status().json()
    told = json.loads(limit("--rate", "2/hour", "--open-streams", "3").stdout)
    assert (told["rate_limit"], told["max_open_streams"]) == ({"requests": 2, "period_seconds": 3600}, 3)
    answers = [
        httpx.get(f"{url}/api/v1/workflows", headers=token | {"X-Tenant-ID": made["id"]}) for _ in range(4)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert '"organization";q=2;w=3600' in answers[0].headers["ratelimit-policy"]
    stands = json.loads(limit("--concurrent-executions", "7").stdout)
    assert (stands["rate_limit"], stands["max_open_streams"]) == (told["rate_limit"], 3)
    assert json.loads(limit().stdout) == stands
    reset = json.loads(limit("--rate", "default").stdout)
    assert ("rate_limit" in reset, reset["max_concurrent_executions"]) == (False, 7)
    assert "must look like 30/minute" in limit("--rate", "many").stderr
    assert "no such organization" in complaint(limit("--rate", "1/day", "--organization", str(uuid.uuid4())))


def _available(shown: subprocess.CompletedProcess[str]) -> int:
    found = re.search(r"  available (\d+)\n", shown.stdout)
    assert found, shown.stderr
    return int(found[1])


def test_credits_are_added_shown_and_proved(dev: RunningDev, tmp_path: Path) -> None:
    organization_id = dev.ready["organization_id"]

    def credit(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("credits", *arguments, directory=tmp_path, DATABASE_URL=dev.ready["database_url"])

    balance = ("balance", "--organization", organization_id)
    # A run of a gateway that another test has killed gives its credit back when its lease is over.
    while "  reserved 0\n" not in credit(*balance).stdout:
        time.sleep(0.5)
    reference = uuid.uuid4().hex
    add = ("add", "--organization", organization_id, "--amount", "5", "--reference", reference)
    added = credit(*add).stdout
    assert re.fullmatch(r"  balance \d+\n  reserved \d+\n  available \d+\n", added)
    again = credit(*add)
    assert re.match(r"This reference was added before, at 20\S+Z: nothing was added now\.\n", again.stdout)
    assert _available(again) == _available(credit(*balance))
    ran = execute(dev)
    refund = ("refund", "--organization", organization_id, "--execution", ran["execution_id"])
    for share in ((), ("--amount", "1")):
        assert _available(credit(*refund, *share)) == ran["credits_remaining"] + 1
    assert "Another amount of this charge" in complaint(credit(*refund, "--amount", "2"))
    taken = ("--amount", "-1000000000", "--reference", uuid.uuid4().hex)
    told = complaint(credit("add", "--organization", organization_id, *taken))
    for amount in ("0", "99999999999"):
        wrong = credit("add", "--organization", organization_id, "--amount", amount, "--reference", reference)
        assert wrong.returncode == 2
        assert "--amount" in wrong.stderr
    assert re.fullmatch(r".*enough credits\.\n  price 1000000000\n  balance \d+\n", told)
    assert re.fullmatch(r"(1 account is|\d+ accounts are) right\.\n", credit("check").stdout)
    assert credit("check", "--organization", organization_id).stdout == "1 account is right.\n"
    assert "no such organization" in complaint(
        credit("balance", "--organization", "00000000-0000-0000-0000-000000000000")
    )


def test_a_ledger_that_is_wrong_fails_the_check(dev: RunningDev, tmp_path: Path) -> None:
    async def tampered(delta: int) -> None:
        connection = await asyncpg.connect(dev.ready["database_url"])
        try:
            await connection.execute(
                "update public.credit_accounts set balance = balance + $2, granted = granted + $2"
                " where organization_id = $1",
                uuid.UUID(dev.ready["organization_id"]),
                delta,
            )
        finally:
            await connection.close()

    at_it = {"DATABASE_URL": dev.ready["database_url"]}
    asyncio.run(tampered(1))
    try:
        proof = run("credits", "check", directory=tmp_path, **at_it)
        assert proof.returncode == 1
        assert "wrong: the balance is the sum of the entries" in proof.stdout
        assert dev.ready["organization_id"] in proof.stdout
    finally:
        asyncio.run(tampered(-1))
    assert run("credits", "check", directory=tmp_path, **at_it).returncode == 0


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    url = f"postgresql://me:hunter2@127.0.0.1:{port}/postgres"
    told = complaint(run("migrate", directory=tmp_path, DATABASE_URL=url))
    assert "hunter2" not in told
    assert told == "the database cannot be reached: Connection refused; is DATABASE_URL right?\n"
    told = complaint(run("migrate", directory=tmp_path, DATABASE_URL="mysql://me:hunter2@host/db"))
    assert told.endswith("it must look like postgresql://user:password@host:5432/postgres\n")
    assert "hunter2" not in told
