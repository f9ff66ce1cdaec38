"""Over real sockets: streams as they grow, clients that go away, and bodies that do not keep their word."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
import pytest

from gateway.transcoding import Code, Options, StatusError
from tests.transcoding.library import Library
from tests.transcoding.server import request, serve

SERVERS: list[Literal["h11", "httptools"]] = ["httptools", "h11"]
TYPES = ["application/json", "application/x-ndjson", "text/event-stream"]
WATCH = "/v1/shelves/1:watch"


def stepwise(library: Library, gate: asyncio.Semaphore, count: int) -> Any:
    """A stream that gives one message each time the gate lets it."""

    async def events(_request: Any, _metadata: Any) -> AsyncIterator[Any]:
        library.entered.set()
        try:
            for sequence in range(1, count + 1):
                await gate.acquire()
                yield library.make("BookEvent", sequence=sequence)
        finally:
            library.closed.set()

    return events


def sequences(content_type: str, body: bytes) -> list[int]:
    text = body.decode()
    if content_type == "application/json":
        return [int(event["sequence"]) for event in json.loads(text)]
    lines = text.splitlines()
    if content_type == "text/event-stream":
        lines = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [int(json.loads(line)["sequence"]) for line in lines]


@pytest.mark.parametrize("http", SERVERS)
async def test_unary(library_set: bytes, http: Literal["h11", "httptools"]) -> None:
    library = Library(library_set)
    async with serve(library.app, http) as server, httpx.AsyncClient(base_url=server.url) as client:
        created = await client.post("/v1/shelves/7/books", json={"display_title": "T", "extra": {"n": 1}})
        assert created.status_code == 200
        assert library.requests[0].book.display_title == "T"
        assert library.requests[0].shelf == "7"
        missing = await client.get("/v1/nothing")
        assert (missing.status_code, missing.json()["code"]) == (404, Code.NOT_FOUND)
        wrong = await client.put("/v1/shelves/7/books")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")


@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize("content_type", TYPES)
async def test_each_message_is_sent_at_once(
    library_set: bytes, content_type: str, http: Literal["h11", "httptools"]
) -> None:
    library, gate = Library(library_set), asyncio.Semaphore(0)
    library.answers["WatchBooks"] = stepwise(library, gate, 3)
    get = request("GET", WATCH, [f"Accept: {content_type}"])
    async with serve(library.app, http) as server, server.connect(get) as connection:
        body = b""
        for sequence in (1, 2, 3):
            gate.release()
            if sequence == 1:
                status, headers = await connection.head()
                assert (status, headers["content-type"]) == (200, content_type)
            part = await connection.chunk()
            assert f'"sequence":"{sequence}"'.encode() in part
            body += part
        body += await connection.body(headers)
    assert sequences(content_type, body) == [1, 2, 3]


async def test_heartbeats_keep_a_silent_event_stream_open(library_set: bytes) -> None:
    library, gate = Library(library_set, Options(heartbeat=0.01)), asyncio.Semaphore(0)
    library.answers["WatchBooks"] = stepwise(library, gate, 1)
    get = request("GET", WATCH, ["Accept: text/event-stream"])
    async with serve(library.app) as server, server.connect(get) as connection:
        assert (await connection.head())[0] == 200
        assert await connection.chunk() == b":\n\n"
        assert await connection.chunk() == b":\n\n"
        gate.release()
        parts = [part async for part in _chunks(connection)]
    assert [part for part in parts if part != b":\n\n"] == [b'id: 1\ndata: {"sequence":"1"}\n\n']


async def _chunks(connection: Any) -> AsyncIterator[bytes]:
    while part := await connection.chunk():
        yield part


@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize("content_type", TYPES)
async def test_a_client_that_leaves_a_stream_closes_its_source(
    library_set: bytes, content_type: str, http: Literal["h11", "httptools"]
) -> None:
    library, gate = Library(library_set), asyncio.Semaphore(1)
    library.answers["WatchBooks"] = stepwise(library, gate, 2)
    get = request("GET", WATCH, [f"Accept: {content_type}"])
    async with serve(library.app, http) as server:
        async with server.connect(get) as connection:
            await connection.head()
            await connection.chunk()
            connection.break_off()
        await asyncio.wait_for(library.closed.wait(), 10)


@pytest.mark.parametrize("http", SERVERS)
async def test_a_client_that_leaves_cancels_its_handler(
    library_set: bytes, http: Literal["h11", "httptools"]
) -> None:
    library = Library(library_set)

    async def never(_request: Any, _metadata: Any) -> Any:
        library.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            library.closed.set()

    library.answers["GetBook"] = never
    async with serve(library.app, http) as server:
        async with server.connect(request("GET", "/v1/books/1")) as connection:
            await library.entered.wait()
            connection.break_off()
        await asyncio.wait_for(library.closed.wait(), 10)
        # The server is well afterwards.
        library.answers.clear()
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.get("/v1/books/1")).status_code == 200


async def test_a_client_that_leaves_before_its_body_is_complete_is_not_served(library_set: bytes) -> None:
    library = Library(library_set)
    head = b"POST /v1/shelves/1/books HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    async with serve(library.app) as server:
        async with server.connect(head) as connection:
            connection.break_off()
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.get("/v1/books/1")).status_code == 200
    assert [type(message).__name__ for message in library.requests] == ["GetBook"]


@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize("content_type", TYPES)
async def test_an_error_after_the_first_message_shows(
    library_set: bytes, content_type: str, http: Literal["h11", "httptools"]
) -> None:
    library = Library(library_set)

    async def events(_request: Any, _metadata: Any) -> AsyncIterator[Any]:
        yield library.make("BookEvent", sequence=1)
        raise StatusError(Code.UNAVAILABLE, "the shelf fell over")

    library.answers["WatchBooks"] = events
    async with serve(library.app, http) as server, httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.get(WATCH, headers={"accept": content_type})
    assert answer.status_code == 200
    status = {"code": 14, "message": "the shelf fell over", "details": []}
    match content_type:
        case "application/json":
            assert answer.json()[-1] == {"error": status}
        case "application/x-ndjson":
            assert json.loads(answer.text.splitlines()[-1]) == {"error": status}
        case _:
            event, data = answer.text.strip().split("\n\n")[-1].split("\n")
            assert event == "event: error"
            assert json.loads(data.removeprefix("data: ")) == status


@pytest.mark.parametrize("http", SERVERS)
async def test_bytes_that_break_off_break_the_connection(
    library_set: bytes, http: Literal["h11", "httptools"]
) -> None:
    library = Library(library_set)

    async def export(_request: Any, _metadata: Any) -> AsyncIterator[Any]:
        yield library.methods["StreamExport"].output.type(content_type="text/csv", data=b"a,b\n")
        raise StatusError(Code.UNAVAILABLE, "gone")

    library.answers["StreamExport"] = export
    async with serve(library.app, http) as server, httpx.AsyncClient(base_url=server.url) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/v1/shelves/1:stream-export")


@pytest.mark.parametrize("http", SERVERS)
async def test_a_body_over_the_limit_is_refused_before_it_is_read(
    library_set: bytes, http: Literal["h11", "httptools"]
) -> None:
    library = Library(library_set, Options(max_body=1000))
    head = b"POST /v1/shelves/1/books HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n"
    async with serve(library.app, http) as server, server.connect(head) as connection:
        status, headers = await connection.head()
        answer = json.loads(await connection.body(headers))
        assert (status, answer["code"]) == (413, Code.RESOURCE_EXHAUSTED)
        assert await connection.reader.read() == b""
    assert library.requests == []


@pytest.mark.parametrize("http", SERVERS)
async def test_a_body_that_never_ends_is_cut_off(
    library_set: bytes, http: Literal["h11", "httptools"]
) -> None:
    library = Library(library_set, Options(max_body=64 * 1024))
    head = b"POST /v1/shelves/1/books HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serve(library.app, http) as server, server.connect(head) as connection:

        async def send() -> None:
            while True:
                await connection.send(b"1000\r\n" + b" " * 4096 + b"\r\n")

        sending = asyncio.create_task(send())
        status, headers = await connection.head()
        assert (status, headers["connection"]) == (413, "close")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_a_body_that_does_not_come_is_not_waited_for(library_set: bytes) -> None:
    library = Library(library_set, Options(body_timeout=0.05))
    head = b"POST /v1/shelves/1/books HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"
    async with serve(library.app) as server, server.connect(head) as connection:
        status, headers = await connection.head()
        assert status == 408
        assert json.loads(await connection.body(headers))["code"] == Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize("http", SERVERS)
async def test_a_content_length_that_is_too_small_cuts_the_body(
    library_set: bytes, http: Literal["h11", "httptools"]
) -> None:
    library = Library(library_set)
    sent = b'POST /v1/shelves/1/books HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{"display_title":"T"}'
    async with serve(library.app, http) as server, server.connect(sent) as connection:
        assert (await connection.head())[0] == 400
    assert library.requests == []


async def test_a_gzip_bomb_is_refused(library_set: bytes) -> None:
    library = Library(library_set, Options(max_body=100_000))
    bomb = gzip.compress(b" " * 10_000_000)
    assert len(bomb) < 100_000
    async with serve(library.app) as server, httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.post("/v1/shelves/1/books", content=bomb, headers={"content-encoding": "gzip"})
    assert answer.status_code == 413


@pytest.mark.parametrize("http", SERVERS)
async def test_a_client_stream_is_read_as_it_comes(
    library_set: bytes, http: Literal["h11", "httptools"]
) -> None:
    library = Library(library_set)
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def notes(requests: AsyncIterator[Any], _metadata: Any) -> Any:
        async for note in requests:
            await seen.put(f"{note.shelf}:{note.text}")
        return library.make("Summary", count=seen.qsize())

    library.answers["AddNotes"] = notes
    head = b"POST /v1/shelves/9/notes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serve(library.app, http) as server, server.connect(head) as connection:
        for text in (b'[{"text":"a"}', b',{"text":"b"}', b',{"text":"c"}]'):
            await connection.send(b"%x\r\n%b\r\n" % (len(text), text))
        assert [await seen.get() for _ in range(3)] == ["9:a", "9:b", "9:c"]
        await connection.send(b"0\r\n\r\n")
        status, headers = await connection.head()
        assert status == 200
        assert json.loads(await connection.body(headers))["count"] == 0


@pytest.mark.parametrize("http", SERVERS)
async def test_a_client_that_leaves_a_client_stream_ends_it(
    library_set: bytes, http: Literal["h11", "httptools"]
) -> None:
    library = Library(library_set)
    errors: list[int] = []

    async def notes(requests: AsyncIterator[Any], _metadata: Any) -> Any:
        try:
            async for _ in requests:
                library.entered.set()
        except StatusError as error:
            errors.append(error.code)
            raise
        finally:
            library.closed.set()

    library.answers["AddNotes"] = notes
    part = b'[{"text":"a"},'
    head = b"POST /v1/shelves/9/notes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serve(library.app, http) as server:
        async with server.connect(head, b"%x\r\n%b\r\n" % (len(part), part)) as connection:
            await library.entered.wait()
            connection.break_off()
        await asyncio.wait_for(library.closed.wait(), 10)
    assert errors == [Code.CANCELLED]


@pytest.mark.parametrize("http", SERVERS)
async def test_both_sides_stream(library_set: bytes, http: Literal["h11", "httptools"]) -> None:
    library = Library(library_set)

    async def talk(requests: AsyncIterator[Any], _metadata: Any) -> AsyncIterator[Any]:
        count = 0
        async for note in requests:
            count += 1
            yield library.make("Summary", count=count, text=note.text)

    library.answers["Talk"] = talk
    head = (
        b"POST /v1/talk HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n"
        b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    async with serve(library.app, http) as server, server.connect(head) as connection:
        for count, text in enumerate("xyz", 1):
            line = b'{"text":"%b"}\n' % text.encode()
            await connection.send(b"%x\r\n%b\r\n" % (len(line), line))
            if count == 1:
                status, headers = await connection.head()
                assert status == 200
            assert json.loads(await connection.chunk()) == {"count": count, "text": text}
        await connection.send(b"0\r\n\r\n")
        assert await connection.body(headers) == b""


async def test_a_pipeline_of_requests_keeps_its_order(library_set: bytes) -> None:
    library = Library(library_set)
    both = request("GET", "/v1/books/1") + request("POST", "/v1/shelves/1/books", [], b'{"name":"x"}')
    async with serve(library.app) as server, server.connect(both) as connection:
        for _ in range(2):
            status, headers = await connection.head()
            assert status == 200
            await connection.body(headers)
    assert [type(message).__name__ for message in library.requests] == ["GetBook", "CreateBook"]
