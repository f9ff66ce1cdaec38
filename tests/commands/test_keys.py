"""`n8n-gateway keys` on the database of a gateway that serves, and takes the keys."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.rpc.signature import SignedRequest, signed_headers
from tests import leaks
from tests.command import complaint, run
from tests.conftest import RunningDev

Command = Callable[..., subprocess.CompletedProcess[str]]

NOBODYS = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def keys(dev: RunningDev, tmp_path: Path) -> Command:
    """Run a command of `keys` with what the gateway has in its environment."""
    environment = {
        "DATABASE_URL": dev.ready["database_url"],
        "VAULT_KEY": dev.ready["settings"]["VAULT_KEY"],
    }
    return lambda *arguments, **other: run("keys", *arguments, directory=tmp_path, **(environment | other))


@pytest.fixture
def made(dev: RunningDev, keys: Command) -> dict[str, Any]:
    return create(keys, dev, "--name", "From the shell")


def create(keys: Command, dev: RunningDev, *options: str) -> dict[str, Any]:
    ended = keys("create", "--organization", dev.ready["organization_id"], "--json", *options)
    return remembered(answer(ended))


def answer(ended: subprocess.CompletedProcess[str]) -> Any:
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def remembered(made: dict[str, Any]) -> dict[str, Any]:
    leaks.remember("a key of the shell", made["key"], made["client_secret"])
    return made


def asked(dev: RunningDev, made: dict[str, Any]) -> httpx.Response:
    """List workflows with a key, and with its signature."""
    path = "/api/v1/workflows"
    request = SignedRequest(
        timestamp=str(int(time.time())),
        nonce=secrets.token_hex(16),
        tenant="",
        key_id=made["api_key"]["public_id"],
        http_method="GET",
        target=path,
        content_type="",
        message=b"",
    )
    headers = signed_headers(request, made["key"], made["client_secret"])
    return httpx.get(f"{dev.ready['http_url']}{path}", headers=headers)


def reason(refused: httpx.Response) -> Any:
    return next(detail["reason"] for detail in refused.json()["details"] if "reason" in detail)


def test_a_key_of_the_shell_signs_and_is_taken(dev: RunningDev, made: dict[str, Any]) -> None:
    key = made["api_key"]
    assert (key["created_by"], key["name"]) == ("platform", "From the shell")
    assert key["scopes"] == ["executions:*", "workflows:read"]
    assert asked(dev, made).status_code == 200
    forged = made | {"client_secret": "gw_secret_" + "z" * 52}
    assert reason(asked(dev, forged)) == "SIGNATURE_INVALID"


def test_the_vaults_key_may_come_from_a_file(dev: RunningDev, keys: Command, tmp_path: Path) -> None:
    file = tmp_path / "vault-key"
    file.write_text(f"{dev.ready['settings']['VAULT_KEY']}\n")
    options = ("--organization", dev.ready["organization_id"], "--name", "Of a file", "--json")
    made = remembered(answer(keys("create", *options, "--vault-key", f"@{file}", VAULT_KEY="")))
    assert asked(dev, made).status_code == 200


def test_a_key_is_as_its_options_say(dev: RunningDev, keys: Command) -> None:
    workflow = dev.ready["workflows"]["echo"]
    options = (
        "--name",
        "CI",
        "--scope",
        "executions:read",
        "--scope",
        "workflows:read",
        "--workflow",
        workflow,
    )
    limits = ("--expires", "90d", "--rate", "30/minute", "--environment", "test")
    key = create(keys, dev, *options, *limits)["api_key"]
    assert key["public_id"].startswith("gw_test_")
    assert key["scopes"] == ["executions:read", "workflows:read"]
    assert key["workflow_ids"] == [workflow]
    assert key["rate_limit"] == {"requests": 30, "period_seconds": 60}
    left = datetime.fromisoformat(key["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89, hours=23) < left <= timedelta(days=90)
    moment = create(keys, dev, "--name", "CI", "--expires", "2099-01-31T12:00:00+01:00")["api_key"]
    assert moment["expires_at"] == "2099-01-31T11:00:00Z"


def test_the_secrets_of_a_key_are_shown_once(dev: RunningDev, keys: Command) -> None:
    of = ("--organization", dev.ready["organization_id"])
    shown = keys("create", "--name", "For [people]", *of)
    told = dict(line.strip().rsplit(" ", 1) for line in shown.stdout.splitlines())
    remembered({"key": told["key"], "client_secret": told["client secret"]})
    assert told["key"].startswith(f"{told['public id']}_")
    assert "nothing shows them again" in shown.stderr
    listed = keys("list", *of).stdout
    assert f"{told['public id']}  active  For [people]\n  scopes executions:*, workflows:read\n" in listed
    everything = listed + keys("list", "--json", *of).stdout
    assert told["key"] not in everything
    assert told["client secret"] not in everything


def test_a_rotated_key_works_within_its_overlap_and_not_after(
    dev: RunningDev, keys: Command, made: dict[str, Any]
) -> None:
    public_id = made["api_key"]["public_id"]
    second = remembered(answer(keys("rotate", public_id, "--json")))
    assert second["api_key"]["public_id"] == public_id
    assert [asked(dev, key).status_code for key in (made, second)] == [200, 200]
    third = remembered(answer(keys("rotate", public_id, "--overlap", "0s", "--json")))
    assert not third["api_key"].get("previous_expires_at")
    refused_within_five_seconds(dev, second, "API_KEY_ROTATED")
    assert asked(dev, third).status_code == 200


def test_a_revoked_key_is_refused(dev: RunningDev, keys: Command, made: dict[str, Any]) -> None:
    assert asked(dev, made).status_code == 200
    public_id = made["api_key"]["public_id"]
    shown = keys("revoke", public_id).stdout
    assert f"  public id {public_id}\n  state revoked\n" in shown
    assert answer(keys("revoke", public_id, "--json"))["state"] == "API_KEY_STATE_REVOKED"
    refused_within_five_seconds(dev, made, "API_KEY_REVOKED")
    of = ("--organization", dev.ready["organization_id"])
    assert public_id in keys("list", "--state", "revoked", *of).stdout
    assert public_id not in keys("list", "--state", "active", *of).stdout
    assert "has been revoked" in complaint(keys("rotate", public_id))


def refused_within_five_seconds(dev: RunningDev, made: dict[str, Any], why: str) -> None:
    """Ask until a gateway that had seen the key looks again; the database refuses it at once, and alike."""
    refused = asked(dev, made)
    while refused.status_code == 200:
        time.sleep(0.1)
        refused = asked(dev, made)
    assert (refused.status_code, reason(refused)) == (401, why)


def test_what_does_not_fit_is_told(dev: RunningDev, keys: Command, made: dict[str, Any]) -> None:
    of = ("--organization", dev.ready["organization_id"])
    wrong = {
        "--name": ("create", *of, "--name", ""),
        "--expires": ("create", *of, "--name", "CI", "--expires", "soon"),
        "--rate": ("create", *of, "--name", "CI", "--rate", "fast"),
        "--scope": ("create", *of, "--name", "CI", "--scope", "everything"),
        "--overlap": ("rotate", made["api_key"]["public_id"], "--overlap", "31d"),
        "KEY": ("revoke", "my-key"),
        "whole key": ("revoke", made["key"]),
    }
    for named, arguments in wrong.items():
        ended = keys(*arguments)
        assert ended.returncode == 2, arguments
        assert named in ended.stderr
        assert made["key"] not in ended.stderr
    told = complaint(keys("create", *of, "--name", "CI", "--scope", "api_keys:write"))
    assert "executions:write" in told
    assert "in the future" in complaint(keys("create", *of, "--name", "CI", "--expires", "2020-01-01"))
    assert "no such API key" in complaint(keys("revoke", f"gw_live_{'a' * 16}"))
    assert "no such organization" in complaint(keys("list", "--organization", NOBODYS))


def test_a_secret_that_the_gateway_could_not_read_is_not_kept(dev: RunningDev, keys: Command) -> None:
    create_ = ("create", "--organization", dev.ready["organization_id"], "--name", "CI")
    assert "VAULT_KEY is missing" in complaint(keys(*create_, VAULT_KEY=""))
    other = base64.b64encode(secrets.token_bytes(32)).decode()
    assert "not the one that has sealed" in complaint(keys(*create_, VAULT_KEY=other))
    short = keys(*create_, VAULT_KEY="hunter2")
    assert short.returncode == 2
    assert "VAULT_KEY" in short.stderr
    assert "hunter2" not in short.stderr
