"""What n8n may make the gateway hold in memory."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus

import httpx
import pytest

from tests.conftest import RunningDev
from tests.replicas.conftest import SECONDS, Replica, StartReplica, register
from tests.stub_n8n import ZERO_LINE, ZERO_LINES, ZEROS, StubN8n

RUNS = 3
BOUND = 128 << 20
"""More than three documents of 16 MiB, each read in one piece; an eighth of what one answer holds."""


@pytest.fixture(scope="module")
def replica(start_replica: StartReplica) -> Iterator[Replica]:
    """A replica that holds nothing from before."""
    started = start_replica()
    yield started
    started.kill()


@pytest.mark.parametrize("path", ["zeros", "zeros-line", "zeros-gzip"])
def test_an_answer_without_end_is_cut_at_its_limit(
    replica: Replica, stub_n8n: StubN8n, dev: RunningDev, path: str
) -> None:
    workflow_id = register(replica, path)
    replica.post("/execute", {"workflow_id": register(replica, "echo")}).raise_for_status()
    account, sent = replica.credits(dev.ready["organization_id"]), stub_n8n.sent[path]
    replica.forget_peak()
    before = replica.resident_peak()
    answers = [replica.post("/execute", {"workflow_id": workflow_id}) for _ in range(RUNS)]
    assert replica.resident_peak() - before < BOUND
    for answer in answers:
        assert answer.status_code == HTTPStatus.TOO_MANY_REQUESTS
        assert answer.json()["details"][0]["reason"] == "N8N_RESPONSE_TOO_LARGE"
    assert stub_n8n.sent[path] - sent < RUNS * ZEROS // 8
    assert replica.credits(dev.ready["organization_id"]) == account


def test_a_stream_goes_on_for_any_length_and_is_not_held(
    replica: Replica, stub_n8n: StubN8n, dev: RunningDev
) -> None:
    """Lines of twice as much as may be held: each is handed on, to Redis and to who reads, and let go."""
    workflow_id = register(replica, "zeros-lines")
    replica.post("/execute", {"workflow_id": register(replica, "echo")}).raise_for_status()
    balance, sent = replica.credits(dev.ready["organization_id"])["balance"], stub_n8n.sent["zeros-lines"]
    replica.forget_peak()
    before = replica.resident_peak()
    headers = replica.bearer | {"Accept": "application/x-ndjson"}
    url, body = f"{replica.url}/execute/stream", {"workflow_id": workflow_id}
    with httpx.stream("POST", url, json=body, headers=headers, timeout=SECONDS) as response:
        told = sum(data.count(b"0") for data in response.iter_raw())
    assert told >= ZERO_LINES * ZERO_LINE >= 2 * BOUND
    assert stub_n8n.sent["zeros-lines"] - sent > ZERO_LINES * ZERO_LINE
    assert replica.resident_peak() - before < BOUND
    assert replica.credits(dev.ready["organization_id"])["balance"] == balance - 1
