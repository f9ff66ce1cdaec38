"""The n8n adapter against a real socket that says what n8n said, and worse."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.adapters.n8n import Expected, Fate, Limits, N8n, N8nFault, Response, StopResult, Timeouts
from gateway.adapters.n8n import body as body_module
from gateway.adapters.n8n.body import MOST_LINES, BodyReader
from gateway.adapters.n8n.connection import Connection
from gateway.adapters.n8n.pieces import (
    Document,
    DocumentKind,
    Node,
    NodeBegin,
    NodeEnd,
    NodeError,
    NodeItem,
    Piece,
)
from gateway.rpc.errors import Code, RpcError
from tests.adapters.n8n_server import API_KEY, SECRET, Peer, Server, chunked, http
from tests.captures import CAPTURES, Capture

PAYLOAD = b'{"payload":"private"}'
PATIENT = Timeouts(connect=10, idle=10, total=30)
NODE = Node("id-1", "R1", 0, 0)
METADATA = '"metadata":{"nodeId":"id-1","nodeName":"R1","runIndex":0,"itemIndex":0,"timestamp":17}'
BEGIN = f'{{"type":"begin",{METADATA}}}\n'.encode()
END = f'{{"type":"end",{METADATA}}}\n'.encode()
SUCCESSES = [case for case in CAPTURES.values() if case.ended and case.status < 300]
FAILURES = [case for case in CAPTURES.values() if case.ended and case.status >= 300]


def item(content: str) -> bytes:
    return f'{{"type":"item","content":{json.dumps(content)},{METADATA}}}\n'.encode()


async def collect(response: Response) -> list[Piece]:
    return [piece async for pieces in response.pieces for piece in pieces]


async def run(n8n: N8n, timeouts: Timeouts = PATIENT, expected: Expected = Expected.ANY) -> list[Piece]:
    async with n8n.run("echo", PAYLOAD, timeouts=timeouts, expected=expected) as response:
        return await collect(response)


async def failed_run(
    n8n: N8n, timeouts: Timeouts = PATIENT, expected: Expected = Expected.ANY
) -> tuple[list[Piece], N8nFault]:
    """The pieces that came, and the fault that must follow."""
    pieces: list[Piece] = []

    async def read() -> None:
        async with n8n.run("echo", PAYLOAD, timeouts=timeouts, expected=expected) as response:
            async for some in response.pieces:
                pieces.extend(some)

    with pytest.raises(N8nFault) as caught:
        await read()
    return pieces, caught.value


def told(fault: N8nFault) -> tuple[Code, str, Fate]:
    assert isinstance(fault, RpcError)
    assert fault.sent is (fault.fate is not Fate.NEVER_SENT)
    return fault.code, fault.reason, fault.fate


def heard(capture: Capture) -> list[Piece]:
    reader = BodyReader(capture.headers.get("content-type"), document_limit=2**20, line_limit=2**20)
    return reader.feed(capture.body) + reader.finish()


# What n8n says


@pytest.mark.parametrize("capture", SUCCESSES, ids=lambda capture: capture.name)
async def test_captured_success(server: Server, n8n: N8n, capture: Capture) -> None:
    single = [capture.raw[at : at + 1] for at in range(len(capture.raw))]
    for parts in ((capture.raw,), capture.parts, single):
        server.play = server.answer(*parts)
        async with n8n.run("echo", b"{}", timeouts=PATIENT) as response:
            assert response.status == capture.status
            assert await collect(response) == heard(capture)


@pytest.mark.parametrize("capture", SUCCESSES, ids=lambda capture: capture.name)
async def test_captured_success_where_one_form_is_expected(
    server: Server, n8n: N8n, capture: Capture
) -> None:
    server.play = server.answer(capture.raw)
    pieces = heard(capture)
    is_stream = not any(isinstance(piece, Document) for piece in pieces)
    if is_stream or capture.body == b"":
        assert await run(n8n, expected=Expected.STREAM) == pieces
    else:
        shown, fault = await failed_run(n8n, expected=Expected.STREAM)
        assert (shown, told(fault)) == (
            [],
            (Code.FAILED_PRECONDITION, "N8N_RESPONSE_MISMATCH", Fate.FAILED),
        )
    [document] = await run(n8n, expected=Expected.DOCUMENT)
    assert isinstance(document, Document)
    if not is_stream:
        assert [document] == pieces
    else:
        assert (document.kind, document.data) == (DocumentKind.TEXT, capture.body)


async def test_n8n_that_starts_is_no_mismatch(server: Server, n8n: N8n) -> None:
    server.play = server.answer(http(b"n8n is starting up. Please wait", Content_Type="text/html"))
    _, fault = await failed_run(n8n, expected=Expected.STREAM)
    assert told(fault) == (Code.UNAVAILABLE, "N8N_STARTING", Fate.REFUSED)


TOLD = {
    "html-404": (Code.UNAVAILABLE, "N8N_STARTING", Fate.REFUSED),
    "bad-json": (Code.INVALID_ARGUMENT, "N8N_REJECTED_INPUT", Fate.REFUSED),
    "stopped": (Code.CANCELLED, "WORKFLOW_CANCELLED", Fate.FAILED),
    "timed-out": (Code.DEADLINE_EXCEEDED, "WORKFLOW_TIMED_OUT", Fate.FAILED),
    "auth-missing": (Code.FAILED_PRECONDITION, "N8N_AUTH_REJECTED", Fate.REFUSED),
    "auth-wrong": (Code.FAILED_PRECONDITION, "N8N_AUTH_REJECTED", Fate.REFUSED),
    **dict.fromkeys(
        ["fail", "problem", "problem-short", "method-not-supported"],
        (Code.UNKNOWN, "WORKFLOW_FAILED", Fate.FAILED),
    ),
    **dict.fromkeys(
        [case.name for case in FAILURES if case.name.startswith(("not-registered", "inactive"))],
        (Code.FAILED_PRECONDITION, "N8N_WEBHOOK_NOT_REGISTERED", Fate.REFUSED),
    ),
}


@pytest.mark.parametrize("capture", FAILURES, ids=lambda capture: capture.name)
async def test_captured_failure(server: Server, n8n: N8n, capture: Capture) -> None:
    single = [capture.raw[at : at + 1] for at in range(len(capture.raw))]
    for parts in ((capture.raw,), single):
        server.play = server.answer(*parts)
        pieces, fault = await failed_run(n8n)
        assert pieces == []
        assert told(fault) == TOLD[capture.name]
        assert isinstance(fault, RpcError)
        shown = f"{fault} {fault.message} {fault.metadata}"
        assert not re.search(r"/n8n/|\.ts:|\bat \w|toggle|<|127\.0\.0\.1|position 1", shown), shown
        if capture.headers.get("content-type", "").startswith("application/json"):
            said = json.loads(capture.body)["message"]
            assert fault.metadata == {"n8n_status": str(capture.status), "n8n_message": said}
        if fault.code is Code.UNAVAILABLE:
            assert fault.retry_after


SANDBOX = {"Content_Security_Policy": "sandbox allow-downloads allow-forms"}
JSON = {"Content_Type": "application/json"}


@pytest.mark.parametrize(
    ("answer", "reason", "fate"),
    [
        (
            http(b'{"code":503,"message":"Database is not ready!"}', status=503, **JSON),
            "N8N_STARTING",
            Fate.REFUSED,
        ),
        # What stands before n8n may have asked it, whatever it says then.
        (http(b"", status=503), "N8N_PROXY_ERROR", Fate.UNKNOWN),
        (http(b"<html>busy</html>", status=503, Content_Type="text/html"), "N8N_PROXY_ERROR", Fate.UNKNOWN),
        (
            http(b"upstream connect error or disconnect/reset before headers", status=503),
            "N8N_PROXY_ERROR",
            Fate.UNKNOWN,
        ),
        (http(b'{"message":"Service Unavailable"}', status=503, **JSON), "N8N_PROXY_ERROR", Fate.UNKNOWN),
        (
            http(b"<h1>Bad Gateway</h1>", status=502, Content_Type="text/html"),
            "N8N_PROXY_ERROR",
            Fate.UNKNOWN,
        ),
        (http(b"", status=504, Content_Type="text/html"), "N8N_PROXY_ERROR", Fate.UNKNOWN),
        (http(b'{"message":"Request timed out"}', status=504, **JSON), "N8N_PROXY_ERROR", Fate.UNKNOWN),
        (http(b"error code: 524", status=524), "N8N_PROXY_ERROR", Fate.UNKNOWN),
        (http(b"Internal Server Error", status=500), "N8N_MALFORMED_RESPONSE", Fate.UNKNOWN),
        (http(b"", status=413), "N8N_REJECTED_INPUT", Fate.REFUSED),
        (
            http(
                b'{"code":0,"message":"There was a problem executing the workflow"}',
                status=500,
                Content_Type="application/json",
            ),
            "WORKFLOW_FAILED",
            Fate.FAILED,
        ),
        (
            http(b"n8n is starting up. Please wait", Content_Type="text/html; charset=utf-8"),
            "N8N_STARTING",
            Fate.REFUSED,
        ),
        (http(b"", status=401, WWW_Authenticate='Basic realm="Webhook"'), "N8N_AUTH_REJECTED", Fate.REFUSED),
        (http(b"No access", status=403), "WORKFLOW_FAILED", Fate.FAILED),
        (http(b"", status=301, Location="https://n8n/"), "N8N_REDIRECTED", Fate.REFUSED),
        (http(b"", status=304), "N8N_REDIRECTED", Fate.REFUSED),
        (
            http(b"<pre>Cannot GET /</pre>", status=404, Content_Type="text/html"),
            "WORKFLOW_FAILED",
            Fate.FAILED,
        ),
        (http(b'{"message":7}', status=418, Content_Type="application/json"), "WORKFLOW_FAILED", Fate.FAILED),
        (http(b"[1]", status=400, Content_Type="application/json"), "WORKFLOW_FAILED", Fate.FAILED),
        (http(b"", status=599), "N8N_MALFORMED_RESPONSE", Fate.UNKNOWN),
        (http(b"", status=599, **SANDBOX), "WORKFLOW_FAILED", Fate.FAILED),
        # A workflow may answer as n8n does: n8n marks that.
        (http(CAPTURES["html-404"].body, status=404, **SANDBOX), "WORKFLOW_FAILED", Fate.FAILED),
        (http(CAPTURES["not-registered"].body, status=404, **SANDBOX), "WORKFLOW_FAILED", Fate.FAILED),
        (http(b"Authorization data is wrong!", status=403, **SANDBOX), "WORKFLOW_FAILED", Fate.FAILED),
        (http(b"", status=503, **SANDBOX), "WORKFLOW_FAILED", Fate.FAILED),
        (http(b"", status=422, **SANDBOX), "WORKFLOW_FAILED", Fate.FAILED),
        (http(b"", status=307, Location="/", **SANDBOX), "WORKFLOW_FAILED", Fate.FAILED),
    ],
)
async def test_other_status(server: Server, n8n: N8n, answer: bytes, reason: str, fate: Fate) -> None:
    server.play = server.answer(answer)
    _, fault = await failed_run(n8n)
    assert told(fault)[1:] == (reason, fate)
    assert len(server.requests) == 1
    assert isinstance(fault, RpcError)
    assert fault.retry_after is None or fate is Fate.REFUSED


async def test_words_of_a_failure_are_cut_and_cleaned(server: Server, n8n: N8n) -> None:
    words = f"no\x1b[31m luck\n{SECRET} {'x' * 1000}"
    body = json.dumps({"message": words, "stacktrace": "Error\n at /srv/x.ts:1", "hint": "see /srv"}).encode()
    server.play = server.answer(http(body, status=500, Content_Type="application/json"))
    _, fault = await failed_run(n8n)
    assert isinstance(fault, RpcError)
    said = fault.metadata["n8n_message"]
    assert said.startswith("no [31m luck [redacted] xxx")
    assert len(said) <= 500
    assert fault.message == str(fault) == f"The workflow failed: {said}"


async def test_long_failure_is_not_read_to_its_end(server: Server, n8n: N8n) -> None:
    server.play = server.answer(http(b'{"message":"' + b"x" * 2**20, status=500))
    _, fault = await failed_run(n8n)
    assert told(fault)[1] == "WORKFLOW_FAILED"


async def test_an_execution_id_with_a_secret_in_it_is_none(server: Server, n8n: N8n) -> None:
    server.play = server.answer(http(b"", x_n8n_execution_id="s3cret-0f-a-run"))
    sending = n8n.run("echo", b"{}", timeouts=PATIENT, secrets=["s3cret-0f-a-run"])
    async with sending as response:
        assert response.n8n_execution_id is None


async def test_execution_id(server: Server, n8n: N8n) -> None:
    server.play = server.answers(
        CAPTURES["execution-id"].raw, CAPTURES["echo"].raw, http(b"", x_n8n_execution_id="no id/")
    )
    for found in ("6", None, None):
        async with n8n.run("echo", b"{}", timeouts=PATIENT) as response:
            assert response.n8n_execution_id == found


# What n8n is sent


async def test_request(server: Server, n8n: N8n) -> None:
    server.play = server.answer(http(b"{}", Set_Cookie="id=1"))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for _ in range(2):
        async with n8n.run(
            "a/b-c_d.~1", b'{"a":1}', timeouts=PATIENT, headers={"traceparent": trace, "content-type": "x"}
        ) as response:
            await collect(response)
    head, body = server.requests[1]
    line, *lines = head.decode().strip().split("\r\n")
    assert line == "POST /webhook/a/b-c_d.~1 HTTP/1.1"
    assert body == b'{"a":1}'
    assert dict(header.lower().split(": ", 1) for header in lines) == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "user-agent": "n8n-gateway",
        "content-type": "application/json",
        "content-length": "7",
        "x-n8n-internal-auth": SECRET,
        "traceparent": trace,
    }
    assert len(lines) == 8


async def test_base_url_with_a_path(server: Server) -> None:
    server.play = server.answer(http(b""))
    async with N8n(f"{server.url}/n8n/", internal_secret=SECRET) as n8n:
        await run(n8n)
        await n8n.ready()
    assert [head.split(b" ")[1] for head, _ in server.requests] == [
        b"/n8n/webhook/echo",
        b"/n8n/healthz/readiness",
    ]


async def test_large_payload(server: Server, n8n: N8n) -> None:
    payload = json.dumps("x" * 4 * 2**20).encode()
    server.play = server.answer(http(b"{}"))
    async with n8n.run("echo", payload, timeouts=PATIENT) as response:
        await collect(response)
    assert server.requests[0][1] == payload


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/echo",
        "echo/",
        "a//b",
        "..",
        ".",
        "../rest",
        "a/../../rest",
        "a/./b",
        "//host/x",
        "http://host/x",
        "%2e%2e/rest",
        "a%2Fb",
        "a?b=c",
        "a#b",
        "a\\b",
        "..\\rest",
        "a b",
        "a\tb",
        "a\r\nHost: x",
        "a\x00b",
        "a\x7fb",
        "caf\xe9",
        "\u2025/rest",
        "a\n",
        "a" * 1025,
    ],
)
async def test_path_that_could_leave(server: Server, n8n: N8n, path: str) -> None:
    with pytest.raises(N8nFault) as caught:
        async with n8n.run(path, b"{}", timeouts=PATIENT):
            pass
    assert told(caught.value) == (Code.INVALID_ARGUMENT, "N8N_BAD_PATH", Fate.NEVER_SENT)
    assert isinstance(caught.value, RpcError)
    assert caught.value.fields.keys() == {"webhook_path"}
    assert server.connections == 0


@pytest.mark.parametrize(
    "headers", [{"traceparent": "a\r\nX: y"}, {"X": "caf\xe9"}, {"a b": "c"}, {"a:\r\nb": "c"}]
)
async def test_header_that_could_split(server: Server, n8n: N8n, headers: dict[str, str]) -> None:
    with pytest.raises(N8nFault) as caught:
        async with n8n.run("echo", b"{}", timeouts=PATIENT, headers=headers):
            pass
    assert told(caught.value) == (Code.INVALID_ARGUMENT, "N8N_BAD_HEADER", Fate.NEVER_SENT)
    assert server.connections == 0


@pytest.mark.parametrize(
    "url", ["", "n8n", "n8n:5678", "ftp://n8n", "http://", "http://a:b@n8n", "http://n8n?x=1", "http://n8n#x"]
)
def test_bad_base_url(url: str) -> None:
    with pytest.raises(ValueError, match="base URL"):
        N8n(url, internal_secret=SECRET)


@pytest.mark.parametrize("secret", ["", "a\nb", "caf\xe9"])
def test_bad_secret(secret: str) -> None:
    with pytest.raises(ValueError, match="printable") as caught:
        N8n("http://n8n", internal_secret=secret)
    assert secret == "" or secret not in str(caught.value)


async def test_not_open() -> None:
    n8n = N8n("http://n8n", internal_secret=SECRET)
    with pytest.raises(RuntimeError):
        await run(n8n)


# How the body comes


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 1000])
async def test_http_chunks_do_not_align_with_lines(server: Server, n8n: N8n, size: int) -> None:
    body = CAPTURES["stream"].body
    server.play = server.answer(*chunked(*(body[at : at + size] for at in range(0, len(body), size))))
    assert await run(n8n) == heard(CAPTURES["stream"])


async def test_pieces_come_as_they_are_sent(server: Server, n8n: N8n) -> None:
    asked = asyncio.Queue[None]()

    async def play(peer: Peer) -> None:
        await peer.request()
        for part in chunked(BEGIN, item("a."), item("b."), END):
            await peer.send(part)
            await asked.get()

    server.play = play
    seen = []
    async with n8n.run("echo", b"{}", timeouts=PATIENT) as response:
        asked.put_nowait(None)
        async for pieces in response.pieces:
            seen.append(pieces)
            asked.put_nowait(None)
    assert seen == [[NodeBegin(NODE)], [NodeItem(NODE, "a.")], [NodeItem(NODE, "b.")], [NodeEnd(NODE)]]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3 + http(b"{}"),
        b"HTTP/1.1 150 X\r\nContent-Length: 5\r\n\r\nextra" + http(b"{}"),
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
    ids=["interim answers", "interim body", "until the end", "HTTP/1.0", "chunks and close"],
)
async def test_forms_of_an_answer(server: Server, n8n: N8n, answer: bytes) -> None:
    server.play = server.answer(answer, close=True)
    (document,) = await run(n8n)
    assert isinstance(document, Document)
    assert document.data == b"{}"


@pytest.mark.parametrize("coding", ["chunked", "chunked ", "identity\r\nTransfer-Encoding: chunked"])
async def test_chunks_that_are_cut_are_not_the_whole_answer(server: Server, n8n: N8n, coding: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n"
    server.play = server.answer(f"{head}5\r\nab".encode(), close=True)
    _, fault = await failed_run(n8n)
    assert told(fault) == (Code.UNAVAILABLE, "N8N_CONNECTION_LOST", Fate.UNKNOWN)


async def test_answer_until_the_end_that_is_reset(server: Server, n8n: N8n) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n{}")
        peer.reset()

    server.play = play
    _, fault = await failed_run(n8n)
    assert told(fault) == (Code.UNAVAILABLE, "N8N_CONNECTION_LOST", Fate.UNKNOWN)


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=", b"x"),
    ],
    ids=["header", "interim answers", "trailer", "chunk extension"],
)
async def test_framing_that_never_ends(server: Server, n8n: N8n, begun: bytes, more: bytes) -> None:
    sent = 0

    async def play(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(begun)
        while True:
            await peer.send(more * 4096)
            sent += len(more) * 4096

    server.play = play
    _, fault = await failed_run(n8n)
    assert told(fault)[:2] == (Code.UNKNOWN, "N8N_MALFORMED_RESPONSE")
    assert sent < 2**24


async def test_error_line_is_a_piece(server: Server, n8n: N8n) -> None:
    server.play = server.answer(CAPTURES["stream-fail"].raw)
    pieces = await run(n8n)
    assert [type(piece) for piece in pieces] == [NodeBegin, NodeItem, NodeEnd, NodeError]
    assert pieces[-1].node.name == "Stop and Error"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["stream-fail", "echo", "auth-wrong", "stream-gzip", "execution-id"])
@pytest.mark.parametrize("reset", [False, True])
async def test_answer_cut_anywhere_is_no_success(server: Server, n8n: N8n, name: str, reset: bool) -> None:  # noqa: FBT001
    capture = CAPTURES[name]
    whole = heard(capture)
    length = 0

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(capture.raw[:length])
        if reset:
            peer.reset()

    server.play = play
    # An answer in HTTP chunks has said all there is to say before its last CRLF.
    enough = len(capture.raw) - (2 if "transfer-encoding" in capture.headers else 0)
    for length in range(0, enough, 7 if reset else 1):
        pieces, fault = await failed_run(n8n)
        assert pieces == whole[: len(pieces)]
        assert told(fault) == (Code.UNAVAILABLE, "N8N_CONNECTION_LOST", Fate.UNKNOWN), length
        assert isinstance(fault, RpcError)
        assert fault.retry_after is None


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**16 + b"\r\n\r\n",
        http(b"{}", Content_Encoding="br"),
        http(b"{}", Content_Encoding="gzip"),
        http(gzip.compress(b"{}", mtime=0)[:-1], Content_Encoding="gzip"),
        http(gzip.compress(b"{}", mtime=0) + b"garbage", Content_Encoding="gzip"),
        http(b'{"a":', Content_Type="application/json"),
        b"".join(chunked(BEGIN[:-1])),
    ],
)
async def test_answer_that_cannot_be_read(server: Server, n8n: N8n, answer: bytes) -> None:
    server.play = server.answer(answer, close=True)
    pieces, fault = await failed_run(n8n)
    assert pieces == []
    assert told(fault) == (Code.UNKNOWN, "N8N_MALFORMED_RESPONSE", Fate.UNKNOWN)


async def test_bad_http_chunk_ends_the_run(server: Server, n8n: N8n) -> None:
    head, first = chunked(BEGIN, ended=False)

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(head, first, b"zz\r\ngarbage\r\n")
        await peer.gone()

    server.play = play
    pieces, fault = await failed_run(n8n)
    assert pieces in ([], [NodeBegin(NODE)])
    assert told(fault) == (Code.UNKNOWN, "N8N_MALFORMED_RESPONSE", Fate.UNKNOWN)


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        (b"garbage\n", Code.UNKNOWN, "N8N_MALFORMED_RESPONSE"),
        (item("caf").replace(b"caf", b"caf\xe9"), Code.UNKNOWN, "N8N_MALFORMED_RESPONSE"),
        (END[:-1], Code.UNKNOWN, "N8N_MALFORMED_RESPONSE"),
        (b" " * 1000, Code.RESOURCE_EXHAUSTED, "N8N_RESPONSE_TOO_LARGE"),
        (item("x" * 1000), Code.RESOURCE_EXHAUSTED, "N8N_RESPONSE_TOO_LARGE"),
    ],
)
async def test_pieces_before_a_fault_come_first(server: Server, line: bytes, code: Code, reason: str) -> None:
    server.play = server.answer(b"".join(chunked(BEGIN + item("a") + line)))
    async with N8n(server.url, internal_secret=SECRET, limits=Limits(line=500)) as n8n:
        pieces, fault = await failed_run(n8n)
    assert pieces == [NodeBegin(NODE), NodeItem(NODE, "a")]
    assert told(fault) == (code, reason, Fate.UNKNOWN)


async def test_others_get_their_turns_while_many_lines_are_read(
    server: Server, n8n: N8n, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, read_in = 0, Counter[int]()

    async def others() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    def decode(line: bytes, decode: Callable[[bytes], Piece] = body_module._decode) -> Piece:
        read_in[turn] += 1
        return decode(line)

    monkeypatch.setattr(body_module, "_decode", decode)
    server.play = server.answer(*chunked(BEGIN, b'{"type":"new"}\n' * 15_000, END))
    task = asyncio.create_task(others())
    assert await run(n8n) == [NodeBegin(NODE), NodeEnd(NODE)]
    task.cancel()
    assert sum(read_in.values()) >= 15_002
    assert max(read_in.values()) <= 2 * MOST_LINES + 1  # the end of a read, and the beginning of the next one


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "GZIP", "identity"])
async def test_content_codings(server: Server, n8n: N8n, coding: str) -> None:
    body = CAPTURES["stream"].body
    packed = {"deflate": zlib.compress(body), "identity": body}.get(coding, gzip.compress(body))
    server.play = server.answer(http(packed, Content_Encoding=coding))
    assert await run(n8n) == heard(CAPTURES["stream"])


async def test_gzip_members_and_nothing(server: Server, n8n: N8n) -> None:
    body = gzip.compress(BEGIN) + gzip.compress(b"") + gzip.compress(END)
    server.play = server.answers(http(body, Content_Encoding="gzip"), http(b"", Content_Encoding="gzip"))
    assert await run(n8n) == [NodeBegin(NODE), NodeEnd(NODE)]
    assert await run(n8n) == [Document(DocumentKind.EMPTY, "", b"")]


async def test_compressed_body_that_is_cut_is_decoded_to_its_end(
    server: Server, n8n: N8n, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what has come with the end of the connection, before its reader could take it."""
    first, second = gzip.compress(BEGIN), gzip.compress(item("!"))
    more, lost = asyncio.Event(), asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(http(first + second + END, Content_Encoding="gzip")[: -len(second + END)])
        await more.wait()
        await peer.send(second)

    def connection_lost(
        self: Connection,
        exc: Exception | None,
        connection_lost: Callable[[Connection, Exception | None], None] = Connection.connection_lost,
    ) -> None:
        connection_lost(self, exc)
        lost.set()

    monkeypatch.setattr(Connection, "connection_lost", connection_lost)
    server.play = play
    async with n8n.run("echo", PAYLOAD, timeouts=PATIENT) as response:
        assert await anext(response.pieces) == [NodeBegin(NODE)]
        more.set()
        await lost.wait()
        assert await anext(response.pieces) == [NodeItem(NODE, "!")]
        with pytest.raises(N8nFault) as caught:
            await anext(response.pieces)
    assert told(caught.value) == (Code.UNAVAILABLE, "N8N_CONNECTION_LOST", Fate.UNKNOWN)


# What is too much

MEMORY = 72 * 2**20


@pytest.mark.parametrize("bomb", [gzip.compress(b" " * 2**20) * 1024, gzip.compress(b" " * 2**26)])
async def test_gzip_bomb(server: Server, n8n: N8n, bomb: bytes) -> None:
    server.play = server.answer(http(bomb, Content_Encoding="gzip"))
    tracemalloc.start()
    try:
        _, fault = await failed_run(n8n)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert told(fault) == (Code.RESOURCE_EXHAUSTED, "N8N_RESPONSE_TOO_LARGE", Fate.UNKNOWN)


async def test_gzip_members_with_nothing_in_them_are_refused(
    server: Server, n8n: N8n, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    def decoder(*arguments: int, decoder: Callable[..., Any] = zlib.decompressobj) -> Any:
        nonlocal made
        made += 1
        return decoder(*arguments)

    monkeypatch.setattr(zlib, "decompressobj", decoder)
    body = gzip.compress(BEGIN) + gzip.compress(b"") * 10_000 + gzip.compress(END)
    server.play = server.answer(http(body, Content_Encoding="gzip"))
    pieces, fault = await failed_run(n8n)
    assert pieces == [NodeBegin(NODE)]
    assert told(fault) == (Code.UNKNOWN, "N8N_MALFORMED_RESPONSE", Fate.UNKNOWN)
    assert made < 100


@pytest.mark.parametrize(
    "body",
    [gzip.compress(BEGIN + item("x" * 1000) * 2000), b"".join(map(gzip.compress, [BEGIN] + [END] * 100))],
)
async def test_others_have_their_turn_while_a_compressed_body_is_decoded(
    server: Server, n8n: N8n, body: bytes
) -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    server.play = server.answer(http(body, Content_Encoding="gzip"))
    other = asyncio.create_task(take_turns())
    async with n8n.run("echo", PAYLOAD, timeouts=PATIENT) as response:
        seen = [turns async for _ in response.pieces]
    other.cancel()
    assert len(seen) > 5
    assert len(set(seen)) == len(seen)


async def test_gigabyte_that_is_a_document(server: Server, n8n: N8n) -> None:
    sent = 0

    async def play(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
        for _ in range(1024):
            await peer.send(b"x" * 2**20)
            sent += 2**20

    server.play = play
    tracemalloc.start()
    try:
        _, fault = await failed_run(n8n)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert told(fault) == (Code.RESOURCE_EXHAUSTED, "N8N_RESPONSE_TOO_LARGE", Fate.UNKNOWN)
    assert sent < 64 * 2**20


async def test_large_stream(server: Server, n8n: N8n) -> None:
    line = item("x" * (2**20 - 200))
    head, first = chunked(BEGIN, ended=False)
    chunk = b"%x\r\n%s\r\n" % (len(line), line)

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(head, first, *[chunk] * 256, b"0\r\n\r\n")

    server.play = play
    received = 0
    tracemalloc.start()
    try:
        async with n8n.run("echo", b"{}", timeouts=Timeouts(connect=10, idle=60, total=120)) as response:
            async for pieces in response.pieces:
                received += sum(len(piece.content) for piece in pieces if isinstance(piece, NodeItem))
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert received == 256 * (2**20 - 200)


async def test_gigabyte_for_a_reader_that_does_not_read(server: Server, n8n: N8n) -> None:
    sent = 0
    line = item("x" * (2**20 - 200))
    head, first = chunked(BEGIN, ended=False)

    async def play(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(head, first)
        for _ in range(1024):
            await peer.send(b"%x\r\n%s\r\n" % (len(line), line))
            sent += len(line)

    server.play = play
    async with n8n.run("echo", b"{}", timeouts=Timeouts(connect=10, idle=10, total=0.5)) as response:
        assert await anext(response.pieces) == [NodeBegin(NODE)]
        await asyncio.sleep(0.6)
        with pytest.raises(N8nFault):
            await anext(response.pieces)
    assert sent < 64 * 2**20


async def test_documents_up_to_the_limit(server: Server) -> None:
    async with N8n(server.url, internal_secret=SECRET, limits=Limits(document=1000)) as n8n:
        server.play = server.answers(http(b"x" * 1000), http(b"x" * 1001))
        assert await run(n8n) == [Document(DocumentKind.TEXT, "text/plain; charset=utf-8", b"x" * 1000)]
        assert told((await failed_run(n8n))[1])[1] == "N8N_RESPONSE_TOO_LARGE"


# What takes too long


async def test_stopped_stream_never_ends(server: Server, n8n: N8n) -> None:
    capture = CAPTURES["slow-stream-stopped"]
    server.play = server.answer(*capture.parts)
    pieces, fault = await failed_run(n8n, Timeouts(connect=10, idle=0.2, total=30))
    assert pieces == heard(capture)
    assert told(fault) == (Code.DEADLINE_EXCEEDED, "N8N_IDLE_TIMEOUT", Fate.UNKNOWN)


async def test_idle_time_is_of_each_silence(server: Server, n8n: N8n) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        for part in chunked(BEGIN, item("a."), item("b."), END, ended=False):
            await peer.send(part)
            await asyncio.sleep(0.25)
        await peer.gone()

    server.play = play
    pieces, fault = await failed_run(n8n, Timeouts(connect=10, idle=0.9, total=30))
    assert len(pieces) == 4
    assert told(fault)[1] == "N8N_IDLE_TIMEOUT"


async def test_idle_time_does_not_run_while_the_reader_is_busy(server: Server, n8n: N8n) -> None:
    asked, sent = asyncio.Event(), asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        head, begin, end, last = chunked(BEGIN, END)
        await peer.send(head, begin)
        await asked.wait()
        await peer.send(end, last)
        sent.set()

    server.play = play
    async with n8n.run("echo", b"{}", timeouts=Timeouts(connect=10, idle=0.1, total=30)) as response:
        assert await anext(response.pieces) == [NodeBegin(NODE)]
        await asyncio.sleep(0.3)
        asked.set()
        await sent.wait()
        assert await anext(response.pieces) == [NodeEnd(NODE)]


async def test_total_time(server: Server, n8n: N8n) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(*chunked(BEGIN, ended=False))
        while True:
            await peer.send(*chunked(item("x"), ended=False)[1:])
            await asyncio.sleep(0.01)

    server.play = play
    pieces, fault = await failed_run(n8n, Timeouts(connect=10, idle=10, total=0.3))
    assert pieces[:2] == [NodeBegin(NODE), NodeItem(NODE, "x")]
    assert told(fault) == (Code.DEADLINE_EXCEEDED, "N8N_TIMEOUT", Fate.UNKNOWN)


async def test_total_time_runs_while_the_reader_is_busy(server: Server, n8n: N8n) -> None:
    server.play = server.answer(*chunked(BEGIN, ended=False))
    async with n8n.run("echo", b"{}", timeouts=Timeouts(connect=10, idle=10, total=0.2)) as response:
        assert await anext(response.pieces) == [NodeBegin(NODE)]
        await asyncio.sleep(0.3)
        with pytest.raises(N8nFault) as caught:
            await anext(response.pieces)
    assert told(caught.value)[1] == "N8N_TIMEOUT"


async def test_total_time_runs_while_a_compressed_body_is_decoded(server: Server, n8n: N8n) -> None:
    body = gzip.compress(BEGIN + item("x" * 1000) * 2000)
    server.play = server.answer(http(body, Content_Encoding="gzip"))
    async with n8n.run("echo", b"{}", timeouts=Timeouts(connect=10, idle=10, total=0.2)) as response:
        assert len(await anext(response.pieces)) > 1
        await asyncio.sleep(0.3)
        with pytest.raises(N8nFault) as caught:
            await anext(response.pieces)
    assert told(caught.value)[1] == "N8N_TIMEOUT"


@pytest.mark.parametrize(
    ("timeouts", "reason"),
    [
        (Timeouts(connect=10, idle=10, total=0.2), "N8N_TIMEOUT"),
        (Timeouts(connect=10, idle=10, total=0.2, first_byte=10), "N8N_TIMEOUT"),
        (Timeouts(connect=10, idle=10, total=30, first_byte=0.2), "N8N_FIRST_BYTE_TIMEOUT"),
    ],
)
async def test_no_first_byte(server: Server, n8n: N8n, timeouts: Timeouts, reason: str) -> None:
    server.play = server.answer(b"HTTP/1.1 200 OK\r\n")
    _, fault = await failed_run(n8n, timeouts)
    assert told(fault) == (Code.DEADLINE_EXCEEDED, reason, Fate.UNKNOWN)


async def test_first_byte_may_take_longer_than_idle(server: Server, n8n: N8n) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.3)
        await peer.send(http(b"{}", Content_Type="application/json"))

    server.play = play
    assert len(await run(n8n, Timeouts(connect=10, idle=0.1, total=30))) == 1


async def test_failure_that_never_ends(server: Server, n8n: N8n) -> None:
    server.play = server.answer(b"HTTP/1.1 500 Error\r\nContent-Length: 100\r\n\r\n{")
    _, fault = await failed_run(n8n, Timeouts(connect=10, idle=0.2, total=30))
    assert told(fault)[1] == "N8N_IDLE_TIMEOUT"


# What is taken out


async def test_secrets_do_not_come_back(server: Server, n8n: N8n) -> None:
    async def play(peer: Peer) -> None:
        while True:
            head, body = await peer.request()
            lines = head.decode().split("\r\n")[1:-2]
            headers = dict(line.lower().split(": ", 1) for line in lines)
            await peer.send(
                http(
                    json.dumps({"headers": headers, "body": json.loads(body)}).encode(),
                    Content_Type="application/json",
                )
            )

    server.play = play
    payload = {"password": 'quo"te\\d secret', "pin": 1234567890, "short": "abc"}
    async with n8n.run(
        "echo",
        json.dumps(payload).encode(),
        timeouts=PATIENT,
        headers={"X-Token": "token-0123456789"},
        secrets=["token-0123456789", 'quo"te\\d secret', "1234567890", "abc", ""],
    ) as response:
        (document,) = await collect(response)
    assert isinstance(document, Document)
    value = json.loads(document.data)
    assert value["headers"]["x-n8n-internal-auth"] == "[redacted]"
    assert value["headers"]["x-token"] == "[redacted]"
    assert value["body"] == {"password": "[redacted]", "pin": 9999999999, "short": "abc"}


async def test_secrets_do_not_come_back_in_a_stream(server: Server, n8n: N8n) -> None:
    inner = json.dumps({"auth": SECRET, "key": 'a"bcdefgh'})
    server.play = server.answer(*chunked(BEGIN, item(f"x{SECRET}y"), item(inner), END))
    async with n8n.run("echo", b"{}", timeouts=PATIENT, secrets=['a"bcdefgh']) as response:
        contents = [piece.content for piece in await collect(response) if isinstance(piece, NodeItem)]
    assert contents == ["x[redacted]y", '{"auth": "[redacted]", "key": "[redacted]"}']


LAST_PARTS = [
    ("nothing is it", "nothing is it"),
    (f"not yet {SECRET[:7]}", f"not yet {SECRET[:7]}"),
    (f"most of {SECRET[:-1]}", "most of [redacted]"),
    (SECRET[:8], "[redacted]"),
]


@pytest.mark.parametrize(("last", "seen"), LAST_PARTS)
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("close", "N8N_CONNECTION_LOST"),
        ("silence", "N8N_IDLE_TIMEOUT"),
        ("garbage", "N8N_MALFORMED_RESPONSE"),
    ],
)
async def test_what_may_begin_a_secret_is_shown_however_the_stream_ends(
    server: Server, n8n: N8n, last: str, seen: str, end: str, reason: str
) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(*chunked(BEGIN, item("first "), item(last), ended=False))
        if end == "garbage":
            await peer.send(b"zz\r\n")
        if end != "close":
            await peer.gone()

    server.play = play
    pieces, fault = await failed_run(n8n, replace(PATIENT, idle=0.5) if end == "silence" else PATIENT)
    assert isinstance(fault, RpcError)
    assert fault.reason == reason
    assert "".join(piece.content for piece in pieces if isinstance(piece, NodeItem)) == f"first {seen}"


async def test_nothing_is_logged(server: Server, n8n: N8n, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.play = server.answers(CAPTURES["echo"].raw, b"garbage\r\n\r\n", CAPTURES["fail"].raw)
    assert len(await run(n8n)) == 1
    for _ in range(2):
        _, fault = await failed_run(n8n)
        assert SECRET not in f"{fault!r} {fault.__cause__!r}"
    assert SECRET not in caplog.text + repr(n8n)
    assert "private" not in caplog.text


# n8n's other doors


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (http(b'{"status":"canceled"}', Content_Type="application/json"), StopResult.STOPPED),
        (
            http(b'{"message":"finished"}', status=409, Content_Type="application/json"),
            StopResult.ALREADY_ENDED,
        ),
        (http(b'{"message":"Not Found"}', status=404, Content_Type="application/json"), StopResult.NOT_FOUND),
    ],
)
async def test_stop(server: Server, n8n: N8n, answer: bytes, result: StopResult) -> None:
    server.play = server.answer(answer)
    assert await n8n.stop("1426") is result
    (head, body) = server.requests[0]
    assert head.startswith(b"POST /api/v1/executions/1426/stop HTTP/1.1\r\n")
    assert f"X-N8N-API-KEY: {API_KEY}\r\n".encode() in head
    assert SECRET.encode() not in head
    assert body == b""


@pytest.mark.parametrize(
    ("answer", "code", "reason"),
    [
        (
            http(b'{"message":"unauthorized"}', status=401, Content_Type="application/json"),
            Code.FAILED_PRECONDITION,
            "N8N_API_KEY_REJECTED",
        ),
        (
            http(b'{"message":"Forbidden"}', status=403, Content_Type="application/json"),
            Code.FAILED_PRECONDITION,
            "N8N_API_KEY_REJECTED",
        ),
        (CAPTURES["html-404"].raw, Code.UNAVAILABLE, "N8N_STARTING"),
        (http(b"", status=503), Code.UNAVAILABLE, "N8N_PROXY_ERROR"),
        (http(b"", status=500), Code.UNKNOWN, "N8N_STOP_FAILED"),
    ],
)
async def test_failed_stop(server: Server, n8n: N8n, answer: bytes, code: Code, reason: str) -> None:
    server.play = server.answer(answer)
    with pytest.raises(N8nFault) as caught:
        await n8n.stop("1426")
    assert told(caught.value)[:2] == (code, reason)


async def test_a_proxy_that_answers_a_stop_leaves_open_whether_the_run_was_stopped(
    server: Server, n8n: N8n
) -> None:
    server.play = server.answer(http(b"<html>", status=502, Content_Type="text/html"))
    with pytest.raises(N8nFault, match="answered 502: whether the run was stopped is not known") as caught:
        await n8n.stop("1426")
    assert told(caught.value) == (Code.UNAVAILABLE, "N8N_PROXY_ERROR", Fate.UNKNOWN)


@pytest.mark.parametrize("execution_id", ["", "1/../2", "a b", "1?x", "x" * 65])
async def test_stop_of_no_id(server: Server, n8n: N8n, execution_id: str) -> None:
    assert await n8n.stop(execution_id) is StopResult.NOT_FOUND
    assert server.connections == 0


async def test_stop_without_a_key(server: Server) -> None:
    async with N8n(server.url, internal_secret=SECRET) as n8n:
        with pytest.raises(N8nFault) as caught:
            await n8n.stop("1")
    assert told(caught.value) == (Code.FAILED_PRECONDITION, "N8N_API_KEY_MISSING", Fate.NEVER_SENT)
    assert server.connections == 0


async def test_ready(server: Server, n8n: N8n) -> None:
    server.play = server.answers(CAPTURES["ready"].raw, http(b"", status=503), CAPTURES["html-404"].raw)
    assert await n8n.ready() > 0
    assert server.requests[0][0].startswith(b"GET /healthz/readiness HTTP/1.1\r\n")
    for _ in range(2):
        with pytest.raises(N8nFault) as caught:
            await n8n.ready()
        assert told(caught.value)[:2] == (Code.UNAVAILABLE, "N8N_STARTING")
