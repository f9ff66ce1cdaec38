"""What a real n8n says on the wire, heard through the adapter and the reader that the gateway uses."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from gateway.adapters.n8n import Fate, N8n, N8nFault, StopResult, Timeouts
from gateway.adapters.n8n.pieces import Document, DocumentKind, NodeBegin, NodeEnd, NodeError, NodeItem
from gateway.rpc.errors import Code, RpcError
from tests.live import n8n_server, workflows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from gateway.adapters.n8n.pieces import Piece
    from tests.live.conftest import LiveN8n
    from tests.live.n8n_install import Installation

# What the fixtures take for a first installation is not the test's.
pytestmark = pytest.mark.timeout(120, func_only=True)

TIMEOUTS = Timeouts(connect=5, idle=30, total=60)
SHORT_IDLE = Timeouts(connect=5, idle=3, total=60)
POLL_SECONDS = 0.1
N8N_BODY_LIMIT = 16 * 2**20


@pytest.fixture
async def adapter(n8n: LiveN8n) -> AsyncIterator[N8n]:
    async with N8n(n8n.base_url, internal_secret=n8n.internal_secret, api_key=n8n.api_key) as adapter:
        yield adapter


@pytest.fixture
def api(n8n: LiveN8n) -> Iterator[workflows.N8nApi]:
    with workflows.N8nApi(n8n.base_url, n8n.api_key) as api:
        yield api


async def test_an_answer_is_one_json_document(adapter: N8n) -> None:
    async with adapter.run(workflows.ECHO, b'{"a": [1, "\xc3\xa9"]}', timeouts=TIMEOUTS) as response:
        document = _only_document(await _batches(response.pieces))
    assert response.status == 200
    assert document.kind is DocumentKind.JSON
    answer = json.loads(document.data)
    assert answer == {"echo": {"a": [1, "é"]}, "executionId": response.n8n_execution_id}


async def test_an_answer_may_be_text(adapter: N8n) -> None:
    document = _only_document(await _run(adapter, workflows.TEXT))
    assert document.kind is DocumentKind.TEXT
    assert document.data.decode() == workflows.PLAIN_TEXT


async def test_parts_of_a_stream_arrive_as_n8n_emits_them(adapter: N8n) -> None:
    batches = await _run(adapter, workflows.STREAM, b'{"q": "hi"}')
    pieces = [piece for batch in batches for piece in batch]
    nodes = ["First", "Second", "Third"]
    assert [(type(piece), _node_name(piece)) for piece in pieces] == [
        (kind, node) for node in nodes for kind in (NodeBegin, NodeItem, NodeEnd)
    ]
    first, second, third = (piece.content for piece in pieces if isinstance(piece, NodeItem))
    assert json.loads(first)["echo"] == {"q": "hi"}
    assert json.loads(second) == {"part": 2, "executionId": json.loads(first)["executionId"]}
    assert third == workflows.PLAIN_TEXT
    assert "Third" not in [_node_name(piece) for piece in batches[0]], "nothing came before the end"


async def test_a_compressed_stream_reads_the_same(adapter: N8n) -> None:
    headers = {"Accept-Encoding": "gzip"}
    batches = await _run(adapter, workflows.STREAM, headers=headers)
    assert [_node_name(piece) for batch in batches for piece in batch if isinstance(piece, NodeItem)] == [
        "First",
        "Second",
        "Third",
    ]
    assert len(batches) > 1


async def test_a_slow_stream_comes_to_its_end(adapter: N8n) -> None:
    items = [
        p for batch in await _run(adapter, workflows.SLOW_STREAM) for p in batch if isinstance(p, NodeItem)
    ]
    assert [json.loads(item.content)["part"] for item in items] == list(range(workflows.SLOW_STREAM_PARTS))


async def test_a_failure_after_the_first_part_is_the_last_piece(adapter: N8n) -> None:
    async with adapter.run(workflows.STREAM_FAIL, b"{}", timeouts=TIMEOUTS) as response:
        pieces = [piece for batch in await _batches(response.pieces) for piece in batch]
    assert response.status == 200
    assert [type(piece) for piece in pieces] == [NodeBegin, NodeItem, NodeEnd, NodeError]
    assert _node_name(pieces[-1]) == "Stop"


async def test_a_stream_without_parts_is_an_empty_document(adapter: N8n) -> None:
    document = _only_document(await _run(adapter, workflows.STREAM_EMPTY))
    assert (document.kind, document.data) == (DocumentKind.EMPTY, b"")


async def test_a_failing_workflow(adapter: N8n) -> None:
    error = await _failure(adapter, workflows.FAIL)
    assert (error.code, error.reason) == (Code.UNKNOWN, "WORKFLOW_FAILED")
    assert error.metadata == {"n8n_status": "500", "n8n_message": "Error in workflow"}
    assert _fate(error) is Fate.FAILED


async def test_the_internal_secret_opens_a_webhook_with_header_auth(adapter: N8n) -> None:
    document = _only_document(await _run(adapter, workflows.HEADER_AUTH, b'{"a": 1}'))
    assert json.loads(document.data)["echo"] == {"a": 1}


async def test_another_secret_is_rejected(n8n: LiveN8n) -> None:
    async with N8n(n8n.base_url, internal_secret="not-the-secret-of-this-n8n") as stranger:
        error = await _failure(stranger, workflows.HEADER_AUTH)
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "N8N_AUTH_REJECTED")
    assert error.metadata["n8n_status"] == "403"
    assert _fate(error) is Fate.REFUSED


async def test_the_secret_does_not_come_back_with_the_headers(adapter: N8n, n8n: LiveN8n) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    document = _only_document(await _run(adapter, workflows.HEADERS, headers={"traceparent": trace}))
    seen = json.loads(document.data)
    assert seen["traceparent"] == trace
    assert workflows.SECRET_HEADER.lower() in seen
    assert n8n.internal_secret not in document.data.decode()


@pytest.mark.parametrize("path", [workflows.UNKNOWN, workflows.INACTIVE, f"{workflows.ECHO}/further"])
async def test_a_path_without_an_active_workflow(adapter: N8n, path: str) -> None:
    error = await _failure(adapter, path)
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "N8N_WEBHOOK_NOT_REGISTERED")
    assert error.metadata["n8n_status"] == "404"
    assert _fate(error) is Fate.REFUSED


async def test_a_body_that_is_not_json(adapter: N8n) -> None:
    error = await _failure(adapter, workflows.ECHO, b'{"a": ')
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "N8N_REJECTED_INPUT")
    assert error.metadata["n8n_status"] == "422"


async def test_a_body_over_n8ns_limit(adapter: N8n) -> None:
    """n8n says neither 413 nor why: this is its answer to any trouble of its own."""
    payload = b'{"a": "%s"}' % (b"x" * N8N_BODY_LIMIT)
    error = await _failure(adapter, workflows.ECHO, payload)
    assert (error.code, error.reason) == (Code.UNKNOWN, "WORKFLOW_FAILED")
    assert error.metadata == {
        "n8n_status": "500",
        "n8n_message": "There was a problem executing the workflow",
    }


async def test_a_run_goes_on_when_its_answer_is_not_read(adapter: N8n, api: workflows.N8nApi) -> None:
    async with adapter.run(workflows.STREAM, b"{}", timeouts=TIMEOUTS) as response:
        execution_id = await _streamed_execution_id(response.pieces)
    while (status := api.execution_status(execution_id)) in workflows.UNFINISHED:  # noqa: ASYNC110 - n8n can only be asked
        await asyncio.sleep(POLL_SECONDS)
    assert status == "success"


async def test_a_stopped_run(adapter: N8n, api: workflows.N8nApi, n8n: LiveN8n) -> None:
    run = asyncio.create_task(_failure(adapter, workflows.SLOW))
    while not (running := api.running_executions(n8n.workflow_ids[workflows.SLOW])):
        assert not run.done(), run.result()
        await asyncio.sleep(POLL_SECONDS)
    assert await adapter.stop(running[0]) is StopResult.STOPPED
    error = await run
    assert (error.code, error.reason) == (Code.CANCELLED, "WORKFLOW_CANCELLED")
    assert await adapter.stop(running[0]) is StopResult.ALREADY_ENDED


async def test_a_stopped_stream_stays_open_until_the_idle_deadline(adapter: N8n) -> None:
    async with adapter.run(workflows.SLOW_STREAM, b"{}", timeouts=SHORT_IDLE) as response:
        execution_id = await _streamed_execution_id(response.pieces)
        assert await adapter.stop(execution_id) is StopResult.STOPPED
        with pytest.raises(RpcError) as caught:
            await _batches(response.pieces)
    assert (caught.value.code, caught.value.reason) == (Code.DEADLINE_EXCEEDED, "N8N_IDLE_TIMEOUT")


async def test_stopping_what_does_not_exist(adapter: N8n) -> None:
    assert await adapter.stop("999999") is StopResult.NOT_FOUND


async def test_stopping_with_a_wrong_api_key(n8n: LiveN8n) -> None:
    async with N8n(n8n.base_url, internal_secret=n8n.internal_secret, api_key="not-a-key") as stranger:
        with pytest.raises(RpcError) as caught:
            await stranger.stop("1")
    assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "N8N_API_KEY_REJECTED")


async def test_n8n_is_ready(adapter: N8n) -> None:
    assert await adapter.ready() >= 0


async def test_n8n_is_unavailable_before_and_after_it_serves(
    n8n_installation: Installation, tmp_path: Path
) -> None:
    reasons = set()
    with n8n_server.started(n8n_installation, tmp_path) as server:
        async with N8n(server.base_url, internal_secret="anything") as adapter:
            while (error := await _failure(adapter, workflows.UNKNOWN)).code is Code.UNAVAILABLE:
                assert server.process.poll() is None, server.log.read_text()
                reasons.add(error.reason)
                await asyncio.sleep(POLL_SECONDS)
            assert error.reason == "N8N_WEBHOOK_NOT_REGISTERED"
            assert reasons <= {"N8N_UNREACHABLE", "N8N_CIRCUIT_OPEN", "N8N_STARTING", "N8N_CONNECTION_LOST"}
            server.wait_until_ready()
            await asyncio.to_thread(server.stop)
            error = await _failure(adapter, workflows.UNKNOWN)
    assert (error.code, error.reason) == (Code.UNAVAILABLE, "N8N_UNREACHABLE")
    assert _fate(error) is Fate.NEVER_SENT


async def _run(
    adapter: N8n, path: str, payload: bytes = b"{}", headers: Mapping[str, str] | None = None
) -> list[list[Piece]]:
    async with adapter.run(path, payload, timeouts=TIMEOUTS, headers=headers) as response:
        return await _batches(response.pieces)


async def _failure(adapter: N8n, path: str, payload: bytes = b"{}") -> RpcError:
    with pytest.raises(RpcError) as caught:
        await _run(adapter, path, payload)
    return caught.value


async def _batches(pieces: AsyncIterator[list[Piece]]) -> list[list[Piece]]:
    return [batch async for batch in pieces]


async def _streamed_execution_id(pieces: AsyncIterator[list[Piece]]) -> str:
    """Read until the first part, which carries n8n's id of the run."""
    async for batch in pieces:
        for piece in batch:
            if isinstance(piece, NodeItem):
                return str(json.loads(piece.content)["executionId"])
    pytest.fail("the stream has no part")


def _only_document(batches: list[list[Piece]]) -> Document:
    [[document]] = batches
    assert isinstance(document, Document)
    return document


def _node_name(piece: Piece) -> str:
    assert not isinstance(piece, Document)
    return piece.node.name


def _fate(error: RpcError) -> Fate:
    assert isinstance(error, N8nFault)
    return error.fate
