"""Webhooks through every door: an endpoint is made, told of a run, and taken away."""

from __future__ import annotations

import json
import queue
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from gateway.rpc.errors import Code
from tests.wire.clients import Client, Outcome
from tests.wire.conftest import World, call

SECONDS = 60


Got = tuple[dict[str, str], bytes]
"""The headers, with names in lower case, and the body of a request."""


class Receiver:
    """Takes every POST, and keeps it by its path."""

    def __init__(self) -> None:
        self.at: defaultdict[str, queue.Queue[Got]] = defaultdict(queue.Queue)
        taken = self.at

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken[self.path].put(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def resource(outcome: Outcome, name: str) -> dict[str, Any]:
    assert outcome.code is Code.OK, outcome
    found: dict[str, Any] = outcome.messages[0].get(name, outcome.messages[0])
    return found


def test_an_endpoint_is_told_of_a_run(
    client: Client, client_of: Callable[[str], Client], world: World, receiver: Receiver
) -> None:
    of = {"organization_id": world.dev.ready["organization_id"]}
    path = f"/{uuid.uuid4()}"
    wanted = {"url": receiver.url + path, "event_types": ["WEBHOOK_EVENT_TYPE_EXECUTION_FINISHED"]}
    made = call(client, world, "CreateWebhook", {**of, "webhook": wanted})
    webhook, secret = resource(made, "webhook"), made.messages[0]["secret"]
    this = {**of, "id": webhook["id"]}
    assert webhook["is_enabled"] is True
    assert secret.startswith("whsec_")
    ran = call(client, world, "Execute", world.request("echo", data={"n": 1}))
    assert ran.code is Code.OK
    headers, body = receiver.at[path].get(timeout=SECONDS)
    told = Verifier(secret).verify(body, headers)
    assert told["type"] == "execution.finished"
    asked = {"id": ran.messages[0]["execution_id"]}
    execution = resource(call(client_of("rest"), world, "GetExecution", asked), "execution")
    assert told["data"]["execution"] == {k: value for k, value in execution.items() if k != "result"}
    rotated = call(client, world, "RotateWebhookSecret", {**this, "overlap_seconds": 60})
    assert resource(rotated, "webhook")["previous_secret_expires_at"]
    assert rotated.messages[0]["secret"] != secret
    changed = {"webhook": {**of, "id": webhook["id"], "description": "new", "is_enabled": False}}
    updated = resource(call(client, world, "UpdateWebhook", changed), "webhook")
    assert (updated["description"], updated.get("is_enabled", False)) == ("new", False)
    assert updated["url"] == wanted["url"]
    listed = {**of, "webhook_id": webhook["id"]}
    page = call(client, world, "ListWebhookDeliveries", listed).messages[0]
    assert page["deliveries"][0]["id"] == headers["webhook-id"]
    again = {**listed, "delivery_id": page["deliveries"][0]["id"]}
    assert call(client, world, "RedeliverWebhook", again).reason == "WEBHOOK_DISABLED"
    shown = [call(client, world, "GetWebhook", this), call(client, world, "ListWebhooks", of)]
    assert call(client, world, "DeleteWebhook", this).code is Code.OK
    assert call(client, world, "GetWebhook", this).code is Code.NOT_FOUND
    for hidden in (secret, rotated.messages[0]["secret"]):
        assert hidden not in json.dumps([one.messages for one in shown])
        assert hidden not in world.dev.log.read_text()


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://169.254.169.254/", "ftp://example.com", ""])
def test_a_url_that_will_not_do_is_refused_by_its_field(client: Client, world: World, url: str) -> None:
    request = {"organization_id": world.dev.ready["organization_id"], "webhook": {"url": url}}
    refused = call(client, world, "CreateWebhook", request)
    assert refused.code is Code.INVALID_ARGUMENT
    assert "url" in str(refused)
