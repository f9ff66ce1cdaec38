"""`n8n-gateway sign`, and what docs/signing.md says, each tried against a gateway as its reader would."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
import pytest

from tests.conftest import RunningDev
from tests.forked import forked

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/signing.md").read_text()
KEY = f"gw_test_{'a' * 16}_{'a' * 52}"
SECRET = "gw_secret_told_to_nobody"


def sign(
    *arguments: str, key: str | None = KEY, secret: str | None = SECRET, body: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    environment = {"N8N_GATEWAY_API_KEY": key, "N8N_GATEWAY_CLIENT_SECRET": secret}
    return forked(
        *("sign", *arguments),
        directory=ROOT,
        environment={name: value for name, value in environment.items() if value is not None},
        body=body or b"",
    )


def headers_of(output: bytes) -> dict[str, str]:
    lines = output.decode().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def execute_of(dev: RunningDev) -> tuple[str, str]:
    """The URL and a body that runs a workflow, another each time: v1 signs the same twice a second."""
    data = {"input": 'it\'s "€"', "number": uuid.uuid4().hex}
    body = json.dumps({"workflow_id": dev.ready["workflows"]["echo"], "data": data})
    return f"{dev.ready['http_url']}/api/v1/execute?", body


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("source", ["data", "file", "standard input"])
def test_its_headers_are_taken(dev: RunningDev, tmp_path: Path, version: str, source: str) -> None:
    url, body = execute_of(dev)
    file = tmp_path / "body.json"
    file.write_text(body, encoding="utf-8")
    given = {"data": ("--data", body), "file": ("--data-file", str(file))}
    secret_file = tmp_path / "secret"
    secret_file.write_text(f"{dev.ready['client_secret']}\n")
    made = sign(
        url,
        *given.get(source, ("--data-file", "-")),
        *("--version", version),
        *("--tenant", dev.ready["organization_id"]),
        *("--client-secret-file", str(secret_file)),
        key=dev.ready["api_key"],
        secret=None,
        body=body.encode(),
    )
    assert made.returncode == 0, made.stderr
    assert dev.ready["client_secret"].encode() not in made.stdout + made.stderr
    headers = headers_of(made.stdout)
    assert ("X-Nonce" in headers) == (version == "2")
    answer = httpx.post(url, content=body.encode(), headers=headers)
    assert answer.json().get("success"), answer.text


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("source", ["data", "file"])
@pytest.mark.parametrize("key_source", ["environment", "file of the environment", "file"])
def test_its_command_can_be_pasted_and_holds_no_secret(
    dev: RunningDev, tmp_path: Path, source: str, key_source: str
) -> None:
    url, body = execute_of(dev)
    file, key_file = tmp_path / "a body.json", tmp_path / "it's a key"
    file.write_text(body, encoding="utf-8")
    key_file.write_text(f"{dev.ready['api_key']}\n")
    given = ("--data", body) if source == "data" else ("--data-file", str(file))
    key = {"environment": dev.ready["api_key"], "file of the environment": f"@{key_file}"}.get(key_source)
    if key is None:
        given += ("--api-key", f"@{key_file}")
    made = sign(url, *given, "--curl", key=key, secret=dev.ready["client_secret"])
    for secret in ("api_key", "client_secret"):
        assert dev.ready[secret].rpartition("_")[2].encode() not in made.stdout
    answer = subprocess.run(
        ["sh", "-c", made.stdout],
        env={"PATH": os.environ["PATH"], **({} if key is None else {"N8N_GATEWAY_API_KEY": key})},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert json.loads(answer.stdout)["success"], made.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_its_command_shows_the_key_to_nobody_who_lists_processes(tmp_path: Path) -> None:
    seen = tmp_path / "curl"
    seen.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    seen.chmod(0o755)
    made = sign("http://x/", "--curl")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "N8N_GATEWAY_API_KEY": KEY}
    ran = subprocess.run(
        ["sh", "-c", made.stdout], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert "http://x/" in ran.stdout.split()
    assert KEY not in ran.stdout


def test_a_command_that_could_not_find_the_key_is_not_printed() -> None:
    made = sign("http://x/", "--curl", "--api-key", "@-", key=None, body=KEY.encode())
    assert (made.returncode, made.stdout) == (2, b"")
    assert b"--api-key" in made.stderr
    assert b"N8N_GATEWAY_API_KEY" in made.stderr
    assert KEY.encode() not in made.stderr


def test_a_request_without_a_body_has_no_content_type(dev: RunningDev) -> None:
    url = f"{dev.ready['http_url']}/api/v1/workflows?page_size=1"
    made = sign(url, key=dev.ready["api_key"], secret=dev.ready["client_secret"])
    headers = headers_of(made.stdout)
    assert "Content-Type" not in headers
    assert "workflows" in httpx.get(url, headers=headers).json()


def test_a_message_of_grpc_is_signed_by_its_path(dev: RunningDev) -> None:
    import grpc  # noqa: PLC0415

    path = "/n8ngateway.v1.WorkflowService/ListWorkflows"
    made = sign(
        path,
        *("--data-file", "-", "--content-type", "application/grpc"),
        key=dev.ready["api_key"],
        secret=dev.ready["client_secret"],
        body=b"\x10\x01",
    )
    metadata = [(name.lower(), value) for name, value in headers_of(made.stdout).items()]
    with grpc.insecure_channel(dev.ready["grpc_url"]) as channel:
        assert channel.unary_unary(path)(b"\x10\x01", metadata=metadata, timeout=20)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("http://x/", "-d", "a", "--data-file", "b"), "not both"),
        (("http://x/", "--data-file", "/nowhere/at/all"), "cannot be read"),
        (("http://x/", "--client-secret-file", "/nowhere/at/all"), None),
        (("nowhere",), "begins with /"),
        (("http://x/ä",), "percent-encoded"),
        (("http://[x/",), "malformed"),
        (("/n8ngateway.v1.X/Y", "--curl"), "needs a URL"),
        (("http://x/", "-d", "@file", "--curl"), "--data-file"),
        (("http://x/\nX-Other: header",), "percent-encoded"),
        (("",), "begins with /"),
        (("http://me:hunter2@x/",), "names a user"),
        (("http://x/", "-X", "GET\nX-Other: header"), "method"),
        (("http://x/", "--content-type", "text/plain\nX-Other: header"), "content type"),
        (("http://x/", "-d", "\udcff"), "argument 4 is not UTF-8"),
    ],
)
def test_what_cannot_be_signed_is_told(arguments: tuple[str, ...], problem: str | None) -> None:
    made = sign(*arguments, secret=SECRET if problem else None)
    assert (made.returncode, made.stdout) == (1, b"")
    assert (problem or "cannot be read").encode() in made.stderr.replace(b"\n", b" ")
    assert SECRET.encode() not in made.stderr
    assert b"hunter2" not in made.stderr


def test_a_tenant_is_an_organizations_id() -> None:
    made = sign("http://x/", "--tenant", "Acme\nX-Other: header")
    assert (made.returncode, made.stdout) == (2, b"")
    assert b"--tenant" in made.stderr


def test_its_secrets_come_from_files_and_standard_input_too(dev: RunningDev, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{dev.ready['api_key']}\n")
    url = f"{dev.ready['http_url']}/api/v1/workflows"
    given = ("--api-key", f"@{key}", "--client-secret", "@-")
    made = sign(url, *given, key=None, secret=None, body=dev.ready["client_secret"].encode())
    assert httpx.get(url, headers=headers_of(made.stdout)).status_code == 200
    both = sign(url, *given, "--data-file", "-", key=None, secret=None, body=b"of both")
    assert (both.returncode, both.stdout) == (2, b"")
    assert b"standard input" in both.stderr


def test_what_is_missing_is_told() -> None:
    assert b"client secret is missing" in sign("http://x/", secret=None).stderr.replace(b"\n", b" ")
    assert sign("http://x/", key=None).returncode == 2
    wrong = sign("http://x/", key="gw_live_told_to_nobody")
    assert b"has not the form" in wrong.stderr
    assert b"told_to_nobody" not in wrong.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_recipe_in_javascript_works(dev: RunningDev) -> None:
    [recipe] = re.findall(r"```javascript\n(.*?)```", PAGE, re.DOTALL)
    known = {
        "url": dev.ready["http_url"],
        "apiKey": dev.ready["api_key"],
        "clientSecret": dev.ready["client_secret"],
        "tenantId": dev.ready["organization_id"],
        "workflowId": dev.ready["workflows"]["echo"],
    }
    constants = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in known.items())
    script = f"{constants}(async () => {{ {recipe}; console.log(await answer.text()); }})()"
    ran = subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ran.stdout)["data"]["echo"] == {"input": "hello"}


def test_the_page_shows_the_first_vector() -> None:
    file = json.loads((ROOT / "tests/data/signatures.json").read_text())
    vector = file["vectors"][0]
    text = base64.b64decode(vector["signed_text_base64"]).decode()
    shown = "".join(f"    {line}\n" for line in text.splitlines())
    assert f"{shown}\n    X-Signature: {vector['x_signature']}\n" in PAGE
    for value in (
        file["api_key"],
        file["client_secret"],
        base64.b64decode(vector["message_base64"]).decode(),
    ):
        assert f"`{value}`" in PAGE


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_pages_command_runs_a_workflow(dev: RunningDev) -> None:
    [command] = re.findall(r"^    (n8n-gateway sign .*? \| sh)$", PAGE, re.MULTILINE | re.DOTALL)
    variables = {
        "GATEWAY": dev.ready["http_url"],
        "WORKFLOW": dev.ready["workflows"]["echo"],
        "N8N_GATEWAY_API_KEY": dev.ready["api_key"],
        "N8N_GATEWAY_CLIENT_SECRET": dev.ready["client_secret"],
    }
    answer = subprocess.run(
        ["sh", "-c", command.replace("n8n-gateway", f"{shlex.quote(sys.executable)} -m gateway")],
        env={**os.environ, **variables},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert json.loads(answer.stdout)["success"], answer
