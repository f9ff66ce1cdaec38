"""Events reach their endpoints: signed, again after failures, from any replica, and fairly."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import uuid
from collections import Counter
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from gateway.adapters.addresses import Networks
from gateway.adapters.webhook_sender import WebhookSender
from gateway.rpc.errors import FailedPrecondition, InvalidArgument, NotFound
from gateway.webhooks import deliverer as deliverer_module
from gateway.webhooks.deliverer import AT_ONCE, EACH, LONGEST_RETRY_SECONDS, retry_seconds
from gateway.webhooks.signature import signed_headers
from tests.adapters.n8n_server import Peer, http
from tests.webhooks.conftest import Outbox
from tests.webhooks.receiver import FINE, Got, Receiver

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3,9})?Z"
FINISHED = "WEBHOOK_EVENT_TYPE_EXECUTION_FINISHED"


def verified(secret: str, got: Got) -> Any:
    """What the public library makes of a request; it raises unless the signature holds."""
    return Verifier(secret).verify(got.body, got.headers)


async def test_an_event_comes_signed(outbox: Outbox, receiver: Receiver) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url("/hook?token=1"))
    await outbox.emit(tenant, payload='{"later": {"id": "☃"}}')
    await outbox.deliver()
    (got,) = receiver.at("/hook?token=1")
    told = verified(outbox.secrets[webhook], got)
    assert (told["type"], told["data"]) == ("execution.finished", {"later": {"id": "☃"}})
    assert re.fullmatch(TIME, told["timestamp"])
    assert got.headers["content-type"] == "application/json"
    (delivery,) = await outbox.deliveries(tenant, webhook)
    assert got.headers["webhook-id"] == delivery["id"]
    assert (delivery["state"], delivery["attempts"]) == ("WEBHOOK_DELIVERY_STATE_DELIVERED", 1)
    assert (delivery["response_status"], delivery["event_type"]) == (204, FINISHED)
    assert delivery["delivered_at"]
    assert "next_attempt_at" not in delivery or delivery["next_attempt_at"] is None
    assert await outbox.deliver() == 0
    tampered = Got(got.path, got.headers, got.body + b" ")
    with pytest.raises(WebhookVerificationError):
        verified(outbox.secrets[webhook], tampered)


async def test_an_end_of_a_run_a_revoked_key_and_a_suspicious_caller_are_told(
    outbox: Outbox, receiver: Receiver
) -> None:
    tenant = await outbox.tenant()
    await outbox.webhook(tenant, receiver.url())
    await tenant.settle((await tenant.begin())["execution_id"])
    key = await tenant.call(
        "create_api_key",
        p_organization_id=tenant.organization_id,
        p_api_key={"name": "k", "scopes": []},
        p_public_id=f"gw_live_{'a' * 16}",
        p_secret_hash="b" * 64,
        p_client_secret={"sealed": "AA==", "key_id": "1"},
    )
    for _ in range(2):
        await tenant.call("revoke_api_key", p_organization_id=tenant.organization_id, p_id=key["id"])
    event = {
        "organization_id": tenant.organization_id,
        "subject_id": "user_x",
        "session_id": "",
        "signals": ["network"],
        "fingerprint": "c" * 64,
        "action": "logged",
        "request_id": "",
        "count": 1,
    }
    for status in ("BASELINE", "SUSPICIOUS", "SUSPICIOUS"):
        await outbox.database.call(
            "note_security_events", None, p_events=[event | {"status": f"SECURITY_EVENT_STATUS_{status}"}]
        )
    await outbox.deliver()
    told = [json.loads(got.body) for got in receiver.got]
    assert Counter(one["type"] for one in told) == Counter(
        ["execution.finished", "api_key.revoked", "caller.suspicious"]
    )
    by_type = {one["type"]: one["data"] for one in told}
    assert by_type["api_key.revoked"]["api_key"]["id"] == key["id"]
    assert "b" * 64 not in str(told)
    assert by_type["caller.suspicious"]["security_event"]["subject_id"] == "user_x"
    assert b"null" not in b"".join(got.body for got in receiver.got)
    execution = by_type["execution.finished"]["execution"]
    assert execution["state"] == "EXECUTION_STATE_COMPLETED"
    assert (execution["n8n_execution_id"], execution["credits_reserved"]) == ("", 0)
    assert re.fullmatch(TIME, execution["created_at"])


async def test_an_endpoint_is_told_what_it_asked_for_by_its_own_tenant(
    outbox: Outbox, receiver: Receiver
) -> None:
    tenant, other = await outbox.tenant(), await outbox.tenant()
    await outbox.webhook(tenant, receiver.url("/keys"), "WEBHOOK_EVENT_TYPE_API_KEY_REVOKED")
    await outbox.webhook(tenant, receiver.url("/all"))
    await outbox.webhook(other, receiver.url("/other"))
    await outbox.emit(tenant, "execution.finished")
    await outbox.emit(tenant, "api_key.revoked")
    await outbox.deliver()
    assert Counter(got.path for got in receiver.got) == Counter({"/all": 2, "/keys": 1})


async def test_without_an_endpoint_nothing_is_written(outbox: Outbox, receiver: Receiver) -> None:
    tenant = await outbox.tenant()
    await outbox.emit(tenant)
    webhook = await outbox.webhook(tenant, receiver.url())
    await tenant.call(
        "update_webhook",
        p_organization_id=tenant.organization_id,
        p_id=webhook,
        p_changes={"is_enabled": False},
    )
    await outbox.emit(tenant)
    assert await outbox.superuser.fetchval("select count(*) from outbox_events") == 0


async def test_a_failure_is_tried_again_under_the_same_id(outbox: Outbox, receiver: Receiver) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    receiver.answers["/hook"] = [http(b"sorry\r\n\0", status=500), http(b"", status=200)]
    await outbox.emit(tenant)
    await outbox.deliver()
    (failed,) = await outbox.deliveries(tenant, webhook, "PENDING")
    assert (failed["response_status"], failed["error_message"]) == (500, "answered 500: sorry")
    assert failed["next_attempt_at"]
    assert await outbox.deliver() == 0
    await outbox.make_due()
    await outbox.deliver()
    (delivered,) = await outbox.deliveries(tenant, webhook, "DELIVERED")
    assert (delivered["attempts"], delivered["error_message"]) == (2, "")
    first, second = receiver.got
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    verified(outbox.secrets[webhook], second)


async def test_after_the_last_attempt_it_has_failed_until_it_is_redelivered(
    outbox: Outbox, receiver: Receiver
) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    receiver.answers["/hook"] = [http(b"", status=503)]
    await outbox.emit(tenant)
    for _ in range(15):
        await outbox.deliver()
        await outbox.make_due()
    (failed,) = await outbox.deliveries(tenant, webhook, "FAILED")
    assert failed["attempts"] == len(receiver.got) == 11
    receiver.answers.clear()
    about = {"p_organization_id": tenant.organization_id, "p_webhook_id": webhook}
    queued = await tenant.call("redeliver_webhook", **about, p_delivery_id=failed["id"])
    assert queued["state"] == "WEBHOOK_DELIVERY_STATE_PENDING"
    again = await tenant.call("redeliver_webhook", **about, p_delivery_id=failed["id"])
    assert again == queued
    await outbox.deliver()
    assert receiver.got[-1].headers["webhook-id"] == failed["id"]
    assert (await outbox.deliveries(tenant, webhook, "DELIVERED"))[0]["attempts"] == 12
    with pytest.raises(NotFound):
        await tenant.call("redeliver_webhook", **about, p_delivery_id=webhook)
    await tenant.call(
        "update_webhook",
        p_organization_id=tenant.organization_id,
        p_id=webhook,
        p_changes={"is_enabled": False},
    )
    with pytest.raises(FailedPrecondition):
        await tenant.call("redeliver_webhook", **about, p_delivery_id=failed["id"])


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("whsec_not base64!", "its signing secret cannot sign: it is malformed"),
        (None, "its signing secret cannot sign: it has none"),
        (b"sealed by nobody", "its signing secret cannot be read: SECRET_UNREADABLE"),
    ],
)
async def test_what_nothing_can_sign_has_failed_in_the_end(
    outbox: Outbox, receiver: Receiver, secret: str | bytes | None, why: str
) -> None:
    """Whoever calls the database around the gateway can store any secret."""
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    kept = "webhook/" + str(
        await outbox.superuser.fetchval("select secret_id from webhook_endpoints where id = $1", webhook)
    )
    sealed = (
        outbox.vault.seal(tenant.organization_id, kept, secret)["sealed"]
        if isinstance(secret, str)
        else base64.b64encode(secret or b"").decode()
    )
    await outbox.superuser.execute("update tenant_secrets set sealed = $1 where name = $2", sealed, kept)
    if secret is None:
        await outbox.superuser.execute("delete from tenant_secrets where name = $1", kept)
    await outbox.emit(tenant)
    for _ in range(15):
        await outbox.deliver()
        await outbox.make_due()
    (failed,) = await outbox.deliveries(tenant, webhook)
    assert (failed["state"], failed["attempts"]) == ("WEBHOOK_DELIVERY_STATE_FAILED", 11)
    assert failed["error_message"] == why
    assert receiver.got == []


@pytest.mark.parametrize(
    "secret", ["", "plain", "whsec_", "whsec_AAAA", "whsec_!" + "A" * 43, "whsec_" + "A" * 100]
)
async def test_a_secret_that_cannot_sign_is_not_stored(outbox: Outbox, secret: str) -> None:
    tenant = await outbox.tenant()
    with pytest.raises(InvalidArgument):
        await tenant.call(
            "create_webhook",
            p_organization_id=tenant.organization_id,
            p_webhook={"url": "https://example.com/hook"},
            p_secret_id=str(uuid.uuid4()),
            p_secret={"plain": secret},
        )


async def test_a_delivery_that_breaks_who_takes_it_has_failed_in_the_end(
    outbox: Outbox, receiver: Receiver
) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    await outbox.emit(tenant)
    taken = 0
    for _ in range(15):
        answer = await outbox.database.call(
            "take_webhook_deliveries", None, p_limit=9, p_failing_limit=9, p_each=9, p_lease_seconds=60
        )
        taken += len(json.loads(answer)["deliveries"])
        await outbox.superuser.execute("update webhook_deliveries set leased_until = now() - interval '1 s'")
    assert taken == 11
    (failed,) = await outbox.deliveries(tenant, webhook)
    assert (failed["state"], failed["attempts"]) == ("WEBHOOK_DELIVERY_STATE_FAILED", 11)
    assert failed["error_message"]


async def test_what_waits_for_a_disabled_endpoint_goes_after_30_days(
    outbox: Outbox, receiver: Receiver
) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    receiver.answers["/hook"] = [http(b"", status=500)]
    for _ in range(2):
        await outbox.emit(tenant)
    await outbox.deliver()
    await tenant.call(
        "update_webhook",
        p_organization_id=tenant.organization_id,
        p_id=webhook,
        p_changes={"is_enabled": False},
    )
    await outbox.superuser.execute(
        "update webhook_deliveries set id = gateway.uuid_floor(now() - interval '31 days')"
        " where id = (select min(id::text)::uuid from webhook_deliveries)"
    )
    await outbox.deliver()
    (left,) = await outbox.deliveries(tenant, webhook)
    assert left["state"] == "WEBHOOK_DELIVERY_STATE_PENDING"


async def rotate(outbox: Outbox, tenant: Any, webhook: str, overlap: int) -> str:
    secret, secret_id, envelope = outbox.sealed(tenant)
    await tenant.call(
        "rotate_webhook_secret",
        p_organization_id=tenant.organization_id,
        p_id=webhook,
        p_secret_id=secret_id,
        p_secret=envelope,
        p_overlap_seconds=overlap,
    )
    return secret


async def test_during_a_rotation_both_secrets_sign(outbox: Outbox, receiver: Receiver) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    old, new = outbox.secrets[webhook], await rotate(outbox, tenant, webhook, 60)
    await outbox.emit(tenant)
    await outbox.deliver()
    assert verified(old, receiver.got[-1]) == verified(new, receiver.got[-1])
    newest = await rotate(outbox, tenant, webhook, 0)
    await outbox.emit(tenant)
    await outbox.deliver()
    verified(newest, receiver.got[-1])
    for ended in (old, new):
        with pytest.raises(WebhookVerificationError):
            verified(ended, receiver.got[-1])
    kept = await outbox.superuser.fetchval("select count(*) from tenant_secrets where name like 'webhook/%'")
    assert kept == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure(outbox: Outbox, receiver: Receiver, status: int) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    receiver.answers["/hook"] = [http(b"", status=status, Location=receiver.url("/elsewhere"))]
    await outbox.emit(tenant)
    await outbox.deliver()
    assert receiver.at("/elsewhere") == []
    assert (await outbox.deliveries(tenant, webhook, "PENDING"))[0]["response_status"] == status


async def test_a_private_address_is_not_connected_to(outbox: Outbox, receiver: Receiver) -> None:
    tenant = await outbox.tenant()
    port = receiver.server.port
    hosts = ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433")
    webhooks = [await outbox.webhook(tenant, f"http://{host}:{port}/") for host in hosts]
    await outbox.emit(tenant)
    await outbox.deliver(outbox.deliverer(WebhookSender(Networks())))
    assert receiver.server.connections == 0
    told = [(await outbox.deliveries(tenant, webhook))[0]["error_message"] for webhook in webhooks]
    assert set(told[:4]) == {"its address is not public, and the gateway does not allow it"}
    assert told[4]


async def test_two_replicas_deliver_each_event_once(outbox: Outbox, receiver: Receiver) -> None:
    tenants = [await outbox.tenant() for _ in range(3)]
    for tenant in tenants:
        await outbox.webhook(tenant, receiver.url())
    for number in range(60):
        await outbox.emit(tenants[number % 3], payload=json.dumps({"n": number}))
    replicas = [outbox.deliverer(), outbox.deliverer()]
    for replica in replicas:
        replica.start()
    await receiver.received(60)
    for replica in replicas:
        await replica.close(30)
    assert sorted(json.loads(got.body)["data"]["n"] for got in receiver.got) == list(range(60))
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 60


async def test_what_a_dead_replica_was_at_is_delivered_by_another(outbox: Outbox, receiver: Receiver) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    receiver.hold("/hook")
    await outbox.emit(tenant)
    dying = outbox.deliverer()
    await dying.deliver_due()
    await receiver.received(1)
    assert await outbox.deliver() == 0  # it is leased to the one that dies
    for task in [*dying._under_way]:
        task.cancel()
    await dying.close()
    receiver.hold("/hook").set()
    await outbox.superuser.execute("update webhook_deliveries set leased_until = now()")
    await outbox.deliver()
    first, second = receiver.got
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert (await outbox.deliveries(tenant, webhook, "DELIVERED"))[0]["attempts"] == 2


async def test_who_comes_late_changes_nothing(outbox: Outbox, receiver: Receiver) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    receiver.hold("/hook")
    await outbox.emit(tenant)
    slow = outbox.deliverer()
    await slow.deliver_due()
    await receiver.received(1)
    await outbox.superuser.execute("update webhook_deliveries set leased_until = now()")
    other = outbox.deliverer()
    await other.deliver_due()
    await receiver.received(2)
    receiver.answers["/hook"] = [http(b"", status=500), http(b"", status=204)]
    receiver.hold("/hook").set()
    await slow.close(30)
    await other.close(30)
    (delivery,) = await outbox.deliveries(tenant, webhook)
    assert delivery["attempts"] == 2


async def test_an_endpoint_that_hangs_holds_up_nobody_else(outbox: Outbox, receiver: Receiver) -> None:
    dead, alive = await outbox.tenant(), await outbox.tenant()
    await outbox.webhook(dead, receiver.url("/dead"))
    await outbox.webhook(alive, receiver.url("/alive"))
    receiver.hold("/dead")
    for _ in range(100):
        await outbox.emit(dead)
    running = outbox.deliverer()
    running.start()
    await receiver.received(EACH, "/dead")
    await outbox.emit(alive)
    await receiver.received(1, "/alive")
    assert len(receiver.at("/dead")) == EACH
    receiver.hold("/dead").set()
    await receiver.received(100, "/dead")
    await running.close(30)


async def test_many_endpoints_that_hang_hold_up_no_other_organization(
    outbox: Outbox, receiver: Receiver
) -> None:
    greedy, modest = await outbox.tenant(), await outbox.tenant()
    for _ in range(AT_ONCE // EACH + 1):
        await outbox.webhook(greedy, receiver.url("/dead"))
    await outbox.webhook(modest, receiver.url("/alive"))
    receiver.hold("/dead")
    for _ in range(EACH):
        await outbox.emit(greedy)
    running = outbox.deliverer()
    while await running.deliver_due():
        pass
    await receiver.received(2 * EACH, "/dead")
    await outbox.emit(modest)
    await running.deliver_due()
    await receiver.received(1, "/alive")
    assert len(receiver.at("/dead")) == 2 * EACH
    receiver.hold("/dead").set()
    running.start()
    await receiver.received((AT_ONCE // EACH + 1) * EACH, "/dead")
    await running.close(30)


async def test_one_that_failed_last_is_tried_one_at_a_time(outbox: Outbox, receiver: Receiver) -> None:
    tenant = await outbox.tenant()
    await outbox.webhook(tenant, receiver.url())
    receiver.answers["/hook"] = [http(b"", status=500)]
    await outbox.emit(tenant)
    await outbox.deliver()
    receiver.answers.clear()
    receiver.hold("/hook")
    for _ in range(10):
        await outbox.emit(tenant)
    deliverer = outbox.deliverer()
    while await deliverer.deliver_due():
        pass
    assert len(deliverer._under_way) == 1
    receiver.hold("/hook").set()
    await deliverer.close(30)


@pytest.mark.parametrize("why", ["gone", "days"])
async def test_an_endpoint_is_disabled_and_that_is_said(outbox: Outbox, receiver: Receiver, why: str) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    await outbox.emit(tenant)
    if why == "days":
        await outbox.superuser.execute(
            "update webhook_endpoints set failing_since = now() - interval '5 days 1 minute'"
        )
    receiver.answers["/hook"] = [http(b"", status=410 if why == "gone" else 500)]
    await outbox.deliver()
    about = {"p_organization_id": tenant.organization_id, "p_id": webhook}
    assert (await tenant.call("get_webhook", **about))["is_enabled"] is False
    noted = await outbox.superuser.fetchrow(
        "select actor_type, changes from audit_events where action = 'webhook.disabled'"
    )
    assert noted["actor_type"] == "platform"
    assert "answered" in noted["changes"]
    await outbox.emit(tenant)
    await outbox.make_due()
    assert await outbox.deliver() == 0
    assert len(receiver.got) == 1
    receiver.answers.clear()
    await tenant.call("update_webhook", **about, p_changes={"is_enabled": True})
    await outbox.emit(tenant)
    await outbox.deliver()
    assert len(receiver.got) >= 2


async def test_a_deleted_endpoint_is_told_nothing_more(outbox: Outbox, receiver: Receiver) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    receiver.answers["/hook"] = [http(b"", status=500)]
    await outbox.emit(tenant)
    await outbox.deliver()
    await tenant.call("delete_webhook", p_organization_id=tenant.organization_id, p_id=webhook)
    await outbox.make_due()
    assert await outbox.deliver() == 0
    left = await outbox.superuser.fetchrow(
        "select (select count(*) from webhook_deliveries) as deliveries,"
        " (select count(*) from tenant_secrets where name like 'webhook/%') as secrets,"
        " (select bool_or(has_webhooks) from organizations) as has"
    )
    assert tuple(left) == (0, 0, False)


async def test_an_organization_has_20_at_most(outbox: Outbox, receiver: Receiver) -> None:
    tenant = await outbox.tenant()
    for _ in range(20):
        await outbox.webhook(tenant, receiver.url())
    with pytest.raises(FailedPrecondition) as caught:
        await outbox.webhook(tenant, receiver.url())
    assert caught.value.reason == "WEBHOOKS_FULL"


async def test_a_time_that_is_none_is_not_waited_for(outbox: Outbox, receiver: Receiver) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    when = b"Mon, 01 Jan 2001 00:00:00 +99999999999999999999"
    receiver.answers["/hook"] = [
        b"HTTP/1.1 503 No\r\nRetry-After: " + when + b"\r\nContent-Length: 0\r\n\r\n"
    ]
    await outbox.emit(tenant)
    await outbox.deliver()
    (delivery,) = await outbox.deliveries(tenant, webhook)
    assert delivery["response_status"] == 503


async def test_an_endless_answer_ends(
    outbox: Outbox, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.adapters.webhook_sender.TOTAL_SECONDS", 0.5)

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 500 No\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 5000)
        await peer.gone()

    receiver.server.play = play
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    await outbox.emit(tenant)
    await outbox.deliver()
    (delivery,) = await outbox.deliveries(tenant, webhook)
    assert delivery["error_message"] == f"answered 500: {'x' * 200}"


@pytest.mark.parametrize("interim", [b"100 Continue", b"103 Early Hints"])
async def test_an_interim_answer_is_none_yet(outbox: Outbox, receiver: Receiver, interim: bytes) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    receiver.answers["/hook"] = [b"HTTP/1.1 " + interim + b"\r\n\r\n" + FINE]
    await outbox.emit(tenant)
    await outbox.deliver()
    (delivery,) = await outbox.deliveries(tenant, webhook, "DELIVERED")
    assert delivery["response_status"] == 204


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + FINE,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_a_failure(outbox: Outbox, receiver: Receiver, answer: bytes) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    receiver.server.play = play
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, receiver.url())
    await outbox.emit(tenant)
    await outbox.deliver()
    (delivery,) = await outbox.deliveries(tenant, webhook, "PENDING")
    assert delivery["error_message"] == "the connection broke, or what came back is not HTTP"


async def test_nobody_there_is_a_failure(outbox: Outbox) -> None:
    tenant = await outbox.tenant()
    webhook = await outbox.webhook(tenant, "http://no-such-host.invalid/")
    await outbox.emit(tenant)
    await outbox.deliver()
    (delivery,) = await outbox.deliveries(tenant, webhook, "PENDING")
    assert delivery["error_message"] == "no connection"


async def test_it_goes_on_when_the_database_was_away(
    outbox: Outbox, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliverer_module, "AWAY_SECONDS", 0.05)
    monkeypatch.setattr(deliverer_module, "LOOK_SECONDS", 0.05)
    tenant = await outbox.tenant()
    await outbox.webhook(tenant, receiver.url())
    running = outbox.deliverer()
    running.start()
    name = await outbox.superuser.fetchval("select current_database()")
    await outbox.superuser.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = $1 and pid <> pg_backend_pid()",
        name,
    )
    await outbox.emit(tenant)
    await receiver.received(1)
    await running.close(30)


def test_the_wait_grows_to_six_hours() -> None:
    for attempts, seconds in ((1, 5), (2, 20), (3, 80), (4, 320), (7, 20480), (8, 21600), (99, 21600)):
        assert seconds * 0.79 <= retry_seconds(attempts) <= seconds * 1.21
    assert 24 * 3600 * 0.9 <= sum(retry_seconds(n) for n in range(1, 11)) <= 30 * 3600
    assert retry_seconds(1, asked=600) == 600
    assert retry_seconds(1, asked=1e9) == LONGEST_RETRY_SECONDS


def test_the_signature_is_that_of_the_specification() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = signed_headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_closing_waits_no_longer_than_it_may(outbox: Outbox, receiver: Receiver) -> None:
    tenant = await outbox.tenant()
    await outbox.webhook(tenant, receiver.url())
    receiver.hold("/hook")
    await outbox.emit(tenant)
    running = outbox.deliverer()
    running.start()
    await receiver.received(1)
    async with asyncio.timeout(10):
        await running.close(0.01)
