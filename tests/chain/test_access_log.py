from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from gateway.chain.access_log import AccessLog
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest
from gateway.gen.n8ngateway.v1.organization_pb import AuthPolicy, FingerprintPolicy
from gateway.rpc.call import Call
from gateway.rpc.errors import BY_CODE, Code, FailedPrecondition, RpcError
from gateway.rpc.policy import Policy
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from tests.calls import call_of

ROOT = Path(__file__).resolve().parents[2]
SECRETS = {
    "authorization": "Bearer secret-token",
    "x-n8n-internal-auth": "secret-internal",
    "x-signature": "secret-signature",
    "cookie": "secret-cookie",
    "x-anything": "secret-header",
}
PRINCIPAL = Principal(
    Kind.USER,
    "user_1",
    DatabaseRole.AUTHENTICATED,
    '{"secret-claims": 1}',
    tenant="t-1",
    session="secret-session",
    token="secret-token",
)


def logged(outcome: RpcError | None, principal: Principal | None = PRINCIPAL) -> dict[str, object]:
    """The one line that a call full of secrets leaves."""
    request = ExecuteRequest(workflow_id="secret-body", metadata={"secret-key": "secret-value"})
    call = call_of(request=request, metadata=SECRETS, address="192.0.2.1", request_id="r-1")
    call.principal, call.request = principal, request
    with structlog.testing.capture_logs() as lines:
        AccessLog()(call, outcome)
    [line] = lines
    assert "secret" not in str(line)
    return dict(line)


def tenant_logged(call: Call) -> object:
    with structlog.testing.capture_logs() as lines:
        AccessLog()(call, None)
    return lines[0]["tenant"]


def test_a_line_tells_who_what_how_and_how_long() -> None:
    line = logged(None)
    assert line.pop("ms") >= 0  # type: ignore[operator]
    expected = {
        "event": "call",
        "log_level": "info",
        "request_id": "r-1",
        "method": "/n8ngateway.v1.ExecutionService/Execute",
        "code": "OK",
        "reason": None,
        "caller": "user:user_1",
        "tenant": "t-1",
        "address": "192.0.2.1",
    }
    assert line.items() >= expected.items()


def test_the_tenant_is_whose_rows_it_is_about_or_else_whose_policy_holds() -> None:
    call = call_of(request=ExecuteRequest())
    call.principal, call.policy = PRINCIPAL, Policy("t-2", AuthPolicy.JWT, 0, FingerprintPolicy.LOG, None, 0)
    assert tenant_logged(call) == "t-2"
    call.organization_id = "t-3"
    assert tenant_logged(call) == "t-3"


def test_a_call_of_nobody_has_a_line_too() -> None:
    line = logged(None, principal=None)
    assert (line["caller"], line["tenant"]) == (None, None)


@pytest.mark.parametrize("code", BY_CODE)
def test_only_a_fault_of_the_gateway_or_its_parts_is_a_warning(code: Code) -> None:
    line = logged(BY_CODE[code]("secret-message", metadata={"k": "secret"}, fields={"f": "secret"}))
    faults = {Code.INTERNAL, Code.DATA_LOSS, Code.UNAVAILABLE}
    assert line["log_level"] == ("warning" if code in faults else "info")
    assert (line["code"], line["reason"]) == (code.name, code.name)


def test_the_reason_is_told() -> None:
    assert logged(FailedPrecondition("m", reason="WORKFLOW_INACTIVE"))["reason"] == "WORKFLOW_INACTIVE"


_TWO_LINES = """
from gateway import logs
from gateway.chain.access_log import LOGGER, AccessLog
from gateway.rpc.errors import FailedPrecondition
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from tests.calls import call_of
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest
logs.configure({level!r}, "json")
call = call_of(request=ExecuteRequest(), metadata={{}}, address="192.0.2.1", request_id='r"1')
call.principal = Principal(Kind.USER, 'user_"1\\n', DatabaseRole.AUTHENTICATED, "{{}}", tenant="t-1")
log = AccessLog(logs.info_lines(LOGGER))
log(call, None)
log(call, FailedPrecondition("m"))
"""


def written(level: str) -> list[dict[str, object]]:
    """The lines of a call that went well, and of the same that did not, as a process writes them."""
    code = _TWO_LINES.format(level=level)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_line_of_rendered_parts_is_like_any_other() -> None:
    well, refused = written("INFO")
    assert well.keys() == refused.keys()
    assert (well.pop("code"), well.pop("reason")) == ("OK", None)
    assert well["caller"] == 'user:user_"1\n'
    assert well["request_id"] == 'r"1'
    for name in ("ms", "timestamp"):
        assert type(well.pop(name)) is type(refused[name])
    assert well.items() <= refused.items()


def test_lines_below_the_level_are_left_out() -> None:
    assert written("WARNING") == []
