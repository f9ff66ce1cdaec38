"""What the clients' READMEs show: every snippet compiles, and the first of each runs against the gateway."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import n8n_gateway_client
import pytest
from n8n_gateway_client.v1 import execution_service_pb2

from tests.clients.builds import GO, ROOT, build_go_example, build_typescript, run
from tests.conftest import RunningDev


def snippets(client: str, language: str) -> list[str]:
    text = (ROOT / "clients" / client / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


async def test_python_snippets_run(dev: RunningDev, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(snippet: str) -> str:
        return snippet.replace("localhost:50051", dev.ready["grpc_url"])

    def run_all() -> None:
        first, with_asyncio, rest, resume, errors = map(shown, snippets("python", "python"))
        names: dict[str, Any] = {"token": dev.ready["token"], "workflow_id": dev.ready["workflows"]["stream"]}
        exec(first, names)
        exec(f"async def main():\n{textwrap.indent(with_asyncio, '    ')}", names)
        asyncio.run(names["main"]())
        exec(
            rest,
            names | {"url": dev.ready["http_url"]} | {n: dev.ready[n] for n in ("api_key", "client_secret")},
        )
        names |= vars(n8n_gateway_client) | vars(execution_service_pb2)
        with n8n_gateway_client.Client(
            dev.ready["grpc_url"], token=dev.ready["token"], secure=False
        ) as client:
            names |= {"client": client}
            request = execution_service_pb2.ExecuteStreamRequest(workflow_id=names["workflow_id"])
            exec(resume, names | {"request": request})
            exec(errors, names | {"request": execution_service_pb2.ExecuteRequest(workflow_id="no id")})

    await asyncio.to_thread(run_all)
    printed = capsys.readouterr().out
    assert "completed" in printed
    assert "workflow_id must be a valid UUID" in printed


TYPESCRIPT = {
    # What each snippet takes for granted, in the order of the README.
    "first": "const token = process.env.TOKEN!, workflowId = process.env.WORKFLOW!;",
    "browser": "declare const baseUrl: string, session: { getToken(): Promise<string> };",
    "service": "",
    "signing": """
        import { createConnectTransport } from "@connectrpc/connect-node";
        import { createGatewayClient } from "n8n-gateway-client";
        declare const apiKey: string, clientSecret: string, baseUrl: string;""",
    "break": """
        import { follow, type GatewayClient } from "n8n-gateway-client";
        declare const client: GatewayClient, workflowId: string;""",
    "errors": """
        import type { MessageInitShape } from "@bufbuild/protobuf";
        import type { GatewayClient } from "n8n-gateway-client";
        import { ExecuteRequestSchema } from "n8n-gateway-client/v1/execution_service";
        declare const client: GatewayClient, request: MessageInitShape<typeof ExecuteRequestSchema>;""",
}


def test_typescript_snippets_compile_and_the_first_runs(dev: RunningDev) -> None:
    folder = build_typescript()
    sources = folder / "build" / "readme"
    sources.mkdir(parents=True, exist_ok=True)
    for (name, given), snippet in zip(TYPESCRIPT.items(), snippets("typescript", "ts"), strict=True):
        text = f"{given}\n{snippet}\nexport {{}};\n".replace("http://localhost:8000", dev.ready["http_url"])
        (sources / f"{name}.ts").write_text(text)
    unused = {"noUnusedLocals": False, "noUnusedParameters": False}
    options = {"composite": False, "types": ["node"], "outDir": "out", **unused}
    settings = {"extends": "../../tsconfig.base.json", "compilerOptions": options, "include": ["*.ts"]}
    (sources / "tsconfig.json").write_text(json.dumps(settings))
    compiled = run([str(folder / "node_modules/.bin/tsc"), "--project", str(sources)], folder)
    assert compiled.returncode == 0, compiled.stdout
    assert "completed" in ran(["node", str(sources / "out" / "first.js")], dev, folder)


GO_PROGRAM = """
package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"
	IMPORTS
)

func first(ctx context.Context, token, workflow string, data *structpb.Struct) error {
	FIRST
	return nil
}

func overGRPC(token string) {
	GRPC
	_ = client
}

func otherTenant(ctx context.Context, other string) {
	TENANT
	_ = ctx
}

func overREST(apiKey, clientSecret, url string, body []byte) error {
	REST
	_ = response
	return err
}

func resumed(ctx context.Context, client *n8ngateway.Client, request *v1.ExecuteStreamRequest) error {
	RESUME
		_, _ = event, err
	}
	return nil
}

func told(err error) {
	ERRORS
}

func main() {
	if err := first(context.Background(), os.Getenv("TOKEN"), os.Getenv("WORKFLOW"), nil); err != nil {
		panic(err)
	}
}
"""


def test_go_snippets_compile_and_the_first_runs(dev: RunningDev, tmp_path: Path) -> None:
    build_go_example(tmp_path)
    first, *others = snippets("go", "go")
    imports, _, body = first.partition(")\n")
    parts = dict(zip(("GRPC", "TENANT", "REST", "RESUME", "ERRORS"), others, strict=True))
    parts |= {"FIRST": body.replace("http://localhost:8000", dev.ready["http_url"])}
    parts |= {"IMPORTS": imports.removeprefix("import (\n")}
    program = re.sub(rf"\b({'|'.join(parts)})\b", lambda found: parts[found[1]], GO_PROGRAM)
    (tmp_path / "main.go").write_text(program)
    overlay = {"Replace": {str(GO / "examples/readme/main.go"): str(tmp_path / "main.go")}}
    (tmp_path / "overlay.json").write_text(json.dumps(overlay))
    to = ["-overlay", str(tmp_path / "overlay.json"), "-o", str(tmp_path / "readme")]
    built = run(["go", "build", *to, "./examples/readme"], GO)
    assert built.returncode == 0, built.stderr
    assert "completed" in ran([str(tmp_path / "readme")], dev, tmp_path)


def ran(command: list[str], dev: RunningDev, directory: Path) -> str:
    """What a program that follows a run prints."""
    told = {"TOKEN": dev.ready["token"], "WORKFLOW": dev.ready["workflows"]["stream"]}
    done = subprocess.run(
        command, cwd=directory, env=os.environ | told, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
