"""Readers that do not keep up with a run slow nobody but themselves."""

from __future__ import annotations

import json
import socket

from yarl import URL

from gateway.rpc.errors import Code
from tests.replicas.conftest import SECONDS, Replica, register
from tests.replicas.test_runs import COMPLETED, until
from tests.stub_n8n import FLOOD_LINES


def test_a_reader_that_does_not_read_does_not_slow_the_run(first: Replica, second: Replica) -> None:
    """The run ends while it has read one byte; what it then misses is told, and not left out."""
    workflow_id = register(first, "flood")
    url = URL(first.url)
    assert url.host is not None
    assert url.port is not None
    body = json.dumps({"workflow_id": workflow_id}).encode()
    head = [
        f"POST {url.path}/execute/stream HTTP/1.1",
        f"Host: {url.authority}",
        f"Authorization: {first.bearer['Authorization']}",
        "Accept: application/x-ndjson",
        "Connection: close",
        f"Content-Length: {len(body)}",
    ]
    with socket.create_connection((url.host, url.port), SECONDS) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        assert connection.recv(1) == b"H"
        running = first.get("/executions", workflow_id=workflow_id).json()["executions"]
        [execution] = [until(first, run["id"], COMPLETED) for run in running]
        assert execution["last_sequence"] == FLOOD_LINES + 2
        rest = b""
        while data := connection.recv(1 << 20):
            rest += data
    assert b"EVENTS_EXPIRED" in rest[-2000:]
    *kept, end = second.events(execution["id"], FLOOD_LINES - 100)
    assert [event["sequence"] for event in kept] == list(range(FLOOD_LINES - 99, FLOOD_LINES + 2))
    assert end["completed"]["credits_used"] == 1
    [gone] = second.events(execution["id"], 1)
    assert (gone["code"], gone["details"][0]["reason"]) == (Code.OUT_OF_RANGE, "EVENTS_EXPIRED")
