"""Run a workflow and wait for its answer, then run another one and print its events as they arrive.

Against ``n8n-gateway dev --ready-file ready.json``::

    python execute.py --ready-file ready.json

Against any gateway, with one workflow for both::

    python execute.py --target gateway.example.com:443 --token "$TOKEN" --workflow 01939f1e-…

With --signed an API key calls in place of the token and signs: the ready file's, or that of the environment's
N8N_GATEWAY_API_KEY and N8N_GATEWAY_CLIENT_SECRET.

The status is 0 when both runs succeeded, 1 when a call or a run failed, 2 when the arguments are wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from n8n_gateway_client import Break, Client, error_info, follow
from n8n_gateway_client.v1.execution_event_pb2 import ExecutionEvent
from n8n_gateway_client.v1.execution_service_pb2 import (
    ExecuteRequest,
    ExecuteStreamRequest,
    WatchExecutionRequest,
)

MOST_ATTEMPTS = 3


class UsageError(Exception):
    """The arguments do not say which gateway and workflows to use."""


class RunError(Exception):
    """The gateway answered, but the run did not succeed."""

    def __init__(self, execution_id: str, outcome: str) -> None:
        super().__init__(f"execution {execution_id} ended as {outcome}")


@dataclass(frozen=True)
class Place:
    """Where to run what."""

    target: str
    identity: Mapping[str, str] = field(repr=False)
    echo: str
    stream: str
    secure: bool
    tenant: str | None = None


def main() -> int:
    """Run both and return the exit status."""
    try:
        place = find_place(parse_arguments())
        with Client(place.target, **place.identity, tenant=place.tenant, secure=place.secure) as client:
            execute(client, place.echo)
            execute_stream(client, place.stream)
    except UsageError as error:
        print(f"execute.py: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"the run failed: {error}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"the call failed: {error_info(error)}", file=sys.stderr)
        return 1
    return 0


def execute(client: Client, workflow_id: str) -> None:
    """Run a workflow, wait, and print the answer. The key makes it safe to repeat the call."""
    key = str(uuid.uuid4())
    request = ExecuteRequest(workflow_id=workflow_id, metadata={"source": "example"}, idempotency_key=key)
    ParseDict({"message": "hello"}, request.data)
    answer = client.executions.Execute(request, timeout=60)
    print(json.dumps(MessageToDict(answer, preserving_proto_field_name=True), indent=2))
    if not answer.success:
        raise RunError(answer.execution_id, answer.status)


def execute_stream(client: Client, workflow_id: str) -> None:
    """Run a workflow and print each event when it arrives, with the seconds since the call."""
    request = ExecuteStreamRequest(workflow_id=workflow_id, metadata={"source": "example"})
    ParseDict({"message": "hello"}, request.data)
    started = time.monotonic()
    last = ExecutionEvent()

    def resume(where: Break) -> Iterable[ExecutionEvent] | None:
        print(f"the stream of {where.execution_id} broke after event {where.last_sequence}", file=sys.stderr)
        if where.attempt > MOST_ATTEMPTS:
            return None
        request = WatchExecutionRequest(execution_id=where.execution_id, after_sequence=where.last_sequence)
        return client.executions.WatchExecution(request, timeout=60)

    for event in follow(client.executions, request, on_break=resume, timeout=60):
        last = event
        print(f"+{time.monotonic() - started:.3f}s  {event.sequence:3}  {describe(event)}", flush=True)
    if not last.HasField("completed"):
        raise RunError(last.execution_id, last.WhichOneof("event") or "nothing")


def describe(event: ExecutionEvent) -> str:
    """Return one line that tells an event."""
    match event.WhichOneof("event"):
        case "chunk":
            chunk = event.chunk
            content: Any = getattr(chunk, chunk.WhichOneof("content") or "text")
            text = json.dumps(MessageToDict(content)) if chunk.HasField("json") else repr(content)
            return f"chunk       {chunk.node_name}: {text}"
        case "completed":
            return (
                f"completed   {event.completed.credits_used} credits, {event.completed.execution_time_ms} ms"
            )
        case "failed":
            return f"failed      {event.failed.status.message}"
        case kind:
            return f"{kind}"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Run workflows through n8n-gateway over gRPC.")
    parser.add_argument("--ready-file", type=Path, help="JSON written by `n8n-gateway dev --ready-file`")
    parser.add_argument("--target", help="host:port of the gateway's gRPC door")
    parser.add_argument("--token", help="session token")
    parser.add_argument("--workflow", help="id of the workflow to run")
    parser.add_argument("--stream-workflow", help="id of the workflow to stream, if it is another one")
    parser.add_argument("--signed", action="store_true", help="call with an API key, and sign")
    parser.add_argument("--insecure", action="store_true", help="connect without TLS")
    return parser.parse_args()


def find_place(arguments: argparse.Namespace) -> Place:
    """Return what the ready file or the other arguments say; raise UsageError when they do not say all."""
    if arguments.ready_file is not None:
        return read_ready_file(arguments.ready_file, signed=arguments.signed)
    names = {"api_key": "N8N_GATEWAY_API_KEY", "client_secret": "N8N_GATEWAY_CLIENT_SECRET"}
    key = {argument: os.environ.get(name, "") for argument, name in names.items()}
    identity = key if arguments.signed else {"token": arguments.token}
    if not (arguments.target and all(identity.values()) and arguments.workflow):
        needed = f"{' and '.join(names.values())} in the environment" if arguments.signed else "--token"
        raise UsageError(f"give --ready-file, or --target, --workflow and {needed}")
    return Place(
        arguments.target,
        identity,
        echo=arguments.workflow,
        stream=arguments.stream_workflow or arguments.workflow,
        secure=not arguments.insecure,
    )


def read_ready_file(path: Path, *, signed: bool) -> Place:
    """Return what `dev` has written; its door is on this machine and without TLS."""
    try:
        ready: Mapping[str, Any] = json.loads(path.read_text())
        names = ("api_key", "client_secret") if signed else ("token",)
        workflows = ready["workflows"]
        return Place(
            target=ready["grpc_url"],
            identity={name: ready[name] for name in names},
            echo=workflows["echo"],
            stream=workflows["stream"],
            secure=False,
            tenant=ready["organization_id"],
        )
    except OSError as error:
        message = f"cannot read the ready file: {error}"
        raise UsageError(message) from error
    except (ValueError, TypeError) as error:
        message = f"{path} is not the JSON of a ready file: {error}"
        raise UsageError(message) from error
    except KeyError as error:
        message = f"{path} has no {error}"
        raise UsageError(message) from error


if __name__ == "__main__":
    sys.exit(main())
