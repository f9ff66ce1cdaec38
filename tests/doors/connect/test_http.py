"""Batches of a stream's messages on their way out of the Connect door."""

from __future__ import annotations

import gzip
import struct
from typing import Any

import pytest

from gateway.doors.connect.http import ConnectHttp, in_envelopes
from tests.calls import method

SMALL, LARGE = b"small", b"x" * 5000
END = struct.pack(">BI", 2, 2) + b"{}"


async def sent(path: str, accepted: bytes, *bodies: bytes) -> list[bytes]:
    """The bodies that leave when connectrpc sends these."""

    async def connectrpc(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/connect+proto"), (b"connect-content-encoding", b"gzip")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for body in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": True})

    events: list[Any] = []

    async def send(event: Any) -> None:
        events.append(event)

    async def receive() -> Any:
        raise AssertionError

    methods = [method("Execute"), method("ExecuteStream")]
    headers = [(b"content-type", b"application/connect+proto"), (b"connect-accept-encoding", accepted)]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    await ConnectHttp(connectrpc, methods)(scope, receive, send)
    coding = dict(events[0]["headers"])[b"connect-content-encoding"]
    assert coding == (accepted or b"identity")
    return [event["body"] for event in events[1:]]


def envelope(data: bytes) -> bytes:
    return in_envelopes([data])


async def test_a_batch_leaves_in_one_piece_without_connectrpcs_own_envelope() -> None:
    batch = in_envelopes([SMALL, LARGE, b""])
    path = method("ExecuteStream").path
    assert await sent(path, b"", envelope(batch), envelope(envelope(SMALL)), END) == [
        batch,
        envelope(SMALL),
        END,
    ]


@pytest.mark.parametrize("name", ["Execute", "ExecuteStream"])
async def test_only_large_messages_are_compressed_each_for_itself(name: str) -> None:
    is_stream = name == "ExecuteStream"
    messages = [SMALL, LARGE, LARGE, b""] if is_stream else [LARGE]
    batch = in_envelopes(messages)
    [body, end] = await sent(method(name).path, b"gzip", envelope(batch) if is_stream else batch, END)
    assert end == END
    seen = []
    while body:
        flags, length = struct.unpack_from(">BI", body)
        data, body = body[5 : 5 + length], body[5 + length :]
        assert flags == (1 if data.startswith(b"\x1f\x8b") else 0)
        seen.append(gzip.decompress(data) if flags else data)
        assert flags == (len(seen[-1]) == len(LARGE))
    assert seen == messages
