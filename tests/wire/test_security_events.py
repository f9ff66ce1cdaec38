"""Sessions that are suddenly used from elsewhere, on every door."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway.rpc.errors import Code
from tests.wire.clients import Client, Outcome, RestClient
from tests.wire.conftest import METHODS, Mint, World, call
from tests.wire.signing import SigningKey, seeded_key

SECONDS = 20


@dataclass(frozen=True)
class Tenant:
    """An organization that asks for something of its callers, and its owner."""

    world: World
    organization_id: str
    token: Callable[..., str]

    def session(self, **claims: Any) -> dict[str, str]:
        """A session of the owner, or with more claims of an existing one."""
        sid = claims.pop("sid", f"sess_{uuid.uuid4().hex}")
        return {"Authorization": f"Bearer {self.token(sid=sid, **claims)}"}

    def browse(self, headers: dict[str, str], agent: str = "Mozilla/5.0 Firefox/140.0") -> httpx.Response:
        """A call from a browser, over REST."""
        url = f"{self.world.dev.ready['http_url']}/api/v1/organizations/{self.organization_id}"
        return httpx.get(url, headers=headers | {"user-agent": agent})

    def events(self, client: Client, **narrowed: Any) -> Outcome:
        request = {"organization_id": self.organization_id, **narrowed}
        return call(client, self.world, "ListSecurityEvents", request, headers=self.session(sid="admin"))

    def await_events(self, client: Client, count: int, **narrowed: Any) -> list[dict[str, Any]]:
        """At least so many: they are written behind the calls' back."""
        give_up = time.monotonic() + SECONDS
        while True:
            outcome = self.events(client, **narrowed)
            assert outcome.code is Code.OK, outcome
            found: list[dict[str, Any]] = outcome.messages[0].get("security_events", [])
            if len(found) >= count or time.monotonic() > give_up:
                return found
            time.sleep(0.05)


@pytest.fixture
def tenant(world: World, mint: Mint) -> Callable[[str], Tenant]:
    """Makes a tenant with a fingerprint policy."""

    def make(policy: str) -> Tenant:
        clerk_id = f"org_{uuid.uuid4().hex}"
        subject = f"user_{clerk_id}"

        def token(**claims: Any) -> str:
            return mint(subject, organization_id=clerk_id, **claims)

        organization = {
            "name": policy,
            "clerk_organization_id": clerk_id,
            "fingerprint_policy": f"FINGERPRINT_POLICY_{policy}",
        }
        url = f"{world.dev.ready['http_url']}/api/v1/organizations"
        headers = {"Authorization": f"Bearer {token(sid='admin')}"}
        made = httpx.post(url, json=organization, headers=headers).raise_for_status().json()
        assert made["fingerprint_policy"] == organization["fingerprint_policy"]
        return Tenant(world, made["id"], token)

    return make


@pytest.mark.parametrize(
    "expected",
    [
        ("LOG", Code.OK, None, "logged"),
        ("CHALLENGE", Code.PERMISSION_DENIED, "REVERIFICATION_REQUIRED", "challenged"),
        ("DENY", Code.PERMISSION_DENIED, "FINGERPRINT_CHANGED", "denied"),
    ],
)
def test_another_user_agent_is_answered_by_policy_and_told(
    client: Client,
    world: World,
    tenant: Callable[[str], Tenant],
    expected: tuple[str, Code, str | None, str],
) -> None:
    policy, code, reason, action = expected
    made = tenant(policy)
    session = made.session()
    assert made.browse(session).status_code == 200
    outcome = call(client, world, "GetOrganization", {"id": made.organization_id}, headers=session)
    assert (outcome.code, outcome.reason) == (code, reason)
    assert made.browse(session, "Mozilla/5.0 Firefox/141.0").status_code == 200
    [suspicious] = made.await_events(client, 1, status="SECURITY_EVENT_STATUS_SUSPICIOUS")
    assert (suspicious["signals"], suspicious["action"]) == (["user_agent"], action)
    assert suspicious["count"] == 1
    assert suspicious["organization_id"] == made.organization_id
    if outcome.request_id:
        assert suspicious["request_id"] == outcome.request_id
    began = made.await_events(client, 1, status="SECURITY_EVENT_STATUS_BASELINE")
    assert suspicious["session_id"] in [event["session_id"] for event in began]


def test_a_fresh_factor_answers_a_challenge(
    client: Client, world: World, tenant: Callable[[str], Tenant]
) -> None:
    made = tenant("CHALLENGE")
    sid = f"sess_{uuid.uuid4().hex}"
    made.browse(made.session(sid=sid, fva=[60, -1]))
    asked = {"id": made.organization_id}
    refused = call(client, world, "GetOrganization", asked, headers=made.session(sid=sid, fva=[60, -1]))
    assert refused.reason == "REVERIFICATION_REQUIRED"
    for fva in ([0, -1], [60, -1]):
        outcome = call(client, world, "GetOrganization", asked, headers=made.session(sid=sid, fva=fva))
        assert outcome.code is Code.OK


def test_owners_can_ask_for_more_later(world: World, tenant: Callable[[str], Tenant]) -> None:
    made = tenant("LOG")
    session = made.session()
    url = f"{world.dev.ready['http_url']}/api/v1/organizations/{made.organization_id}"
    assert made.browse(session).status_code == 200
    change = {"fingerprint_policy": "FINGERPRINT_POLICY_DENY"}
    changed = httpx.patch(url, json=change, headers=made.session(sid="admin")).raise_for_status().json()
    assert changed["fingerprint_policy"] == "FINGERPRINT_POLICY_DENY"
    refused = made.browse(session, "curl/8")
    assert (refused.status_code, refused.json()["details"][0]["reason"]) == (403, "FINGERPRINT_CHANGED")


def test_a_key_has_a_baseline_of_its_own(world: World, tenant: Callable[[str], Tenant]) -> None:
    made = tenant("CHALLENGE")
    client = RestClient(world.dev.ready["http_url"])
    body = json.dumps({"id": made.organization_id}).encode()

    def ask(key: SigningKey, agent: str) -> str | None:
        headers = key.headers(client, METHODS["GetOrganization"], body)
        return client.call(METHODS["GetOrganization"], body, headers=headers | {"user-agent": agent}).reason

    def keys(name: str, request: dict[str, Any]) -> SigningKey:
        asked = {"organization_id": made.organization_id, **request}
        outcome = call(client, world, name, asked, headers=made.session(sid="admin"))
        ids.append(outcome.messages[0]["api_key"]["id"])
        return SigningKey.of(outcome.messages[0])

    ids: list[str] = []
    key = keys("CreateApiKey", {"api_key": {"name": "k", "scopes": ["organizations:read"]}})
    assert ask(key, "backend/1.0") is None
    assert ask(key, "backend/1.1") is None
    assert ask(key, "curl/8") == "FINGERPRINT_CHANGED"
    assert ask(keys("RotateApiKey", {"id": ids[0]}), "curl/8") is None


def test_pages_and_filters(client: Client, tenant: Callable[[str], Tenant]) -> None:
    made = tenant("LOG")
    for _ in range(3):
        made.browse(made.session())
    everything = made.await_events(client, 4, status="SECURITY_EVENT_STATUS_BASELINE")
    first = made.events(client, page_size=2).messages[0]
    token = first["next_page_token"]
    second = made.events(client, page_size=2, page_token=token).messages[0]
    seen = first["security_events"] + second["security_events"]
    assert [event["id"] for event in seen] == [event["id"] for event in everything][:4]
    outcome = made.events(client, page_token=token, status="SECURITY_EVENT_STATUS_BASELINE")
    assert (outcome.code, outcome.fields) == (Code.INVALID_ARGUMENT, ["page_token"])
    assert not made.events(client, subject_id="nobody").messages[0].get("security_events")


def test_they_are_for_admins_of_the_organization(
    client: Client, world: World, other_tenant: World, mint: Mint
) -> None:
    asked = {"organization_id": world.dev.ready["organization_id"]}
    outcome = call(client, world, "ListSecurityEvents", asked, headers=other_tenant.dev.bearer)
    assert (outcome.code, outcome.reason) == (Code.NOT_FOUND, "ORGANIZATION_NOT_FOUND")
    outcome = call(client, world, "ListSecurityEvents", asked, headers={}, signed=seeded_key(world).headers)
    assert (outcome.code, outcome.reason) == (Code.PERMISSION_DENIED, "SCOPE_MISSING")
    member = {"authorization": f"Bearer {mint('user_plain', organization_id='org_other', role='member')}"}
    [own] = call(client, other_tenant, "ListOrganizations", {}).messages[0]["organizations"]
    outcome = call(client, world, "ListSecurityEvents", {"organization_id": own["id"]}, headers=member)
    assert (outcome.code, outcome.reason) == (Code.PERMISSION_DENIED, "ROLE_INSUFFICIENT")
