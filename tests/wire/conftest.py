"""Every door in every encoding, in front of one gateway with workflows for each thing that n8n can do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import httpx
import jwt
import pytest
from connectrpc.protocol import ProtocolType
from protobuf import DescMethod

from gateway.rpc.api import SERVICES
from gateway.rpc.errors import Code
from tests import leaks
from tests.conftest import RunningDev
from tests.stub_n8n import StubN8n
from tests.wire.clients import Client, ConnectClient, GrpcClient, Outcome, RestClient

Mint = Callable[..., str]

METHODS: dict[str, DescMethod] = {method.name: method for service in SERVICES for method in service.methods}

WEBHOOKS = [
    "echo", "stream", "stream-fail", "gated", "hang", "endless", "cut", "empty", "text", "bytes", "list",
    "n404", "n403", "n500", "n422", "html", "migrating", "no-database", "proxy-503",
]  # fmt: skip

NOTICED_WITHIN_SECONDS = 60
TIMEOUTS = {"hang": {"timeout_seconds": 1}, "endless": {"idle_timeout_seconds": 1}}
_STREAMING = {"response_mode": "RESPONSE_MODE_STREAMING", "idle_timeout_seconds": 1}
_DOCUMENT = {"response_mode": "RESPONSE_MODE_DOCUMENT"}
EXPECTED: dict[str, dict[str, Any]] = {
    **{
        f"{path} as a stream": {"webhook_path": path, **_STREAMING}
        for path in ("stream", "echo", "empty", "hang")
    },
    **{
        f"{path} as a document": {"webhook_path": path, **_DOCUMENT}
        for path in ("echo", "stream", "stream-fail")
    },
}
"""Workflows that say what they answer with, which for some of them is not so."""

_CLIENTS: dict[str, Callable[[dict[str, Any]], Client]] = {
    "grpc": lambda ready: GrpcClient(ready["grpc_url"]),
    "connect-proto": lambda ready: ConnectClient(ready["http_url"], ProtocolType.CONNECT, "proto"),
    "connect-json": lambda ready: ConnectClient(ready["http_url"], ProtocolType.CONNECT, "json"),
    "grpc-web-proto": lambda ready: ConnectClient(ready["http_url"], ProtocolType.GRPC_WEB, "proto"),
    "grpc-web-json": lambda ready: ConnectClient(ready["http_url"], ProtocolType.GRPC_WEB, "json"),
    "rest": lambda ready: RestClient(ready["http_url"]),
}
_STREAM_CLIENTS = _CLIENTS | {
    "rest-ndjson": lambda ready: RestClient(ready["http_url"], "application/x-ndjson"),
    "rest-sse": lambda ready: RestClient(ready["http_url"], "text/event-stream"),
}


@dataclass(frozen=True)
class World:
    """The gateway, and what was registered with it."""

    dev: RunningDev
    stub: StubN8n
    workflows: dict[str, str]

    def request(self, webhook: str, **fields: Any) -> dict[str, Any]:
        """A request that runs the workflow behind a webhook."""
        return {"workflow_id": self.workflows[webhook], **fields}

    def execute(self, webhook: str) -> httpx.Response:
        """Run the workflow behind a webhook over REST."""
        url = f"{self.dev.ready['http_url']}/api/v1/execute"
        return httpx.post(url, json=self.request(webhook), headers=self.dev.bearer, timeout=20)

    def balance(self) -> int:
        """The credits left, as the next successful run tells: one more than it leaves."""
        remaining: int = self.execute("echo").raise_for_status().json()["credits_remaining"]
        return remaining + 1


@pytest.fixture(scope="session")
def world(dev: RunningDev, stub_n8n: StubN8n) -> World:
    """Workflows of one credit each for every webhook, short timeouts where n8n never ends."""
    workflows = {}
    for webhook in (*WEBHOOKS, *EXPECTED):
        workflow: dict[str, Any] = {
            "name": f"wire {webhook}",
            "webhook_path": webhook,
            "credits_per_execution": 1,
        }
        workflow |= TIMEOUTS.get(webhook, {}) | EXPECTED.get(webhook, {})
        answer = httpx.post(f"{dev.ready['http_url']}/api/v1/workflows", json=workflow, headers=dev.bearer)
        workflows[webhook] = answer.raise_for_status().json()["id"]
    return World(dev, stub_n8n, workflows)


@pytest.fixture(params=_CLIENTS)
def client(request: pytest.FixtureRequest, world: World) -> Client:
    """Each door in each encoding, for unary calls."""
    return _CLIENTS[request.param](world.dev.ready)


@pytest.fixture
def client_of(world: World) -> Callable[[str], Client]:
    """The door of a name."""
    return lambda name: _CLIENTS[name](world.dev.ready)


@pytest.fixture(params=[name for name in _CLIENTS if name == "rest" or name.endswith("-json")])
def json_client(request: pytest.FixtureRequest, world: World) -> Client:
    """Each door that takes JSON."""
    return _CLIENTS[request.param](world.dev.ready)


@pytest.fixture(params=[name for name in _CLIENTS if name == "grpc" or name.endswith("-proto")])
def binary_client(request: pytest.FixtureRequest, world: World) -> Client:
    """Each door that takes binary protobuf."""
    return _CLIENTS[request.param](world.dev.ready)


@pytest.fixture(params=_STREAM_CLIENTS)
def stream_client(request: pytest.FixtureRequest, world: World) -> Client:
    """Each door in each encoding and form of a stream."""
    return _STREAM_CLIENTS[request.param](world.dev.ready)


@pytest.fixture
def unreachable_n8n(stub_n8n: StubN8n, world: World) -> Iterator[None]:
    """n8n is away; the test after this one finds it back, and the gateway knowing so."""
    stub_n8n.go_away()
    yield
    stub_n8n.listen()
    give_up = time.monotonic() + NOTICED_WITHIN_SECONDS
    while world.execute("echo").status_code != HTTPStatus.OK:
        assert time.monotonic() < give_up
        time.sleep(0.1)


def call(
    client: Client,
    world: World,
    method: str,
    request: dict[str, Any],
    *,
    headers: dict[str, str] | None = None,
    signed: Callable[[Client, DescMethod, bytes], dict[str, str]] | None = None,
    timeout: float | None = None,
) -> Outcome:
    """Call a method by its name with a request in proto names, as the seeded user or with `headers`.

    `signed` makes headers that go along with those.
    """
    descriptor = METHODS[method]
    message = descriptor.input.type.from_json(_json(request))
    body = _json(request).encode() if client.json else message.to_binary()
    headers = world.dev.bearer if headers is None else headers
    outcome = client.call(
        descriptor,
        body,
        headers=headers | (signed(client, descriptor, body) if signed else {}),
        timeout=timeout,
    )
    if outcome.code is not Code.OK:
        leaks.search(f"the answer to {method}", repr(outcome))
    for message in outcome.messages:
        leaks.remember_answer(message)
    return outcome


def _json(request: dict[str, Any]) -> str:
    return json.dumps(request)


@pytest.fixture(scope="session")
def mint(dev: RunningDev) -> Mint:
    """Signs tokens with the key of dev's own issuer."""
    key = (dev.data_dir / "issuer-key.pem").read_bytes()
    key_id = jwt.get_unverified_header(dev.ready["token"])["kid"]
    issuer = jwt.decode(dev.ready["token"], options={"verify_signature": False})["iss"]

    def sign(
        subject: str,
        *,
        organization_id: str | None = None,
        role: str = "admin",
        version: int = 2,
        **claims: Any,
    ) -> str:
        now = int(time.time())
        content = {
            "sub": subject,
            "iss": issuer,
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "role": "authenticated",
        }
        if organization_id and version == 2:
            content["o"] = {"id": organization_id, "rol": role, "slg": "slug"}
        elif organization_id:
            content |= {"org_id": organization_id, "org_role": f"org:{role}", "org_slug": "slug"}
        if version == 2:
            content["v"] = 2
        token = jwt.encode(content | claims, key, algorithm="RS256", headers={"kid": key_id})
        leaks.remember("a session token", token)
        return token

    return sign


@pytest.fixture(scope="session")
def other_tenant(world: World, mint: Mint) -> World:
    """Another organization on the same gateway: its own user, an active workflow, and not one credit."""
    token = mint("user_other", organization_id="org_other")
    dev = replace(world.dev, ready=world.dev.ready | {"token": token})
    url = dev.ready["http_url"]
    organization = {"name": "Other", "clerk_organization_id": "org_other"}
    httpx.post(f"{url}/api/v1/organizations", json=organization, headers=dev.bearer).raise_for_status()
    workflow = {"name": "echo", "webhook_path": "echo", "credits_per_execution": 1}
    answer = httpx.post(f"{url}/api/v1/workflows", json=workflow, headers=dev.bearer).raise_for_status()
    return World(dev, world.stub, {"echo": answer.json()["id"]})


@pytest.fixture(scope="session")
def inactive_workflow(world: World) -> str:
    """A workflow that was switched off."""
    url = f"{world.dev.ready['http_url']}/api/v1/workflows"
    registered = httpx.post(url, json={"name": "off", "webhook_path": "echo"}, headers=world.dev.bearer)
    workflow_id: str = registered.raise_for_status().json()["id"]
    httpx.post(f"{url}/{workflow_id}/deactivate", headers=world.dev.bearer).raise_for_status()
    return workflow_id
