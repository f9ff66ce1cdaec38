"""clients/python/examples/execute.py as its reader runs it, against a real gRPC server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from n8n_gateway_client.v1.execution_event_pb2 import (
    ExecutionChunk,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionStarted,
    NodeStarted,
)
from n8n_gateway_client.v1.execution_service_pb2 import ExecuteRequest, ExecuteResponse, ExecuteStreamRequest
from n8n_gateway_client.v1.execution_service_pb2_grpc import (
    ExecutionServiceServicer,
    add_ExecutionServiceServicer_to_server,
)

EXAMPLE = Path(__file__).resolve().parents[2] / "clients" / "python" / "examples" / "execute.py"


class Executions(ExecutionServiceServicer):
    """Echoes; streams two chunks and the end that the workflow's name asks for."""

    def Execute(  # noqa: N802 (the name of the RPC)
        self, request: ExecuteRequest, context: grpc.ServicerContext
    ) -> ExecuteResponse:
        if request.workflow_id == "unknown":
            context.abort(grpc.StatusCode.NOT_FOUND, "There is no such workflow.")
        response = ExecuteResponse(success=True, status="completed", credits_used=1)
        response.data.struct_value.CopyFrom(request.data)
        return response

    def ExecuteStream(  # noqa: N802 (the name of the RPC)
        self, request: ExecuteStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[ExecutionEvent]:
        assert context.is_active()
        yield ExecutionEvent(sequence=1, started=ExecutionStarted(credits_reserved=1))
        yield ExecutionEvent(sequence=2, node_started=NodeStarted(node_name="Say"))
        yield ExecutionEvent(sequence=3, chunk=ExecutionChunk(node_name="Say", text="one"))
        chunk = ExecutionChunk(node_name="Say")
        chunk.json.number_value = 2
        yield ExecutionEvent(sequence=4, chunk=chunk)
        if request.workflow_id == "fail":
            failed = ExecutionFailed()
            failed.status.message = "A node failed."
            yield ExecutionEvent(execution_id="e", sequence=5, failed=failed)
        else:
            yield ExecutionEvent(sequence=5, completed=ExecutionCompleted(credits_used=1))


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    add_ExecutionServiceServicer_to_server(Executions(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments], check=False, capture_output=True, text=True
    )


def ready_file(tmp_path: Path, target: str, **workflows: str) -> Path:
    ids = {"echo": "echo", "stream": "stream", "fail": "fail", **workflows}
    path = tmp_path / "ready.json"
    path.write_text(
        json.dumps({"grpc_url": target, "token": "the-secret", "organization_id": "o", "workflows": ids})
    )
    return path


def test_ready_file(target: str, tmp_path: Path) -> None:
    result = run("--ready-file", str(ready_file(tmp_path, target)))
    assert (result.returncode, result.stderr) == (0, "")
    answer, _, events = result.stdout.partition("\n}\n")
    assert json.loads(answer + "}")["data"] == {"message": "hello"}
    told = [line.split(maxsplit=2)[1:] for line in events.splitlines()]
    assert told == [
        ["1", "started"],
        ["2", "node_started"],
        ["3", "chunk       Say: 'one'"],
        ["4", "chunk       Say: 2.0"],
        ["5", "completed   1 credits, 0 ms"],
    ]


def test_arguments_in_place_of_a_ready_file(target: str) -> None:
    result = run("--target", target, "--token", "t", "--workflow", "w", "--insecure")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("workflows", "message"),
    [
        ({"stream": "fail"}, "the run failed: execution e ended as failed\n"),
        ({"echo": "unknown"}, "the call failed: NOT_FOUND: There is no such workflow.\n"),
    ],
)
def test_failures_are_told(target: str, tmp_path: Path, workflows: dict[str, str], message: str) -> None:
    result = run("--ready-file", str(ready_file(tmp_path, target, **workflows)))
    assert (result.returncode, result.stderr) == (1, message)


def test_nobody_there(tmp_path: Path) -> None:
    result = run("--ready-file", str(ready_file(tmp_path, "127.0.0.1:1")))
    assert result.returncode == 1
    assert result.stderr.startswith("the call failed: UNAVAILABLE: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the ready file"),
        ("{", "is not the JSON of a ready file"),
        ("[]", "is not the JSON of a ready file"),
        ("{}", "has no 'workflows'"),
    ],
)
def test_ready_files_that_are_none(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "ready.json"
    if content is not None:
        path.write_text(content)
    result = run("--ready-file", str(path))
    assert result.returncode == 2
    assert message in result.stderr


def test_no_arguments() -> None:
    result = run()
    assert (result.returncode, result.stderr) == (
        2,
        "execute.py: give --ready-file, or --target, --workflow and --token\n",
    )
