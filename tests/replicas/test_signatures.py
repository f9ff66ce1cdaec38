"""Signed requests where several gateways share one Redis: what one has seen, no other takes."""

from __future__ import annotations

import time
import uuid
from typing import Any

import httpx
import pytest
from n8n_gateway_client import RequestSigner

from tests.conftest import RunningDev
from tests.replicas.conftest import SECONDS, Replica

TARGET = "/api/v1/workflows?page_size=1"


def read(replica: Replica, headers: dict[str, str]) -> httpx.Response:
    return httpx.get(replica.url.removesuffix("/api/v1") + TARGET, headers=headers, timeout=SECONDS)


def signed(signer: RequestSigner) -> dict[str, str]:
    return signer.headers(http_method="GET", target=TARGET, content_type="", message=b"")


def reason(answer: httpx.Response) -> str:
    text: str = answer.json()["details"][0]["reason"]
    return text


@pytest.fixture
def organization(first: Replica) -> str:
    made = first.post("/organizations", {"name": f"signed {uuid.uuid4()}"}).raise_for_status().json()
    identifier: str = made["id"]
    return identifier


def new_key(replica: Replica, organization: str) -> tuple[str, RequestSigner]:
    made: Any = replica.post(f"/organizations/{organization}/api-keys", {"name": "replicas"})
    told = made.raise_for_status().json()
    return told["api_key"]["id"], RequestSigner(told["key"], told["client_secret"])


def test_a_nonce_is_taken_on_every_replica(
    dev: RunningDev, first: Replica, second: Replica, organization: str
) -> None:
    _, signer = new_key(first, organization)
    headers = signed(signer)
    assert read(first, headers).status_code == 200
    for replica in (second, first, Replica(dev.process, f"{dev.ready['http_url']}/api/v1", {})):
        refused = read(replica, headers)
        assert (refused.status_code, reason(refused)) == (401, "SIGNATURE_REPLAYED")
    assert read(second, signed(signer)).status_code == 200


def test_a_client_secret_ends_on_every_replica(first: Replica, second: Replica, organization: str) -> None:
    key_id, signer = new_key(first, organization)
    assert read(second, signed(signer)).status_code == 200
    first.post(f"/organizations/{organization}/api-keys/{key_id}/revoke", {}).raise_for_status()
    give_up = time.monotonic() + SECONDS
    while (answer := read(second, signed(signer))).status_code == 200:
        assert time.monotonic() < give_up
    assert reason(answer) == "API_KEY_REVOKED"


def test_a_policy_holds_on_every_replica(first: Replica, second: Replica, organization: str) -> None:
    _, signer = new_key(first, organization)
    own = {"X-Tenant-ID": organization}
    assert read(second, first.bearer | own).status_code == 200
    both = first.bearer | {"Content-Type": "application/json"}
    body = b'{"auth_policy": "AUTH_POLICY_JWT_AND_SIGNED"}'
    path = f"/api/v1/organizations/{organization}"
    headers = signer.headers(
        http_method="PATCH",
        target=path,
        content_type="application/json",
        message=body,
        tenant=organization,
    )
    changed = httpx.patch(
        first.url.removesuffix("/api/v1") + path, content=body, headers=both | headers, timeout=SECONDS
    )
    assert changed.status_code == 200, changed.text
    give_up = time.monotonic() + SECONDS
    while (answer := read(second, first.bearer | own)).status_code == 200:
        assert time.monotonic() < give_up
    assert reason(answer) == "SIGNATURE_MISSING"
    assert read(second, first.bearer | signed(signer)).status_code == 200
