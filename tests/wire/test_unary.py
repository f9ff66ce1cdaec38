"""Execute through every door: what succeeds, and what each thing that goes wrong is answered with."""

from __future__ import annotations

import base64
import hmac
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from gateway.adapters.clerk import LEEWAY_SECONDS
from gateway.rpc.errors import Code
from tests.adapters.identity_provider import forged
from tests.stub_n8n import STREAM, STREAM_FAIL
from tests.wire.clients import Client
from tests.wire.conftest import METHODS, World, call


def test_a_document_comes_back_as_data(client: Client, world: World) -> None:
    outcome = call(
        client, world, "Execute", world.request("echo", data={"n": 1, "s": "☃", "l": [1, None, {}]})
    )
    assert outcome.code is Code.OK
    [answer] = outcome.messages
    assert answer["success"] is True
    assert answer["status"] == "completed"
    assert answer["data"] == {"echo": {"n": 1, "s": "☃", "l": [1, None, {}]}, "executionId": "7"}
    assert answer["credits_used"] == 1
    assert isinstance(answer["credits_remaining"], int)
    assert isinstance(answer["execution_time_ms"], int)
    assert uuid.UUID(answer["execution_id"]).version == 7


def test_payload_is_another_name_of_data(client: Client, world: World) -> None:
    outcome = call(client, world, "Execute", world.request("echo", payload={"a": "b"}))
    assert outcome.messages[0]["data"]["echo"] == {"a": "b"}


@pytest.mark.parametrize(
    ("webhook", "data"),
    [
        ("text", "plain ☃ text"),
        ("list", [1, 2.5, {"n": None}]),
        ("stream", [{"n": 1}, {"n": 2}, 'plain, with "quotes" and ☃']),
        ("empty", None),
        ("stream as a stream", [{"n": 1}, {"n": 2}, 'plain, with "quotes" and ☃']),
        ("empty as a stream", None),
        ("echo as a document", {"echo": {}, "executionId": "7"}),
        ("stream as a document", STREAM.decode()),
        ("stream-fail as a document", STREAM_FAIL.decode()),
    ],
)
def test_whatever_n8n_answers_is_data(client: Client, world: World, webhook: str, data: Any) -> None:
    outcome = call(client, world, "Execute", world.request(webhook))
    assert outcome.code is Code.OK
    assert outcome.messages[0].get("data") == data


def test_bytes_are_data_in_base64(client: Client, world: World) -> None:
    data = call(client, world, "Execute", world.request("bytes")).messages[0]["data"]
    assert data["content_type"] == "application/octet-stream"
    assert data["base64"].startswith("AAECAwQF")


def test_the_same_key_is_answered_with_the_same_run(client: Client, world: World) -> None:
    key = str(uuid.uuid4())
    request = world.request("echo", data={"k": 1}, idempotency_key=key)
    before = world.stub.calls["echo"]
    first, second = (call(client, world, "Execute", request) for _ in range(2))
    assert first.messages[0]["execution_id"] == second.messages[0]["execution_id"]
    assert first.messages[0]["data"] == second.messages[0]["data"]
    assert world.stub.calls["echo"] == before + 1
    other = call(client, world, "Execute", world.request("echo", data={"k": 2}, idempotency_key=key))
    assert (other.code, other.reason) == (Code.ABORTED, "IDEMPOTENCY_KEY_REUSED")


def test_a_second_call_waits_for_the_first_and_gets_its_answer(client: Client, world: World) -> None:
    """One that would not wait gets no run of its own, nor any other answer."""
    request = world.request("gated", idempotency_key=str(uuid.uuid4()))
    before = world.stub.calls["gated"]
    world.stub.close_gate()
    try:
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(call, client, world, "Execute", request)
            while world.stub.calls["gated"] == before:
                assert not first.done(), first.result()
                time.sleep(0.01)
            impatient = call(client, world, "Execute", request, timeout=0.5)
            assert impatient.code is Code.DEADLINE_EXCEEDED
            second = threads.submit(call, client, world, "Execute", request)
            assert not first.done()
            world.stub.open_gate()
            answers = [first.result(), second.result()]
    finally:
        world.stub.open_gate()
    assert [answer.code for answer in answers] == [Code.OK, Code.OK]
    assert answers[0].messages == answers[1].messages
    assert answers[0].messages[0]["data"] == ["first!", "second!"]
    assert world.stub.calls["gated"] == before + 1


N8N_FAULTS = [
    ("n404", Code.FAILED_PRECONDITION, "N8N_WEBHOOK_NOT_REGISTERED", 400),
    ("n403", Code.FAILED_PRECONDITION, "N8N_AUTH_REJECTED", 400),
    ("n500", Code.UNKNOWN, "WORKFLOW_FAILED", 502),
    ("n422", Code.INVALID_ARGUMENT, "N8N_REJECTED_INPUT", 400),
    ("html", Code.UNAVAILABLE, "N8N_STARTING", 503),
    ("migrating", Code.UNAVAILABLE, "N8N_STARTING", 503),
    ("no-database", Code.UNAVAILABLE, "N8N_STARTING", 503),
    ("proxy-503", Code.UNAVAILABLE, "N8N_PROXY_ERROR", 503),
    ("stream-fail", Code.UNKNOWN, "WORKFLOW_FAILED", 502),
    ("cut", Code.UNAVAILABLE, "N8N_CONNECTION_LOST", 503),
    ("hang", Code.DEADLINE_EXCEEDED, "N8N_TIMEOUT", 504),
    ("endless", Code.DEADLINE_EXCEEDED, "N8N_IDLE_TIMEOUT", 504),
    ("echo as a stream", Code.FAILED_PRECONDITION, "N8N_RESPONSE_MISMATCH", 400),
    ("hang as a stream", Code.DEADLINE_EXCEEDED, "N8N_FIRST_BYTE_TIMEOUT", 504),
]


@pytest.mark.parametrize(("webhook", "code", "reason", "http_status"), N8N_FAULTS)
def test_what_n8n_does_wrong_has_its_code_and_costs_nothing(
    client: Client, world: World, webhook: str, code: Code, reason: str, http_status: int
) -> None:
    before = world.balance()
    outcome = call(client, world, "Execute", world.request(webhook))
    assert (outcome.code, outcome.reason) == (code, reason)
    assert outcome.http_status in (None, http_status)
    assert outcome.message
    assert world.balance() == before - 1  # what the first look at the balance cost


@pytest.mark.usefixtures("unreachable_n8n")
def test_n8n_away_is_unavailable(client: Client, world: World) -> None:
    outcome = call(client, world, "Execute", world.request("echo"))
    assert outcome.code is Code.UNAVAILABLE
    assert outcome.reason in {"N8N_UNREACHABLE", "N8N_CIRCUIT_OPEN"}


def test_an_unknown_workflow_is_not_found(client: Client, world: World) -> None:
    outcome = call(client, world, "Execute", {"workflow_id": str(uuid.uuid4())})
    assert (outcome.code, outcome.reason) == (Code.NOT_FOUND, "WORKFLOW_NOT_FOUND")


def test_another_tenants_workflow_is_not_found_just_so(
    client: Client, world: World, other_tenant: World
) -> None:
    theirs = call(client, world, "Execute", {"workflow_id": other_tenant.workflows["echo"]})
    unknown = call(client, world, "Execute", {"workflow_id": str(uuid.uuid4())})
    assert (theirs.code, theirs.reason, theirs.message) == (unknown.code, unknown.reason, unknown.message)


def test_an_inactive_workflow_is_refused(client: Client, world: World, inactive_workflow: str) -> None:
    outcome = call(client, world, "Execute", {"workflow_id": inactive_workflow})
    assert (outcome.code, outcome.reason) == (Code.FAILED_PRECONDITION, "WORKFLOW_INACTIVE")


def test_a_price_above_what_was_agreed_is_refused(client: Client, world: World) -> None:
    outcome = call(client, world, "Execute", world.request("echo", credits=0))
    assert (outcome.code, outcome.reason) == (Code.FAILED_PRECONDITION, "PRICE_ABOVE_LIMIT")


def test_without_credits_nothing_runs(client: Client, other_tenant: World) -> None:
    outcome = call(client, other_tenant, "Execute", other_tenant.request("echo"))
    assert (outcome.code, outcome.reason) == (Code.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS")
    assert outcome.http_status in (None, 402)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "TOKEN_MISSING"),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, "TOKEN_MISSING"),
        ({"Authorization": "Bearer not.a.token"}, "TOKEN_INVALID"),
    ],
)
def test_without_a_token_nobody_gets_in(
    client: Client, world: World, headers: dict[str, str], reason: str
) -> None:
    outcome = call(client, world, "Execute", world.request("echo"), headers=headers)
    assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, reason)
    assert outcome.http_status in (None, 401)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 1_000_000_000}, "TOKEN_EXPIRED"),
        ({"iss": "https://elsewhere.example"}, "TOKEN_ISSUER"),
        ({"nbf": 4_000_000_000}, "TOKEN_NOT_YET_VALID"),
        ({"sts": "pending"}, "SESSION_PENDING"),
    ],
)
def test_a_token_that_does_not_hold_is_refused(
    client: Client, world: World, mint: Any, claims: dict[str, Any], reason: str
) -> None:
    headers = {"Authorization": f"Bearer {mint('user_dev', **claims)}"}
    outcome = call(client, world, "Execute", world.request("echo"), headers=headers)
    assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, reason)


def _unsigned(claims: dict[str, Any], key_id: str, _key: bytes) -> str:
    return jwt.encode(claims, None, "none", {"kid": key_id})


def _signed_with_the_public_key(claims: dict[str, Any], key_id: str, key: bytes) -> str:
    """As if it were a shared secret, which PyJWT would not do."""
    public = load_pem_private_key(key, None).public_key()
    secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = forged({"alg": "HS256", "typ": "JWT", "kid": key_id}, claims).rpartition(".")[0]
    signature = hmac.digest(secret, head.encode(), "sha256")
    return f"{head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _with_a_path_for_a_key(claims: dict[str, Any], _key_id: str, key: bytes) -> str:
    return jwt.encode(claims, key, "RS256", {"kid": "../../../../dev/null"})


def _just_expired(claims: dict[str, Any], key_id: str, key: bytes) -> str:
    """By a second more than clocks may differ."""
    return jwt.encode(claims | {"exp": int(time.time()) - LEEWAY_SECONDS - 1}, key, "RS256", {"kid": key_id})


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (_unsigned, "TOKEN_INVALID"),
        (_signed_with_the_public_key, "TOKEN_INVALID"),
        (_with_a_path_for_a_key, "TOKEN_INVALID"),
        (_just_expired, "TOKEN_EXPIRED"),
    ],
)
def test_a_forged_token_is_refused(client: Client, world: World, forge: Any, reason: str) -> None:
    token = world.dev.ready["token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    key = (world.dev.data_dir / "issuer-key.pem").read_bytes()
    bad = forge(claims, jwt.get_unverified_header(token)["kid"], key)
    headers = {"Authorization": f"Bearer {bad}"}
    outcome = call(client, world, "Execute", world.request("echo"), headers=headers)
    assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, reason)
    assert outcome.http_status in (None, 401)


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_of_clerks_claims_are_taken(
    client: Client, world: World, mint: Any, version: int
) -> None:
    token = mint("user_somebody", organization_id="org_dev", role="member", version=version)
    outcome = call(
        client, world, "Execute", world.request("echo"), headers={"Authorization": f"Bearer {token}"}
    )
    assert outcome.code is Code.OK


def test_the_identity_is_checked_before_the_message(client: Client, world: World) -> None:
    outcome = client.call(METHODS["Execute"], b"\xff not a message", headers={})
    assert outcome.code is Code.UNAUTHENTICATED
    assert world.dev.process.poll() is None


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"workflow_id": "no-uuid"}, "workflow_id"),
        ({"credits": -1}, "credits"),
        ({"idempotency_key": "k" * 256}, "idempotency_key"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
    ],
)
def test_a_field_that_breaks_its_rule_is_named(
    client: Client, world: World, request_: dict[str, Any], field: str
) -> None:
    outcome = call(client, world, "Execute", request_)
    assert outcome.code is Code.INVALID_ARGUMENT
    assert outcome.fields
    assert outcome.fields[0].startswith(field)


def test_data_and_payload_together_are_refused(client: Client, world: World) -> None:
    outcome = call(client, world, "Execute", world.request("echo", data={}, payload={}))
    assert outcome.code is Code.INVALID_ARGUMENT
    assert "payload" in outcome.message


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b'{"workflow_id": ', None),
        (b'{"nope": 1}', "nope"),
        (b'{"workflow_id": 7}', "workflow_id"),
        (b'{"credits": "many"}', "credits"),
        (b'{"credits": 99999999999}', "credits"),
        (b'{"metadata": {"a": "\xff\xfe"}}', None),
        (b'{"metadata": {"a": "\\ud800"}}', None),
        (b'{"data": {"a": NaN}}', None),
        (b'{"data": ' + b"[" * 5000 + b"]" * 5000 + b"}", None),
        (b"[1, 2]", None),
        (b'"text"', None),
    ],
)
def test_malformed_json_is_refused_and_its_place_is_named(
    json_client: Client, world: World, text: bytes, field: str | None
) -> None:
    outcome = json_client.call(METHODS["Execute"], text, headers=world.dev.bearer)
    assert outcome.code is Code.INVALID_ARGUMENT
    assert outcome.http_status in (None, 400)
    assert outcome.reason == "MALFORMED_REQUEST"
    if field:
        assert outcome.fields == [field]


@pytest.mark.parametrize(
    "body",
    [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x12" + b"\x80" * 11, b"\x0b\x0b\x0b"],
    ids=["no tag", "cut short", "invalid UTF-8", "endless varint", "open groups"],
)
def test_malformed_protobuf_is_refused(binary_client: Client, world: World, body: bytes) -> None:
    outcome = binary_client.call(METHODS["Execute"], body, headers=world.dev.bearer)
    assert (outcome.code, outcome.reason) == (Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


def test_an_oversized_message_is_refused(client: Client, world: World) -> None:
    request = world.request("echo", data={"blob": "x" * (4 << 20)})
    outcome = call(client, world, "Execute", request)
    assert outcome.code is Code.RESOURCE_EXHAUSTED
    assert outcome.http_status in (None, 413)


def test_a_deadline_that_has_passed_is_deadline_exceeded(client: Client, world: World) -> None:
    outcome = call(client, world, "Execute", world.request("echo"), timeout=0)
    assert outcome.code is Code.DEADLINE_EXCEEDED


def test_a_deadline_ends_the_call_and_not_the_run(client: Client, world: World) -> None:
    world.stub.close_gate()
    outcome = call(client, world, "Execute", world.request("gated"), timeout=0.2)
    assert outcome.code is Code.DEADLINE_EXCEEDED
    assert outcome.http_status in (None, 504)
    world.stub.open_gate()


def test_n8n_has_to_show_its_secret(client: Client, world: World) -> None:
    request = {"org_id": world.dev.ready["organization_id"], "error_message": "boom"}
    outcome = call(client, world, "LogError", request)
    assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, "INTERNAL_AUTH")
    secret = {"X-N8N-Internal-Auth": world.dev.ready["internal_secret"]}
    assert call(client, world, "LogError", request, headers=secret).messages[0]["id"]


def test_health_is_open_to_everyone(client: Client, world: World) -> None:
    assert call(client, world, "GetHealth", {}, headers={}).messages[0]["status"] == "healthy"
    assert call(client, world, "GetLiveness", {}, headers={}).messages[0]["status"] == "alive"
    ready = call(client, world, "GetReadiness", {}, headers={}).messages[0]
    assert [(d["name"], d["status"]) for d in ready["dependencies"]] == [
        ("database", "ok"),
        ("identity", "ok"),
        ("n8n", "ok"),
        ("redis", "ok"),
        ("vault", "ok"),
    ]


def test_the_request_id_comes_back(client: Client, world: World) -> None:
    headers = {"X-Request-Id": "my-request.1"}
    outcome = call(client, world, "Execute", world.request("echo"), headers=headers)
    assert outcome.request_id == "my-request.1"
    outcome = call(client, world, "Execute", world.request("echo"), headers={"X-Request-Id": "no good" * 40})
    assert outcome.request_id
    assert "good" not in outcome.request_id


def test_n8n_gets_the_payload_and_the_trace(client: Client, world: World) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = world.dev.bearer | {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = call(
        client, world, "Execute", world.request("echo", data=json.loads('{"a": 1}')), headers=headers
    )
    assert answer.code is Code.OK
    assert world.stub.headers["echo"]["traceparent"].split("-")[1] == trace
    assert world.stub.headers["echo"]["x-n8n-internal-auth"] == world.dev.ready["internal_secret"]
    assert "authorization" not in world.stub.headers["echo"]


def test_a_message_of_too_many_values_is_refused(binary_client: Client, world: World) -> None:
    """Each would cost many times its bytes to make, and keep everybody else waiting."""
    values = b"\x0a\x02\x20\x01" * 300_000
    body = b"\x12" + _sized(b"\x0a" + _sized(b"\x0a\x01a\x12" + _sized(b"\x32" + _sized(values))))
    outcome = binary_client.call(METHODS["Execute"], body, headers=world.dev.bearer)
    assert (outcome.code, outcome.reason) == (Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    assert "100000" in outcome.message


@pytest.mark.parametrize(
    "value", [b"\x11" + b"\x00\x00\x00\x00\x00\x00\xf8\x7f", b""], ids=["NaN", "a value of no kind"]
)
def test_data_that_is_no_json_is_refused(binary_client: Client, world: World, value: bytes) -> None:
    body = b"\x12" + _sized(b"\x0a" + _sized(b"\x0a\x01a\x12" + _sized(value)))
    body += b"\x0a" + _sized(world.workflows["echo"].encode())
    outcome = binary_client.call(METHODS["Execute"], body, headers=world.dev.bearer)
    assert (outcome.code, outcome.fields) == (Code.INVALID_ARGUMENT, ["data"])


@pytest.mark.parametrize("method", ["Execute", "ExecuteStream", "StartExecution"])
@pytest.mark.parametrize("levels", [31, 34, 49, 60])
@pytest.mark.parametrize("nest", ["objects", "arrays"])
def test_json_nested_too_deep_is_refused_naming_its_field(
    client: Client, world: World, method: str, levels: int, nest: str
) -> None:
    body = _nested_data(levels, nest).encode() if client.json else _nested_struct(levels, nest)
    outcome = client.call(METHODS[method], body, headers=world.dev.bearer)
    assert (outcome.code, outcome.fields) == (Code.INVALID_ARGUMENT, ["data"])
    assert outcome.message == "data: is JSON nested deeper than 30 levels"


@pytest.mark.parametrize("nest", ["objects", "arrays"])
def test_json_as_deep_as_it_may_be_runs(client: Client, world: World, nest: str) -> None:
    data = json.loads(_nested_data(30, nest))["data"]
    outcome = call(client, world, "Execute", world.request("echo", data=data))
    assert outcome.code is Code.OK
    # n8n's answer has a level more, so it is handed on as text.
    assert json.loads(outcome.messages[0]["data"])["echo"] == data


def test_unknown_fields_nested_too_deep_are_refused(binary_client: Client, world: World) -> None:
    """The parser of the rules reads less deep than the gateway's: here a group within JSON."""
    body = _nested_struct(30, "objects", b"\xa3\x06" * 20 + b"\xa4\x06" * 20)
    outcome = binary_client.call(METHODS["Execute"], body, headers=world.dev.bearer)
    assert (outcome.code, outcome.reason) == (Code.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


def _nested_data(levels: int, nest: str) -> str:
    opening, closing = ("[", "]") if nest == "arrays" else ('{"a":', "}")
    return '{"data":{"d":' + opening * (levels - 1) + "1" + closing * (levels - 1) + "}}"


def _nested_struct(levels: int, nest: str, innermost: bytes = b"\x20\x01") -> bytes:
    """The same as binary protobuf, deeper than its own runtime writes."""
    value = innermost
    for _ in range(levels - 1):
        item = b"\x0a" + _sized(value if nest == "arrays" else b"\x0a\x01a\x12" + _sized(value))
        value = (b"\x32" if nest == "arrays" else b"\x2a") + _sized(item)
    return b"\x12" + _sized(b"\x0a" + _sized(b"\x0a\x01d\x12" + _sized(value)))


def _sized(data: bytes) -> bytes:
    length, prefix = len(data), b""
    while length > 127:
        prefix += bytes([length & 127 | 128])
        length >>= 7
    return prefix + bytes([length]) + data
