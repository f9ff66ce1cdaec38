from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.adapters.postgres import PostgresDatabase
from gateway.chain.security_log import BASELINE, SUSPICIOUS
from gateway.gen.n8ngateway.v1.security_event_pb import SecurityEvent
from gateway.rpc.errors import InvalidArgument
from tests.adapters.databases import Tenant, new_tenant

A, B = "a" * 64, "b" * 64


def event(organization_id: str, **fields: Any) -> dict[str, Any]:
    first = {"status": BASELINE, "subject_id": "user_1", "session_id": "sess_1", "signals": [], "count": 1}
    last = {"fingerprint": A, "action": "logged", "request_id": "r-1", "organization_id": organization_id}
    return first | last | fields


async def note(database: PostgresDatabase, *events: dict[str, Any]) -> int:
    noted: int = json.loads(await database.call("note_security_events", None, p_events=events))["noted"]
    return noted


async def listed(tenant: Tenant, **narrowed: Any) -> list[Any]:
    """All of them, newest first, each read as the proto message that callers get."""
    page = await tenant.call("list_security_events", p_organization_id=tenant.organization_id, **narrowed)
    for row in page["security_events"]:
        SecurityEvent.from_json(json.dumps(row))
    return list(page["security_events"])


async def baseline(
    database: PostgresDatabase, organization_id: str, subject: str, session: str, **more: str
) -> Any:
    arguments = {
        "p_organization_id": organization_id,
        "p_subject_id": subject,
        "p_session_id": session,
    } | more
    return json.loads(await database.call("find_baseline", None, **arguments))["fingerprint"]


async def test_what_is_the_same_on_a_day_is_one_row_that_counts(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    suspicious = event(tenant.organization_id, status=SUSPICIOUS, signals=["network"], fingerprint=B)
    assert await note(database, event(tenant.organization_id), suspicious | {"count": 3}) == 2
    await note(database, suspicious | {"request_id": "r-2"})
    await note(database, suspicious | {"count": 2147483647})
    [second, first] = sorted(await listed(tenant), key=lambda row: row["status"], reverse=True)
    assert (first["status"], first["count"], first["signals"]) == (BASELINE, 1, [])
    assert (second["count"], second["request_id"]) == (2147483647, "r-1")
    assert (second["fingerprint"], second["signals"], second["action"]) == (B, ["network"], "logged")


@pytest.mark.parametrize(
    "other",
    [{"subject_id": "user_2"}, {"session_id": "sess_2"}, {"fingerprint": B}, {"action": "denied"},
     {"status": SUSPICIOUS}],
)  # fmt: skip
async def test_what_differs_has_a_row_of_its_own(database: PostgresDatabase, other: dict[str, Any]) -> None:
    tenant = await new_tenant(database)
    await note(database, event(tenant.organization_id), event(tenant.organization_id, **other))
    assert [row["count"] for row in await listed(tenant)] == [1, 1]


async def test_an_organization_that_is_not_there_does_not_spoil_the_others(
    database: PostgresDatabase,
) -> None:
    tenant = await new_tenant(database)
    assert await note(database, event(str(uuid.uuid4())), event(tenant.organization_id)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"fingerprint": "192.0.2.1"},
        {"action": "ignored"},
        {"status": "OTHER"},
        {"signals": ["mood"]},
        {"count": 0},
    ],
)
async def test_what_is_no_event_is_refused(database: PostgresDatabase, wrong: dict[str, Any]) -> None:
    tenant = await new_tenant(database)
    with pytest.raises(InvalidArgument):
        await note(database, event(tenant.organization_id, **wrong))


async def test_pages_go_from_new_to_old_and_can_be_narrowed(database: PostgresDatabase) -> None:
    tenant = await new_tenant(database)
    for number in range(5):
        status = SUSPICIOUS if number % 2 else BASELINE
        await note(database, event(tenant.organization_id, subject_id=f"user_{number}", status=status))
    everything = await listed(tenant)
    assert [row["subject_id"] for row in everything] == [f"user_{number}" for number in (4, 3, 2, 1, 0)]
    narrowed = {"p_organization_id": tenant.organization_id, "p_limit": 2}
    seen, after = [], None
    while True:
        page = await tenant.call("list_security_events", **narrowed, p_after=after)
        seen += page["security_events"]
        after = page["next"]
        if after is None:
            break
    assert seen == everything
    assert [row["subject_id"] for row in await listed(tenant, p_status=SUSPICIOUS)] == ["user_3", "user_1"]
    assert [row["subject_id"] for row in await listed(tenant, p_subject_id="user_2")] == ["user_2"]
    now = datetime.now(UTC)
    assert await listed(tenant, p_start_time=(now + timedelta(minutes=5)).isoformat()) == []
    assert await listed(tenant, p_end_time=(now - timedelta(minutes=5)).isoformat()) == []
    assert await listed(tenant, p_start_time=(now - timedelta(minutes=5)).isoformat()) == everything


async def test_the_last_baseline_counts(database: PostgresDatabase) -> None:
    organization_id = (await new_tenant(database)).organization_id
    assert await baseline(database, organization_id, "user_1", "sess_1") is None
    await note(database, event(organization_id))
    await note(database, event(organization_id, status=SUSPICIOUS, fingerprint=B))
    assert await baseline(database, organization_id, "user_1", "sess_1") == A
    await note(database, event(organization_id, fingerprint=B, action="challenged"))
    assert await baseline(database, organization_id, "user_1", "sess_1") == B
    assert await baseline(database, organization_id, "user_1", "sess_2") is None
    assert await baseline(database, str(uuid.uuid4()), "user_1", "sess_1") is None


async def test_a_baseline_that_is_one_again_is_the_last_one(database: PostgresDatabase) -> None:
    """On one day it has the row, and the id, that it had before."""
    organization_id = (await new_tenant(database)).organization_id
    first = event(organization_id)
    a, b = (event(organization_id, fingerprint=one, action="challenged") for one in (A, B))
    for noted, last in ((first, A), (b, B), (a, A), (b, B), (a, A)):
        await note(database, noted)
        assert await baseline(database, organization_id, "user_1", "sess_1") == last


async def test_the_last_baseline_is_the_one_that_was_seen_last(database: PostgresDatabase) -> None:
    """Which is not always the one that was written down last."""
    organization_id = (await new_tenant(database)).organization_id
    a, b = (event(organization_id, fingerprint=one, action="challenged") for one in (A, B))
    await note(database, a | {"age_seconds": 30}, b | {"age_seconds": 29.5})
    assert await baseline(database, organization_id, "user_1", "sess_1") == B
    await note(database, a | {"age_seconds": 600})
    assert await baseline(database, organization_id, "user_1", "sess_1") == B
    await note(database, b | {"age_seconds": 10}, a | {"age_seconds": 5})
    assert await baseline(database, organization_id, "user_1", "sess_1") == A


async def test_a_baseline_is_found_by_what_it_was_made_with(database: PostgresDatabase) -> None:
    organization_id = (await new_tenant(database)).organization_id
    new, old = A, "0" * 8 + "c" * 56
    for fingerprint in (new, old):  # the old one is written down last
        await note(database, event(organization_id, subject_id="key", session_id="", fingerprint=fingerprint))
    assert await baseline(database, organization_id, "key", "", p_origin=A[:8]) == new
    assert await baseline(database, organization_id, "key", "", p_origin="0" * 8) == old
    assert await baseline(database, organization_id, "key", "", p_origin="1" * 8) is None


async def test_what_is_old_is_forgotten(database: PostgresDatabase, superuser: Any) -> None:
    tenant = await new_tenant(database)
    await note(database, event(tenant.organization_id))
    await superuser.execute(
        "update public.security_logs set id = gateway.uuid_floor(now() - interval '181 days')"
        " where organization_id = $1",
        tenant.organization_id,
    )
    await note(database, event(tenant.organization_id, fingerprint=B))
    assert [row["fingerprint"] for row in await listed(tenant)] == [B]
