"""Tokens of an application that is not listed, at the doors of a gateway that lists some."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import httpx
import jwt
import pytest

from tests.conftest import RunningDev
from tests.replicas.conftest import SECONDS, Replica, StartReplica

LISTED = "https://app.example"
RPC = "n8ngateway.v1.WorkflowService/ListWorkflows"


@pytest.fixture(scope="module")
def replica(start_replica: StartReplica) -> Iterator[Replica]:
    started = start_replica(CLERK_AUTHORIZED_PARTIES=LISTED)
    yield started
    started.kill()


def answers(replica: Replica, dev: RunningDev, **claims: Any) -> list[httpx.Response]:
    """What REST and Connect answer to dev's user with other claims."""
    seen = dev.ready["token"]
    key = (dev.data_dir / "issuer-key.pem").read_bytes()
    content = jwt.decode(seen, options={"verify_signature": False}) | claims
    token = jwt.encode(content, key, "RS256", {"kid": jwt.get_unverified_header(seen)["kid"]})
    headers = {"Authorization": f"Bearer {token}"}
    connect = f"{replica.url.removesuffix('/api/v1')}/{RPC}"
    return [
        httpx.get(f"{replica.url}/workflows", headers=headers, timeout=SECONDS),
        httpx.post(connect, json={}, headers=headers, timeout=SECONDS),
    ]


def test_a_listed_party_is_let_in(replica: Replica, dev: RunningDev) -> None:
    assert [answer.status_code for answer in answers(replica, dev, azp=LISTED)] == [HTTPStatus.OK] * 2


@pytest.mark.parametrize("party", ["https://evil.example", f"{LISTED}.evil.example", "", None])
def test_a_foreign_party_is_refused(replica: Replica, dev: RunningDev, party: str | None) -> None:
    for answer in answers(replica, dev, azp=party):
        assert answer.status_code == HTTPStatus.UNAUTHORIZED
        assert "TOKEN_PARTY" in answer.text
