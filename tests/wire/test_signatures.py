"""Attacks on signed requests, through every door, and over a second gateway that shares the Valkey."""

from __future__ import annotations

import base64
import gzip
import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
import httpx
import pytest
from connectrpc.protocol import ProtocolType

from gateway.rpc.errors import Code
from gateway.rpc.signature import SignedRequest, Version
from tests.wire.clients import Client, ConnectClient, Outcome, RestClient
from tests.wire.conftest import METHODS, Mint, World, call
from tests.wire.signing import SigningKey, seeded_key


def signed(
    client: Client,
    world: World,
    method: str = "ListWorkflows",
    request: dict[str, Any] | None = None,
    *,
    key: SigningKey | None = None,
    token: str = "",
    **changed: Any,
) -> Outcome:
    """A signed call; `changed` is what another request was signed with."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    made = partial((key or seeded_key(world)).headers, **changed)
    return call(client, world, method, request or {}, headers=headers, signed=made)


@pytest.mark.parametrize("version", [1, 2])
def test_a_signed_run_goes_through_each_door(client: Client, world: World, version: Version) -> None:
    request = world.request("echo", data={"n": uuid.uuid4().hex}, metadata={"ä": "€"})
    assert signed(client, world, "Execute", request, version=version).code is Code.OK


def test_a_signed_stream_goes_through_each_door(stream_client: Client, world: World) -> None:
    outcome = signed(stream_client, world, "ExecuteStream", world.request("stream"))
    assert (outcome.code, len(outcome.messages) > 2) == (Code.OK, True)


@pytest.mark.parametrize("encoding", ["json", "proto"])
def test_a_get_of_connect_is_signed_too(world: World, encoding: str) -> None:
    client = ConnectClient(world.dev.ready["http_url"], ProtocolType.CONNECT, encoding, use_get=True)
    assert signed(client, world, request={"page_size": 1}).code is Code.OK
    assert signed(client, world, request={"page_size": 1}, http_method="POST").reason == "SIGNATURE_INVALID"


def test_grpc_web_text_is_signed_as_its_binary_form(world: World) -> None:
    path, message = "/n8ngateway.v1.WorkflowService/ListWorkflows", b"\x10\x01"
    client = ConnectClient(world.dev.ready["http_url"], ProtocolType.GRPC_WEB, "proto")
    headers = seeded_key(world).headers(client, METHODS["ListWorkflows"], message)
    answer = httpx.post(
        f"{world.dev.ready['http_url']}{path}",
        content=base64.b64encode(b"\0" + len(message).to_bytes(4, "big") + message),
        headers=headers | {"Content-Type": "application/grpc-web-text+proto"},
        timeout=20,
    )
    assert b"grpc-status: 0" in b"".join(base64.b64decode(part) for part in _padded(answer.content))


def _padded(text: bytes) -> list[bytes]:
    """Base64 that was put together from parts, each of them padded."""
    return re.findall(rb"[A-Za-z0-9+/]+={0,2}", text)


@pytest.mark.parametrize(
    "changed",
    [
        {"message": b'{"page_size": 2}'},
        {"target": "/n8ngateway.v1.WorkflowService/GetWorkflow"},
        {"target": "/api/v1/workflows?page_size=200"},
        {"http_method": "DELETE"},
        {"content_type": "text/plain"},
        {"key_id": "gw_live_aaaaaaaaaaaaaaaa"},
    ],
    ids="-".join,
)
def test_a_signature_of_another_request_is_refused(
    client: Client, world: World, changed: dict[str, Any]
) -> None:
    outcome = signed(client, world, request={"page_size": 1}, **changed)
    assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, "SIGNATURE_INVALID")
    assert outcome.http_status in (None, 401)


def test_a_signature_for_another_tenant_is_refused(client: Client, world: World) -> None:
    key, tenant = seeded_key(world), world.dev.ready["organization_id"]

    def without_tenant(*request: Any) -> dict[str, str]:
        return key.headers(*request) | {"X-Tenant-ID": tenant}

    def for_another(*request: Any) -> dict[str, str]:
        return key.headers(*request, tenant=str(uuid.uuid4()))

    moved = call(client, world, "ListWorkflows", {}, headers={}, signed=without_tenant)
    assert (moved.code, moved.reason) == (Code.UNAUTHENTICATED, "SIGNATURE_INVALID")
    other = call(client, world, "ListWorkflows", {}, headers={}, signed=for_another)
    assert (other.code, other.reason) == (Code.PERMISSION_DENIED, "TENANT_MISMATCH")
    assert signed(client, world, tenant=tenant).code is Code.OK


def test_a_signature_by_another_keys_secret_is_refused(client: Client, world: World) -> None:
    request = {"organization_id": world.dev.ready["organization_id"], "api_key": {"name": "other"}}
    other = SigningKey.of(call(client, world, "CreateApiKey", request).messages[0])
    mixed = replace(seeded_key(world), client_secret=other.client_secret)
    outcome = signed(client, world, key=mixed)
    assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, "SIGNATURE_INVALID")


@pytest.mark.parametrize("seconds", [-330, 330])
def test_a_timestamp_beyond_an_edge_is_refused(client: Client, world: World, seconds: int) -> None:
    outcome = signed(client, world, timestamp=str(int(time.time()) + seconds))
    assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, "SIGNATURE_EXPIRED")


@pytest.mark.parametrize("version", [1, 2])
def test_a_copy_is_refused(client: Client, world: World, version: Version) -> None:
    key, request = seeded_key(world), world.request("echo", data={"n": uuid.uuid4().hex})
    made: dict[str, str] = {}

    def once(*parts: Any) -> dict[str, str]:
        if not made:
            made.update(key.headers(*parts, version=version))
        return made

    assert call(client, world, "Execute", request, headers={}, signed=once).code is Code.OK
    runs = world.stub.calls["echo"]
    for _ in range(2):
        outcome = call(client, world, "Execute", request, headers={}, signed=once)
        assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, "SIGNATURE_REPLAYED")
    assert world.stub.calls["echo"] == runs


def test_a_copy_through_another_door_is_refused(world: World) -> None:
    """Version 1 does not say where its request goes, but it goes there once."""
    rest = RestClient(world.dev.ready["http_url"])
    connect = ConnectClient(world.dev.ready["http_url"], ProtocolType.CONNECT, "json")
    body = json.dumps(world.request("echo", data={"n": uuid.uuid4().hex})).encode()
    headers = seeded_key(world).headers(rest, METHODS["Execute"], body, version=1)
    assert rest.call(METHODS["Execute"], body, headers=headers).code is Code.OK
    copied = connect.call(METHODS["Execute"], body, headers=headers)
    assert copied.reason == "SIGNATURE_REPLAYED"


def test_without_a_signature_nothing_is_done(client: Client, world: World) -> None:
    runs = world.stub.calls["echo"]
    headers = {"X-API-Key": world.dev.ready["api_key"]}
    outcome = call(client, world, "Execute", world.request("echo"), headers=headers)
    assert (outcome.code, outcome.reason) == (Code.UNAUTHENTICATED, "SIGNATURE_MISSING")
    assert world.stub.calls["echo"] == runs
    logged = world.dev.log.read_text().partition("Ctrl-C stops everything")[2]
    assert logged
    for secret in ("client_secret", "api_key"):
        assert world.dev.ready[secret] not in logged


def compressed(world: World, key: SigningKey, message: bytes, body: bytes) -> httpx.Response:
    url, target = f"{world.dev.ready['http_url']}/api/v1/execute", "/api/v1/execute"
    rest = RestClient(world.dev.ready["http_url"])
    headers = key.headers(rest, METHODS["Execute"], message, target=target)
    sent = headers | {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    return httpx.post(url, content=body, headers=sent, timeout=20)


def test_a_compressed_body_is_signed_uncompressed_over_rest(world: World) -> None:
    plain = json.dumps(world.request("echo")).encode()
    body = gzip.compress(plain)
    assert compressed(world, seeded_key(world), plain, body).json()["success"]
    refused = compressed(world, seeded_key(world), body, body)
    assert refused.json()["details"][0]["reason"] == "SIGNATURE_INVALID"


@pytest.mark.parametrize("over", ["message", "compressed"])
def test_a_compressed_message_is_signed_uncompressed_over_connect(world: World, over: str) -> None:
    path = "/n8ngateway.v1.ExecutionService/Execute"
    plain = json.dumps(world.request("echo")).encode()
    body = gzip.compress(plain)
    client = ConnectClient(world.dev.ready["http_url"], ProtocolType.CONNECT, "json")
    headers = seeded_key(world).headers(client, METHODS["Execute"], plain if over == "message" else body) | {
        "Content-Type": "application/json",
        "Content-Encoding": "gzip",
    }
    answer = httpx.post(f"{world.dev.ready['http_url']}{path}", content=body, headers=headers, timeout=20)
    assert (answer.status_code == 200) == (over == "message"), answer.text
    if over == "compressed":
        assert "SIGNATURE_INVALID" in answer.text


def test_a_compressed_message_is_signed_uncompressed_over_grpc(world: World) -> None:
    method = METHODS["Execute"]
    path = f"/{method.parent.type_name}/{method.name}"
    request = world.request("echo", metadata={"padding": "x" * 500})
    message = method.input.type.from_json(json.dumps(request)).to_binary()
    signing = SignedRequest(
        timestamp=str(int(time.time())),
        nonce=uuid.uuid4().hex,
        tenant="",
        key_id="",
        http_method="POST",
        target=path,
        content_type="application/grpc",
        message=message,
    )

    class Door:
        json = False

        def sent(self, _method: Any, _body: bytes) -> SignedRequest:
            return signing

    headers = seeded_key(world).headers(Door(), method, message)  # type: ignore[arg-type]
    metadata = [(name.lower(), value) for name, value in headers.items()]
    with grpc.insecure_channel(world.dev.ready["grpc_url"], compression=grpc.Compression.Gzip) as channel:
        assert channel.unary_unary(path)(message, metadata=metadata, timeout=20)


@pytest.fixture(scope="module")
def protected(world: World, mint: Mint) -> World:
    """An organization of its own, whose policy tests may change, with a key."""
    clerk = f"org_{uuid.uuid4().hex}"
    token = mint(f"user_{uuid.uuid4().hex}", organization_id=clerk)
    dev = replace(world.dev, ready=world.dev.ready | {"token": token})
    rest = RestClient(dev.ready["http_url"])
    own = World(dev, world.stub, {})
    made = call(
        rest, own, "CreateOrganization", {"organization": {"name": "P", "clerk_organization_id": clerk}}
    )
    organization = made.messages[0].get("organization", made.messages[0])
    dev.ready["organization_id"] = organization["id"]
    key = call(
        rest,
        own,
        "CreateApiKey",
        {
            "organization_id": organization["id"],
            "api_key": {"name": "signing", "scopes": ["workflows:read", "executions:*"]},
        },
    ).messages[0]
    dev.ready["api_key"], dev.ready["client_secret"] = key["key"], key["client_secret"]
    workflow = {"workflow": {"name": "echo", "webhook_path": "echo"}}
    registered = call(rest, own, "RegisterWorkflow", workflow).messages[0]
    own.workflows["echo"] = registered.get("workflow", registered)["id"]
    return own


def set_policy(client: Client, world: World, *, token: str = "", **fields: Any) -> Outcome:
    request = {"organization": {"id": world.dev.ready["organization_id"], **fields}}
    if token:
        return signed(client, world, "UpdateOrganization", request, token=token)
    return call(client, world, "UpdateOrganization", request)


@pytest.fixture
def jwt_again(protected: World) -> Iterator[None]:
    """Whatever a test asks for, the next one begins with the default."""
    yield
    rest = RestClient(protected.dev.ready["http_url"])
    fields = {"auth_policy": "AUTH_POLICY_JWT", "minimum_signature_version": 0}
    request = {
        "organization": {"id": protected.dev.ready["organization_id"], **fields},
        "update_mask": "authPolicy,minimumSignatureVersion",
    }
    back = signed(rest, protected, "UpdateOrganization", request, token=protected.dev.ready["token"])
    assert back.code is Code.OK, back


@pytest.mark.usefixtures("jwt_again")
def test_an_older_version_than_the_organization_wants_is_refused(client: Client, protected: World) -> None:
    assert set_policy(client, protected, minimum_signature_version=2).code is Code.OK
    old = signed(client, protected, version=1)
    assert (old.code, old.reason) == (Code.UNAUTHENTICATED, "SIGNATURE_VERSION")
    assert signed(client, protected).code is Code.OK


@pytest.mark.usefixtures("jwt_again")
def test_where_keys_run_tokens_do_not(client: Client, protected: World) -> None:
    assert set_policy(client, protected, auth_policy="AUTH_POLICY_SIGNED_KEY").code is Code.OK
    request = {"workflow_id": protected.workflows["echo"]}
    refused = call(client, protected, "Execute", request)
    assert (refused.code, refused.reason) == (Code.PERMISSION_DENIED, "AUTH_POLICY")
    assert call(client, protected, "ListWorkflows", {}).code is Code.OK
    assert signed(client, protected).code is Code.OK


@pytest.mark.usefixtures("jwt_again")
def test_where_both_are_asked_for_neither_alone_serves(client: Client, protected: World) -> None:
    token = protected.dev.ready["token"]
    locked = set_policy(client, protected, auth_policy="AUTH_POLICY_JWT_AND_SIGNED")
    assert (locked.code, locked.reason) == (Code.FAILED_PRECONDITION, "WOULD_LOCK_OUT")
    made = set_policy(client, protected, token=token, auth_policy="AUTH_POLICY_JWT_AND_SIGNED")
    assert made.code is Code.OK
    alone = call(client, protected, "ListWorkflows", {})
    assert (alone.code, alone.reason) == (Code.UNAUTHENTICATED, "SIGNATURE_MISSING")
    key_alone = signed(client, protected)
    assert (key_alone.code, key_alone.reason) == (Code.UNAUTHENTICATED, "AUTH_POLICY")
    assert signed(client, protected, token=token).code is Code.OK
    wrong = signed(client, protected, token=token, target="/elsewhere")
    assert (wrong.code, wrong.reason) == (Code.UNAUTHENTICATED, "SIGNATURE_INVALID")
    # Named in the body alone, by a token that names no organization at all.
    named = {"organization_id": protected.dev.ready["organization_id"], "page_size": 1}
    members = call(client, protected, "ListMembers", named)
    assert (members.code, members.reason) == (Code.UNAUTHENTICATED, "SIGNATURE_MISSING")


def test_an_organization_named_in_the_body_alone_holds_its_policy(
    client: Client, protected: World, mint: Mint
) -> None:
    """The call is another organization's by its token; the body names the protected one."""
    member = f"user_{uuid.uuid4().hex}"
    rest = RestClient(protected.dev.ready["http_url"])
    of = {"organization_id": protected.dev.ready["organization_id"]}
    add = {**of, "member": {"profile_id": member, "role": "MEMBER_ROLE_ADMIN"}}
    assert call(rest, protected, "AddMember", add).code is Code.OK
    theirs = {"Authorization": f"Bearer {mint(member, organization_id='org_dev')}"}
    call(rest, protected, "AcceptInvitation", of, headers=theirs)
    assert call(client, protected, "ListMembers", of, headers=theirs).code is Code.OK
    token = protected.dev.ready["token"]
    set_policy(rest, protected, token=token, auth_policy="AUTH_POLICY_JWT_AND_SIGNED")
    try:
        for method, request in (("ListMembers", of), ("ListApiKeys", of)):
            refused = call(client, protected, method, request, headers=theirs)
            assert (refused.code, refused.reason) == (Code.PERMISSION_DENIED, "AUTH_POLICY")
    finally:
        set_policy(rest, protected, token=token, auth_policy="AUTH_POLICY_JWT")


def test_several_of_one_header_are_refused(world: World) -> None:
    """A second value must not slip past by being the one that another part reads."""
    url, key = f"{world.dev.ready['http_url']}/api/v1/workflows", seeded_key(world)
    rest = RestClient(world.dev.ready["http_url"])
    good = list(key.headers(rest, METHODS["ListWorkflows"], b"", content_type="").items())
    bearer = ("Authorization", world.dev.bearer["Authorization"])
    refused = {
        "X-API-Key": (good, "REPEATED_HEADER"),
        "X-Timestamp": (good, "SIGNATURE_MALFORMED"),
        "X-Nonce": (good, "SIGNATURE_MALFORMED"),
        "Authorization": ([bearer], "REPEATED_HEADER"),
    }
    for name, (headers, reason) in refused.items():
        second = next(pair for pair in headers if pair[0] == name)
        answer = httpx.get(url, headers=[*headers, second])
        assert (answer.status_code in {400, 401}, answer.json()["details"][0]["reason"]) == (True, reason)
    twice = next(pair for pair in good if pair[0] == "X-Signature")
    assert httpx.get(url, headers=[*good, twice]).status_code == 200


@pytest.mark.parametrize("size", [20 * 1024, 60 * 1024, 70 * 1024])
def test_huge_credentials_are_refused(world: World, size: int) -> None:
    url = f"{world.dev.ready['http_url']}/api/v1/workflows"
    for headers in ({"Authorization": f"Bearer {'x' * size}"}, {"X-API-Key": "x" * size}):
        assert httpx.get(url, headers=headers).status_code in {401, 431}
    with grpc.insecure_channel(world.dev.ready["grpc_url"]) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/n8ngateway.v1.WorkflowService/ListWorkflows")(
                b"", metadata=[("authorization", f"Bearer {'x' * size}")], timeout=20
            )
        assert raised.value.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}


@pytest.mark.parametrize("injected", ["\r\nX-Tenant-ID: x", "\nx", "\x00"])
@pytest.mark.parametrize("name", ["X-API-Key", "X-Signature", "X-Nonce", "Authorization"])
def test_a_header_cannot_bring_another(world: World, name: str, injected: str) -> None:
    import socket  # noqa: PLC0415

    host, port = world.dev.ready["http_url"].removeprefix("http://").split(":")
    request = f"GET /api/v1/workflows HTTP/1.1\r\nHost: {host}\r\n{name}: value{injected}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request.encode())
        status = connection.recv(4096).split(b" ")[1]
    assert status in {b"400", b"401"}


def test_a_head_request_is_signed_as_the_page_says(world: World) -> None:
    url, key = world.dev.ready["http_url"], seeded_key(world)
    rest = RestClient(url)
    target = "/api/v1/workflows?page_size=1"
    headers = key.headers(
        rest, METHODS["ListWorkflows"], b"", http_method="HEAD", target=target, content_type=""
    )
    assert httpx.head(url + target, headers=headers).status_code == 200
    path = "/n8ngateway.v1.WorkflowService/ListWorkflows"
    connect = ConnectClient(url, ProtocolType.CONNECT, "json", use_get=True)
    headers = key.headers(connect, METHODS["ListWorkflows"], b"{}")
    query = {"connect": "v1", "encoding": "json", "message": "{}"}
    assert httpx.head(url + path, params=query, headers=headers).status_code == 200
