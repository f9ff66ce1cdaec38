"""`n8n-gateway call` in front of a gateway that serves, through every door."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import grpc
import httpx
import pytest
from protobuf.wkt import Any as Any_
from typer.testing import CliRunner, Result

from gateway.cli import application
from gateway.client.methods import METHODS, completions, find_method, full_name, rest_binding
from gateway.rpc.errors import Code
from gateway.transcoding.gen.google.rpc.status_pb import Status
from tests.command import ROOT, environment_of, serving
from tests.conftest import RunningDev
from tests.doors.certificates import Authority
from tests.stub_n8n import StubN8n

Command = Callable[..., Result]

DOORS = ["connect", "rest", "grpc", "grpc-web"]
SECONDS = 60
NOT_FOUND, UNAUTHENTICATED, DEADLINE_EXCEEDED, UNAVAILABLE, UNKNOWN = 69, 80, 68, 78, 66
FAILED_PRECONDITION = 73


@pytest.fixture
def environment(dev: RunningDev) -> dict[str, str]:
    """What a user exports: where the gateway is, and a token."""
    return {
        "N8N_GATEWAY_URL": dev.ready["http_url"],
        "N8N_GATEWAY_GRPC_URL": f"http://{dev.ready['grpc_url']}",
        "N8N_GATEWAY_TOKEN": dev.ready["token"],
        "COLUMNS": "300",  # so that no line is broken
    }


@pytest.fixture
def signed(dev: RunningDev, environment: dict[str, str]) -> dict[str, str]:
    """The same with an API key in the token's place."""
    key = {
        "N8N_GATEWAY_TOKEN": "",
        "N8N_GATEWAY_API_KEY": dev.ready["api_key"],
        "N8N_GATEWAY_CLIENT_SECRET": dev.ready["client_secret"],
    }
    return environment | key


@pytest.fixture
def call(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command in this process, with a token unless another environment is given."""
    monkeypatch.setattr(os, "_exit", sys.exit)  # this process has more to do

    def called(*arguments: str, env: dict[str, str] = environment, stdin: str = "") -> Result:
        return CliRunner().invoke(application, ["call", *arguments], env=env, input=stdin)

    return called


@pytest.fixture
def gated(dev: RunningDev, stub_n8n: StubN8n) -> Iterator[str]:
    """A workflow that streams one item and holds the others back until the gate opens."""
    workflow = {"name": f"call {uuid.uuid4()}", "webhook_path": "gated", "credits_per_execution": 1}
    answer = httpx.post(f"{dev.ready['http_url']}/api/v1/workflows", json=workflow, headers=dev.bearer)
    stub_n8n.close_gate()
    yield answer.raise_for_status().json()["id"]
    stub_n8n.open_gate()


def process(*arguments: str, env: dict[str, str], **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", "call", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def run_of(workflow: str, **fields: Any) -> tuple[str, str]:
    return "--data", json.dumps({"workflow_id": workflow, **fields})


@pytest.mark.parametrize("door", DOORS)
def test_a_signed_call_is_answered_through_every_door(
    dev: RunningDev, call: Command, signed: dict[str, str], door: str
) -> None:
    tenant = ("--tenant", dev.ready["organization_id"])
    data = run_of(dev.ready["workflows"]["echo"], data={"ä b": [1, None]})
    ran = call("Execute", "--protocol", door, *data, *tenant, env=signed)
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["status"] == "completed"
    read = ("--data", json.dumps({"id": json.loads(ran.stdout)["execution_id"]}))
    shown = call("executionservice/getexecution", "--protocol", door, *read, env=signed)
    assert '"state": "EXECUTION_STATE_COMPLETED"' in shown.stdout, shown.output
    forged = call(
        "ListWorkflows",
        *("--protocol", door),
        env=signed | {"N8N_GATEWAY_CLIENT_SECRET": "gw_secret_of_nobody"},
    )
    assert (forged.exit_code, forged.stdout) == (UNAUTHENTICATED, "")
    assert "reason SIGNATURE_INVALID" in forged.stderr


@pytest.mark.parametrize("door", DOORS)
def test_the_messages_of_a_stream_are_lines_that_come_as_they_arrive(
    environment: dict[str, str], stub_n8n: StubN8n, gated: str, door: str
) -> None:
    running = process("ExecuteStream", "--protocol", door, *run_of(gated), env=environment)
    assert running.stdout is not None
    events = [json.loads(next(running.stdout))]
    while "chunk" not in events[-1]:
        events.append(json.loads(next(running.stdout)))
    stub_n8n.open_gate()
    events += map(json.loads, running.stdout)
    _, told = running.communicate(timeout=SECONDS)
    assert (running.returncode, told) == (0, "")
    assert "started" in events[0]
    assert "completed" in events[-1]
    assert [event["sequence"] for event in events] == [*range(1, len(events) + 1)]


@pytest.mark.parametrize("door", DOORS)
def test_a_failure_is_told_with_its_facts_and_by_the_exit_status(
    dev: RunningDev, call: Command, door: str
) -> None:
    missing = call("GetWorkflow", "--protocol", door, "--data", json.dumps({"id": str(uuid.uuid4())}))
    assert (missing.exit_code, missing.stdout) == (NOT_FOUND, "")
    assert missing.stderr.startswith("error: NOT_FOUND: ")
    assert "\n  reason WORKFLOW_NOT_FOUND\n" in missing.stderr
    assert "\n  request id " in missing.stderr
    failed = call("ExecuteStream", "--protocol", door, *run_of(dev.ready["workflows"]["fail"]))
    assert failed.exit_code == FAILED_PRECONDITION
    assert "failed" in json.loads(failed.stdout.splitlines()[-1])
    assert "reason N8N_WEBHOOK_NOT_REGISTERED" in failed.stderr
    wrong = call("Execute", "--protocol", door, "--data", '{"workflow_id": "mine", "credits": -1}')
    assert "\n  workflow_id " in wrong.stderr
    assert "\n  credits " in wrong.stderr


@pytest.mark.parametrize("door", DOORS)
def test_a_call_that_takes_too_long_ends(call: Command, gated: str, door: str) -> None:
    ended = call("Execute", "--protocol", door, "--timeout", "0.5", *run_of(gated))
    assert ended.exit_code == DEADLINE_EXCEEDED
    assert ended.stderr.startswith("error: DEADLINE_EXCEEDED: ")


@contextlib.contextmanager
def hanging_up() -> Iterator[str]:
    """A server that ends each connection when the first bytes have come."""

    class HangUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HangUp) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("door", DOORS)
def test_a_gateway_that_is_away_is_told(call: Command, environment: dict[str, str], door: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        away = f"http://127.0.0.1:{bound.getsockname()[1]}"
    nowhere = {"N8N_GATEWAY_URL": away, "N8N_GATEWAY_GRPC_URL": away}
    ended = call("GetLiveness", "--protocol", door, env=environment | nowhere)
    assert ended.exit_code == UNAVAILABLE
    assert ended.stderr == (
        f"error: UNAVAILABLE: Nothing listens at {away}: start the gateway there,"
        " or name its address with --url, or with --grpc-url for gRPC.\n"
    )


@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_gateway_is_told(call: Command, environment: dict[str, str], door: str) -> None:
    with hanging_up() as url:
        where = {"N8N_GATEWAY_URL": url, "N8N_GATEWAY_GRPC_URL": url}
        ended = call("GetLiveness", "--protocol", door, env=environment | where)
    assert ended.exit_code == UNAVAILABLE
    assert ended.stderr.startswith(f"error: UNAVAILABLE: {url} broke the connection off: ")


def refuse(_: bytes, context: grpc.ServicerContext) -> bytes:
    """Tell by the status alone, as a balancer that has nobody to pass a call on to."""
    context.abort(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")


def answer_with_no_message(_request: bytes, _context: grpc.ServicerContext) -> bytes:
    return b"\xff"


def abort_with(details: bytes) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def abort(_: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")

    return abort


UNREADABLE_DETAIL = Status(
    code=int(Code.INTERNAL),
    message="of no gateway",
    details=[Any_(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")],
).to_binary()


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (refuse, "UNAVAILABLE: no healthy upstream"),
        (abort_with(b"\xff"), "UNAVAILABLE: no healthy upstream"),
        (abort_with(Status(code=255).to_binary()), "UNAVAILABLE: no healthy upstream"),
        (abort_with(UNREADABLE_DETAIL), "INTERNAL: of no gateway"),
        (answer_with_no_message, "UNKNOWN: The answer is no message of a gateway's."),
    ],
    ids=["balancer", "no status", "no code", "no detail", "no message"],
)
def test_what_another_server_says_over_grpc_is_told(
    call: Command,
    environment: dict[str, str],
    behaviour: Callable[[bytes, grpc.ServicerContext], bytes],
    told: str,
) -> None:
    method = find_method("GetLiveness")
    handlers = {method.name: grpc.unary_unary_rpc_method_handler(behaviour)}
    handler = grpc.method_handlers_generic_handler(method.parent.type_name, handlers)
    server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    where = {"N8N_GATEWAY_GRPC_URL": f"http://127.0.0.1:{port}"}
    ended = call("GetLiveness", "--protocol", "grpc", env=environment | where)
    server.stop(None).wait(SECONDS)
    assert ended.stderr == f"error: {told}\n"
    assert ended.exit_code == 64 + Code[told.partition(":")[0]]


@pytest.mark.parametrize("door", DOORS)
def test_a_host_that_is_not_known_is_told(call: Command, environment: dict[str, str], door: str) -> None:
    where = dict.fromkeys(("N8N_GATEWAY_URL", "N8N_GATEWAY_GRPC_URL"), "http://gateway.invalid")
    ended = call("GetLiveness", "--protocol", door, env=environment | where)
    assert ended.stderr.startswith("error: UNAVAILABLE: The host of http://gateway.invalid is not known: ")


def test_files_for_tls_that_are_missing_are_told(
    call: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    missing = ("--ca-file", str(tmp_path / "missing.pem"))
    ended = call("GetLiveness", *missing, env=environment | {"N8N_GATEWAY_URL": "https://127.0.0.1:9"})
    assert ended.stderr.startswith("error: UNAVAILABLE: The files given for TLS cannot be used: ")


@pytest.mark.parametrize("door", DOORS)
def test_bytes_are_printed_as_they_are(dev: RunningDev, call: Command, door: str) -> None:
    asked = json.dumps({"organization_id": dev.ready["organization_id"]})
    export = call("ExportUsage", "--protocol", door, "--data", asked)
    assert export.stdout.startswith("id,created_at,"), export.output


@pytest.mark.parametrize("door", DOORS)
def test_what_is_shown_of_a_request_holds_no_secret(
    dev: RunningDev, call: Command, signed: dict[str, str], door: str
) -> None:
    token = {
        "N8N_GATEWAY_TOKEN": dev.ready["token"],
        "N8N_GATEWAY_PLATFORM_TOKEN": "platforms-distinct-token",
    }
    secret = ("-H", "X-Own: distinct-header", "-H", "Idempotency-Key: shown")
    shown = call("ListWorkflows", "-v", "--protocol", door, *secret, env=signed | token)
    public_id, _, private = dev.ready["api_key"].rpartition("_")
    assert f"> x-api-key: {public_id}_…\n> " in shown.stderr
    assert "> authorization: …\n" in shown.stderr
    assert "> idempotency-key: shown\n" in shown.stderr
    assert "< x-request-id: " in shown.stderr
    for hidden in (private, *token.values(), signed["N8N_GATEWAY_CLIENT_SECRET"], "distinct-header", "v2="):
        assert hidden not in shown.output


def test_over_tls_the_authority_and_the_own_certificate_are_shown(
    dev: RunningDev, stub_n8n: StubN8n, call: Command, signed: dict[str, str], tmp_path: Path
) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    certificate, key = authority.issue("localhost").write(tmp_path)
    tls = {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key)}
    tls["GRPC_CLIENT_CA_FILE"] = str(tmp_path / "ca.pem")
    believed = ("--ca-file", str(tmp_path / "ca.pem"))
    own = ("--cert-file", str(certificate), "--key-file", str(key))
    with serving(tmp_path, environment_of(dev, stub_n8n.url) | tls) as (_, _, ports):
        where = {
            "N8N_GATEWAY_URL": f"https://localhost:{ports['http_port']}",
            "N8N_GATEWAY_GRPC_URL": f"https://localhost:{ports['grpc_port']}/",
        }
        for door in DOORS:
            asked = ("ListWorkflows", "--protocol", door)
            answered = call(*asked, *believed, *own, env=signed | where)
            assert answered.exit_code == 0, answered.output
            doubtful = call(*asked, env=signed | where)
            assert doubtful.exit_code == UNAVAILABLE
            assert "is not trusted (unable to get local issuer certificate): " in doubtful.stderr
        assert (
            call("ListWorkflows", "--protocol", "grpc", *believed, env=signed | where).exit_code
            == UNAVAILABLE
        )


def test_a_request_and_secrets_come_from_files_and_standard_input(
    dev: RunningDev, call: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    request, token, headers = tmp_path / "request", tmp_path / "token", tmp_path / "headers"
    request.write_text(json.dumps({"workflow_id": dev.ready["workflows"]["echo"]}))
    token.write_text(f"{dev.ready['token']}\n")
    headers.write_text(f"Authorization: Bearer {dev.ready['token']}\n\nIdempotency-Key: {uuid.uuid4()}\n")
    nobody = environment | {"N8N_GATEWAY_TOKEN": ""}
    for arguments, stdin in (
        (("--data", f"@{request}", "--token", "@-"), dev.ready["token"]),
        (("--data", "@-", "--token", f"@{token}"), request.read_text()),
        (("--data", f"@{request}", "-H", f"@{headers}"), ""),
    ):
        ran = call("Execute", *arguments, env=nobody, stdin=stdin)
        assert ran.exit_code == 0, ran.output
    both = call("Execute", "--data", "@-", "--token", "@-", env=nobody)
    assert both.exit_code == 2
    assert "standard input" in both.stderr


def test_a_secret_on_the_command_line_is_refused(call: Command) -> None:
    for option in ("--token", "--api-key", "--client-secret", "--platform-token"):
        refused = call("ListWorkflows", option, "hunter2")
        assert refused.exit_code == 2
        assert f"N8N_GATEWAY_{option[2:].upper().replace('-', '_')}" in refused.stderr
        assert "hunter2" not in refused.output


def test_a_header_that_says_who_calls_is_refused_on_the_command_line(call: Command) -> None:
    for name in ("Authorization", "X-API-Key", "X-Platform-Token", "Cookie"):
        refused = call("ListWorkflows", "-H", f"{name}: hunter2")
        assert refused.exit_code == 2
        assert "@FILE" in refused.stderr
        assert "hunter2" not in refused.output


def test_a_client_secret_without_its_key_signs_nothing_and_is_refused(
    call: Command, environment: dict[str, str]
) -> None:
    refused = call("ListWorkflows", env=environment | {"N8N_GATEWAY_CLIENT_SECRET": "gw_secret_of_nobody"})
    assert refused.exit_code == 2
    assert "--client-secret" in refused.stderr
    assert "gw_secret_of_nobody" not in refused.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("Exequte",), "ExecutionService/Execute"),
        ((), "METHOD"),
        (("Execute", "--data", "{"), "--data"),
        (("Execute", "--data", '{"workflow": "x"}'), "workflow_id"),
        (("Execute", "--data", "@nowhere.json"), "nowhere.json"),
        (("Execute", "--url", "gateway:8000"), "--url"),
        (("Execute", "--url", "http://me:hunter2@gateway"), "--url"),
        (("Execute", "--header", "no header"), "--header"),
        (("Execute", "--header", "two words: x"), "--header"),
        (("Execute", "--header", "X-Own: €"), "--header"),
        (("Execute", "--header", "X-Own-Bin: x"), "--header"),
        (("Execute", "--header", "Content-Length: 1"), "content-length"),
        (("Execute", "--tenant", "Acme"), "--tenant"),
        (("Execute", "--timeout", "0"), "--timeout"),
        (("Execute", "--timeout", "inf"), "--timeout"),
        (("Execute", "--data", "@/dev/zero"), "--data"),
        (("Execute", "--protocol", "soap"), "--protocol"),
    ],
)
def test_what_cannot_be_called_is_a_usage_error(call: Command, arguments: tuple[str, ...], told: str) -> None:
    refused = call(*arguments)
    assert refused.exit_code == 2
    assert told in refused.stderr
    assert "hunter2" not in refused.output


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("GetExecution", "{}"),
        ("GetExecution", '{"id": ".."}'),
        ("UpdateWorkflow", "{}"),
        ("RevokeApiKey", '{"id": ""}'),
    ],
)
def test_a_request_without_a_path_is_told(call: Command, method: str, request_: str) -> None:
    refused = call(method, "--protocol", "rest", "--data", request_)
    assert refused.exit_code == 64 + Code.INVALID_ARGUMENT
    assert refused.stderr.startswith("error: INVALID_ARGUMENT: The request has no path over REST: ")


@pytest.mark.parametrize("door", DOORS)
def test_the_longest_timeout_is_one_for_every_door(call: Command, door: str) -> None:
    assert call("GetLiveness", "--protocol", door, "--timeout", "9999999").exit_code == 0


@pytest.mark.parametrize("door", DOORS)
def test_an_interrupt_ends_a_call_and_tells_nothing(
    environment: dict[str, str], stub_n8n: StubN8n, gated: str, door: str
) -> None:
    before = stub_n8n.calls["gated"]
    running = process("Execute", "--protocol", door, *run_of(gated), env=environment)
    while stub_n8n.calls["gated"] == before:
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=SECONDS) == ("", "")
    assert running.returncode == 130


@pytest.mark.parametrize("door", DOORS)
def test_an_answer_that_cannot_be_written_is_told(environment: dict[str, str], door: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "gateway", "call", "GetLiveness", "--protocol", door],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (
        1,
        "error: the answer cannot be written: No space left on device\n",
    )


class Page(BaseHTTPRequestHandler):
    """Answers everything with a page, as sites of one page do."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>\x1b[31m")

    do_POST = do_GET  # noqa: N815 - as http.server calls it

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("door", ["connect", "rest", "grpc-web"])
def test_a_server_that_is_no_gateway_is_told(call: Command, environment: dict[str, str], door: str) -> None:
    with HTTPServer(("127.0.0.1", 0), Page) as site:
        threading.Thread(target=site.serve_forever).start()
        elsewhere = environment | {"N8N_GATEWAY_URL": f"http://127.0.0.1:{site.server_port}"}
        ended = call("ListWorkflows", "--protocol", door, env=elsewhere)
        site.shutdown()
    assert (ended.exit_code, ended.stdout) == (UNKNOWN, "")
    assert "\x1b" not in ended.stderr


def test_a_reader_that_has_seen_enough_ends_the_call(
    environment: dict[str, str], gated: str, stub_n8n: StubN8n
) -> None:
    running = process("ExecuteStream", *run_of(gated), env=environment)
    assert running.stdout is not None
    assert running.stderr is not None
    next(running.stdout)
    running.stdout.close()
    stub_n8n.open_gate()
    assert running.wait(SECONDS) == 1
    assert running.stderr.read() == ""
    running.stderr.close()


def test_every_method_has_a_name_that_is_found_and_completed(call: Command) -> None:
    listed = call("--list").stdout.splitlines()
    assert len(listed) == len(METHODS)
    for method, line in zip(METHODS, listed, strict=True):
        assert line.split()[0] == full_name(method)
        assert str(rest_binding(method).template) == line.split()[2]
        for name in (
            full_name(method),
            full_name(method).lower(),
            f"{method.parent.type_name}.{method.name}",
        ):
            assert find_method(name) is method
    assert [*completions("Execute")] == ["Execute", "ExecuteStream"]
    assert "ExecutionService/ExecuteStream" in [*completions("executionservice/")]


def test_a_shell_completes_the_names_of_methods() -> None:
    command = Path(sys.executable).with_name("n8n-gateway")
    typed = {"COMP_WORDS": "n8n-gateway call ExecutionService/Execu", "COMP_CWORD": "2"}
    completed = subprocess.run(
        [command],
        env={"_N8N_GATEWAY_COMPLETE": "complete_bash", **typed},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert completed.stdout.split() == ["ExecutionService/Execute", "ExecutionService/ExecuteStream"]


class Foreign(BaseHTTPRequestHandler):
    """A server that is no gateway's."""

    answers: ClassVar[dict[str, Callable[[], Iterator[bytes]]]] = {
        "no-json": lambda: iter([b"{"]),
        "deep": lambda: iter([b"[" * 100_000]),
        "no-status": lambda: iter([b'{"error":[]}\n']),
        "endless": lambda: itertools.repeat(b"a" * (1 << 20), 256),
        "terminal": lambda: iter([b'{"status":"\xc2\x9b31m\x7f \xc2\xa9"}\n']),
        "raw-commands": lambda: iter([b'{"status":\t"\x1b[31m\x00\r\x07"}\n']),
        "gzip": lambda: iter([b'{"status":"ok"}\n']),
        "detail": lambda: iter(
            [b'{"code":"internal","message":"x","details":[{"type":"google.rpc.ErrorInfo","value":"/w"}]}']
        ),
    }

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        self.send_response(200 if self.command == "GET" else 502)
        self.send_header("Content-Type", "application/json")
        if kind == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        with contextlib.suppress(OSError):
            for part in self.answers[kind]():
                self.wfile.write(part)

    do_POST = do_GET  # noqa: N815 - as http.server calls it

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - as its base names it


@pytest.fixture
def foreign() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Foreign)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


ENDLESS = "error: RESOURCE_EXHAUSTED: A message of the answer is over 32 MiB.\n"
NO_GATEWAY = "error: UNKNOWN: HTTP 200, and no answer of a gateway's.\n"
NO_GZIP = "error: UNKNOWN: The answer is not compressed as it says, and is no answer of a gateway's.\n"


@pytest.mark.parametrize(
    ("kind", "method", "told"),
    [
        ("no-json", "GetHealth", NO_GATEWAY),
        ("deep", "GetHealth", NO_GATEWAY),
        ("endless", "GetHealth", ENDLESS),
        ("endless", "WatchExecution", ENDLESS),
        ("no-status", "WatchExecution", NO_GATEWAY),
        ("raw-commands", "GetHealth", NO_GATEWAY),
        ("gzip", "GetHealth", NO_GZIP),
        ("gzip", "WatchExecution", NO_GZIP),
    ],
)
def test_a_server_that_is_no_gateways_is_told_and_takes_no_memory(
    call: Command, foreign: str, kind: str, method: str, told: str
) -> None:
    request = {} if method == "GetHealth" else {"execution_id": str(uuid.uuid4())}
    where = {"N8N_GATEWAY_URL": f"{foreign}/{kind}"}
    ended = call(method, "--protocol", "rest", "--data", json.dumps(request), env=where)
    assert ended.stderr == told
    assert ended.exit_code > 64


@pytest.mark.parametrize("door", ["connect", "grpc-web"])
@pytest.mark.parametrize("method", ["GetHealth", "WatchExecution"])
def test_an_answer_that_is_no_stream_is_read_no_further_than_a_message_may_go(
    call: Command, foreign: str, door: str, method: str
) -> None:
    request = {} if method == "GetHealth" else {"execution_id": str(uuid.uuid4())}
    where = {"N8N_GATEWAY_URL": f"{foreign}/endless"}
    ended = call(method, "--protocol", door, "--data", json.dumps(request), env=where)
    assert ended.stderr == ENDLESS


def test_what_cannot_be_read_of_an_error_over_connect_is_left_out(call: Command, foreign: str) -> None:
    ended = call("GetHealth", env={"N8N_GATEWAY_URL": f"{foreign}/detail"})
    assert ended.stderr == "error: INTERNAL: x\n"


@pytest.mark.parametrize("method", ["GetHealth", "WatchExecution"])
def test_what_a_terminal_would_take_for_a_command_is_escaped(
    call: Command, foreign: str, method: str
) -> None:
    request = {} if method == "GetHealth" else {"execution_id": str(uuid.uuid4())}
    where = {"N8N_GATEWAY_URL": f"{foreign}/terminal"}
    ended = call(method, "--protocol", "rest", "--data", json.dumps(request), env=where)
    assert r'"\u009b31m\u007f ©"' in ended.stdout
    assert json.loads(ended.stdout) == {"status": "\x9b31m\x7f \xa9"}


def test_no_line_of_a_stream_commands_a_terminal_though_it_is_no_json(call: Command, foreign: str) -> None:
    request = json.dumps({"execution_id": str(uuid.uuid4())})
    where = {"N8N_GATEWAY_URL": f"{foreign}/raw-commands"}
    ended = call("WatchExecution", "--protocol", "rest", "--data", request, env=where)
    assert ended.stdout == '{"status":\t"\\u001b[31m\\u0000\\u000d\\u0007"}\n'
