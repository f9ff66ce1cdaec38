"""Streams in both directions, message by message."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

from gateway.transcoding import Code, Options, StatusError
from gateway.transcoding.stream import sequence_getter
from tests.transcoding.asgi import Answer, call
from tests.transcoding.library import Library

WATCH = "/v1/shelves/1:watch"
FORMS = [
    ("application/json", [b'[{"sequence":"1"}', b',\n{"sequence":"2"}', b"]"]),
    ("application/x-ndjson", [b'{"sequence":"1"}\n', b'{"sequence":"2"}\n', b""]),
    (
        "text/event-stream",
        [b'id: 1\ndata: {"sequence":"1"}\n\n', b'id: 2\ndata: {"sequence":"2"}\n\n', b""],
    ),
]


@pytest.fixture
def library(library_set: bytes) -> Library:
    return Library(library_set)


def counting(library: Library, count: int, error: Exception | None = None) -> Any:
    async def events(_request: Any, _metadata: Any) -> AsyncIterator[Any]:
        try:
            for sequence in range(1, count + 1):
                yield library.make("BookEvent", sequence=sequence)
            if error is not None:
                raise error
        finally:
            library.closed.set()

    return events


@pytest.mark.parametrize(("accept", "parts"), FORMS)
async def test_an_empty_list_starts_the_response(library: Library, accept: str, parts: list[bytes]) -> None:
    """It is nothing of the body, wherever it comes."""
    answer, at_first = Answer(), []

    async def events(_request: Any, _metadata: Any) -> AsyncIterator[Any]:
        yield []
        at_first.append((answer.status, answer.body))
        for sequence in (1, 2):
            yield [library.make("BookEvent", sequence=sequence)]
            yield []

    library.answers["WatchBooks"] = events
    await call(library.app, "GET", WATCH, headers={"accept": accept}, answer=answer)
    assert at_first == [(200, b"")]
    assert (answer.status, answer.parts) == (200, parts)


@pytest.mark.parametrize(("accept", "parts"), FORMS)
async def test_the_forms_of_a_server_stream(library: Library, accept: str, parts: list[bytes]) -> None:
    library.answers["WatchBooks"] = counting(library, 2)
    answer = await call(library.app, "GET", WATCH, headers={"accept": accept})
    assert (answer.status, answer.parts) == (200, parts)
    assert answer.headers == {
        "content-type": accept,
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "vary": "accept",
    }


@pytest.mark.parametrize(
    ("accept", "body"),
    [("application/json", b"[]"), ("application/x-ndjson", b""), ("text/event-stream", b"")],
)
async def test_an_empty_stream(library: Library, accept: str, body: bytes) -> None:
    library.answers["WatchBooks"] = counting(library, 0)
    answer = await call(library.app, "GET", WATCH, headers={"accept": accept})
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, body, accept)


@pytest.mark.parametrize("accept", [form[0] for form in FORMS])
async def test_an_error_before_the_first_message_is_a_plain_error(library: Library, accept: str) -> None:
    library.answers["WatchBooks"] = counting(library, 0, StatusError(Code.NOT_FOUND, "no such shelf"))
    answer = await call(library.app, "GET", WATCH, headers={"accept": accept})
    assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
    assert answer.json() == {"code": 5, "message": "no such shelf", "details": []}


@pytest.mark.parametrize(("accept", "parts"), FORMS)
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StatusError(Code.ABORTED, "moved"), {"code": 10, "message": "moved", "details": []}),
        (RuntimeError("secret"), {"code": 13, "message": "internal error", "details": []}),
    ],
)
async def test_an_error_after_messages_is_the_last_one(
    library: Library, accept: str, parts: list[bytes], error: Exception, status: dict[str, Any]
) -> None:
    library.answers["WatchBooks"] = counting(library, 2, error)
    answer = await call(library.app, "GET", WATCH, headers={"accept": accept})
    assert answer.parts[:2] == parts[:2]
    last = {
        "application/json": b',\n{"error":%b}]',
        "application/x-ndjson": b'{"error":%b}\n',
        "text/event-stream": b"event: error\ndata: %b\n\n",
    }[accept] % json.dumps(status, separators=(",", ":")).encode()
    assert answer.parts[2:] == [last]


async def test_an_unknown_form_is_406(library: Library) -> None:
    answer = await call(library.app, "GET", WATCH, headers={"accept": "text/html"})
    assert answer.status == 406
    assert "text/event-stream" in answer.json()["message"]


async def test_what_a_handler_says_before_the_first_message(library: Library) -> None:
    async def events(_request: Any, metadata: Any) -> AsyncIterator[Any]:
        metadata.http_status = 202
        metadata.response_headers.append(("x-run", "7"))
        yield library.make("BookEvent")

    library.answers["WatchBooks"] = events
    answer = await call(library.app, "GET", WATCH)
    assert (answer.status, answer.headers["x-run"]) == (202, "7")


async def test_head_of_a_stream_ends_with_the_first_message(library: Library) -> None:
    library.answers["WatchBooks"] = counting(library, 1000)
    answer = await call(library.app, "HEAD", WATCH)
    assert (answer.status, answer.body, answer.complete) == (200, b"", True)
    assert library.closed.is_set()


async def test_one_field_of_each_message(library: Library) -> None:
    async def events(_request: Any, _metadata: Any) -> AsyncIterator[Any]:
        yield library.make("BookEvent")
        yield library.make("BookEvent", book=library.make("Book", name="x"))

    library.answers["WatchBooks"] = events
    first, second = (await call(library.app, "GET", "/v1/shelves/1:names")).json()
    assert (first, second["name"]) == (None, "x")


async def test_messages_without_a_sequence_have_no_id(library: Library) -> None:
    async def talk(_requests: Any, _metadata: Any) -> AsyncIterator[Any]:
        yield library.make("Summary", count=1)

    library.answers["Talk"] = talk
    answer = await call(library.app, "POST", "/v1/talk", "", {"accept": "text/event-stream"})
    assert answer.body == b'data: {"count":1,"text":""}\n\n'


def test_only_numbers_are_sequences(vectors_set: bytes, library: Library) -> None:
    odd = FileDescriptorSet.from_binary(vectors_set).to_registry().message("transcoding.vectors.Odd")
    assert odd is not None
    assert sequence_getter(odd) is None
    assert sequence_getter(library.make("BookEvent").desc()) is not None


class Plain:
    """An async iterator that is not a generator, and so cannot be closed."""

    def __init__(self, messages: list[Any]) -> None:
        self.messages = messages

    def __aiter__(self) -> Plain:
        return self

    async def __anext__(self) -> Any:
        if not self.messages:
            raise StopAsyncIteration
        return self.messages.pop(0)


async def test_any_async_iterator_is_a_stream(library: Library) -> None:
    async def events(_request: Any, _metadata: Any) -> Any:
        return Plain([library.make("BookEvent", sequence=1)])

    library.answers["WatchBooks"] = events
    assert (await call(library.app, "GET", WATCH)).body == b'[{"sequence":"1"}]'


async def test_a_source_is_closed_when_a_message_cannot_be_sent(library: Library) -> None:
    async def events(_request: Any, _metadata: Any) -> AsyncIterator[Any]:
        try:
            yield library.make("BookEvent")
            yield None
        finally:
            library.closed.set()

    library.answers["WatchBooks"] = events
    answer = await call(library.app, "GET", WATCH)
    assert answer.json()[-1]["error"]["code"] == Code.INTERNAL
    assert library.closed.is_set()


async def test_heartbeats_come_only_in_silence(library_set: bytes) -> None:
    library = Library(library_set, Options(heartbeat=0.02))
    quiet = asyncio.Event()

    async def events(_request: Any, _metadata: Any) -> AsyncIterator[Any]:
        await asyncio.wait_for(quiet.wait(), 10)
        yield library.make("BookEvent", sequence=1)
        raise StatusError(Code.UNAVAILABLE, "gone")

    library.answers["WatchBooks"] = events
    asyncio.get_running_loop().call_later(0.1, quiet.set)
    answer = await call(library.app, "GET", WATCH, headers={"accept": "text/event-stream"})
    assert answer.status == 200
    assert answer.parts[0] == b":\n\n"
    assert [part for part in answer.parts if part != b":\n\n"] == [
        b'id: 1\ndata: {"sequence":"1"}\n\n',
        b'event: error\ndata: {"code":14,"message":"gone","details":[]}\n\n',
    ]


class Watched(list[tuple[str, str]]):
    """Headers that tell when they have been read."""

    def __init__(self, *headers: tuple[str, str]) -> None:
        super().__init__(headers)
        self.read = asyncio.Event()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self.read.set()
        return super().__iter__()


async def test_a_heartbeat_that_cannot_be_sent_leaves_the_error_to_the_stream(library_set: bytes) -> None:
    library = Library(library_set, Options(heartbeat=0.01))

    async def events(_request: Any, metadata: Any) -> AsyncIterator[Any]:
        metadata.response_headers = Watched(("x-note", "a\nb"))
        await metadata.response_headers.read.wait()
        yield library.make("BookEvent")

    library.answers["WatchBooks"] = events
    answer = await call(library.app, "GET", WATCH, headers={"accept": "text/event-stream"})
    assert (answer.status, answer.json()["code"]) == (500, Code.INTERNAL)


async def test_trailers_where_both_sides_can(library: Library) -> None:
    async def events(request: Any, metadata: Any) -> AsyncIterator[Any]:
        yield library.make("BookEvent")
        metadata.trailers.append(("x-cost", "3"))
        if request.count:
            raise StatusError(Code.ABORTED, "")

    library.answers["WatchBooks"] = events
    for target, expected in ((WATCH, [(b"x-cost", b"3")]), (f"{WATCH}?count=1", [])):
        sent = await _messages(library, target, {"http.response.trailers": {}})
        assert sent[0]["trailers"] is True
        assert sent[-1] == {
            "type": "http.response.trailers",
            "headers": expected,
            "more_trailers": False,
        }
    assert "trailers" not in (await _messages(library, WATCH, {}))[0]


async def _messages(library: Library, target: str, extensions: dict[str, Any]) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    path, _, query = target.encode().partition(b"?")
    scope = {
        "type": "http",
        "method": "GET",
        "path": path.decode(),
        "raw_path": path,
        "query_string": query,
        "headers": [(b"te", b"trailers, deflate")],
        "extensions": extensions,
    }
    await library.app(scope, receive, send)
    return sent


async def test_bytes_down(library: Library) -> None:
    body_type = library.methods["ExportBooks"].output.type

    async def export(_request: Any, metadata: Any) -> Any:
        metadata.response_headers.append(("content-disposition", 'attachment; filename="x.csv"'))
        return body_type(content_type="text/csv", data=b"a,b\n")

    library.answers["ExportBooks"] = export
    answer = await call(library.app, "GET", "/v1/shelves/1:export", headers={"accept": "text/csv"})
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"a,b\n", "text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="x.csv"'

    async def nothing(_request: Any, _metadata: Any) -> Any:
        return body_type()

    library.answers["ExportBooks"] = nothing
    answer = await call(library.app, "GET", "/v1/shelves/1:export")
    assert (answer.body, answer.headers["content-type"]) == (b"", "application/octet-stream")


async def test_a_stream_of_bytes_down(library: Library) -> None:
    body_type = library.methods["StreamExport"].output.type
    parts = [body_type(content_type="text/csv", data=b"a,b\n"), body_type(data=b"c,d\n")]

    async def export(_request: Any, _metadata: Any) -> AsyncIterator[Any]:
        for part in parts:
            yield part

    library.answers["StreamExport"] = export
    answer = await call(library.app, "GET", "/v1/shelves/1:stream-export")
    assert (answer.parts, answer.headers["content-type"]) == ([b"a,b\n", b"c,d\n", b""], "text/csv")
    parts.clear()
    answer = await call(library.app, "GET", "/v1/shelves/1:stream-export")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_bytes_up(library: Library) -> None:
    target = "/v1/shelves/1/books/2:cover"
    answer = await call(library.app, "POST", target, b"\x89PNG", {"content-type": "image/png"})
    assert answer.status == 200
    (upload,) = library.requests
    assert (upload.name, upload.file.content_type, upload.file.data) == (
        "shelves/1/books/2",
        "image/png",
        b"\x89PNG",
    )
    assert (await call(library.app, "POST", target)).status == 200
    assert library.requests[1].file.data == b""
    assert (await call(library.app, "POST", "/v1/import", b"{", {"content-type": "text/x"})).status == 200
    assert (library.requests[2].content_type, library.requests[2].data) == ("text/x", b"{")
    assert (await call(library.app, "POST", "/v1/import?data=x", b"{")).violations == ["data"]


@pytest.mark.parametrize("packed", [False, True])
async def test_a_stream_of_bytes_up(library: Library, *, packed: bool) -> None:
    target, data = "/v1/shelves/1/books/2:text", b"x" * 3_000_000
    headers = {"content-type": "text/plain"} | ({"content-encoding": "gzip"} if packed else {})
    body = gzip.compress(data) if packed else data
    answer = await call(library.app, "POST", target, [body[:100], body[100:]], headers)
    assert answer.status == 200
    assert b"".join(upload.file.data for upload in library.requests) == data
    assert max(len(upload.file.data) for upload in library.requests) <= 1024 * 1024
    types = [upload.file.content_type for upload in library.requests]
    assert types == ["text/plain"] + [""] * (len(types) - 1)
    assert {upload.name for upload in library.requests} == {"shelves/1/books/2"}


async def test_an_empty_upload_is_one_message(library: Library) -> None:
    assert (await call(library.app, "POST", "/v1/shelves/1/books/2:text")).status == 200
    assert [upload.file.data for upload in library.requests] == [b""]


NOTES = "/v1/shelves/9/notes"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ('[{"text":"a"},{"text":"b"}]', "application/json"),
        ('{"text":"a"}{"text":"b"}', "application/json"),
        ('{"text":"a"}\n\n{"text":"b"}\n', "application/x-ndjson"),
        ('{"text":"a"}\n{"text":"b"}', None),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_the_forms_of_a_client_stream(
    library: Library, body: str, content_type: str | None, size: int
) -> None:
    chunks = [body[start : start + size].encode() for start in range(0, len(body), size)]
    headers = {"content-type": content_type} if content_type else {}
    answer = await call(library.app, "POST", NOTES, chunks, headers)
    assert (answer.status, answer.json()["count"]) == (200, 2)
    assert [(note.shelf, note.text) for note in library.requests] == [("9", "a"), ("9", "b")]


async def test_each_element_can_be_one_field(library: Library) -> None:
    answer = await call(library.app, "POST", "/v1/shelves/9/texts", '["a", "b"]')
    assert answer.status == 200
    assert [(note.shelf, note.text) for note in library.requests] == [("9", "a"), ("9", "b")]


@pytest.mark.parametrize("body", ["", "[]", " \n"])
async def test_a_client_stream_can_be_empty(library: Library, body: str) -> None:
    assert (await call(library.app, "POST", NOTES, body)).json()["count"] == 0


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ('[{"text":"a"},{"text":1}]', {}, 400),
        ('[{"text":"a"},{"nope":1}]', {}, 400),
        ('[{"shelf":"8"}]', {}, 400),
        ('[{"text":"a"}', {}, 400),
        ('{"text":"a"', {}, 400),
        ("[1]", {}, 400),
        ("{}", {"content-type": "text/plain"}, 415),
        ("{}", {"content-encoding": "br"}, 415),
        ("{}", {"content-encoding": "gzip"}, 400),
        ('{"text":"' + "x" * 2000 + '"}', {}, 413),
    ],
)
async def test_wrong_client_streams(
    library_set: bytes, body: str, headers: dict[str, str], status: int
) -> None:
    library = Library(library_set, Options(max_body=1000))
    answer = await call(library.app, "POST", NOTES, body, headers)
    assert answer.status == status


@pytest.mark.parametrize("cut", [-1, -9])
async def test_a_client_stream_that_is_cut_inside_its_coding(library: Library, cut: int) -> None:
    body = gzip.compress(b"[]")[:cut]
    assert (await call(library.app, "POST", NOTES, body, {"content-encoding": "gzip"})).status == 400
    body = gzip.compress(b"[]") + b"more"
    assert (await call(library.app, "POST", NOTES, body, {"content-encoding": "gzip"})).status == 400


async def test_a_compressed_client_stream(library: Library) -> None:
    body = gzip.compress(b'[{"text":"a"},{"text":"b"}]')
    chunks = [body[start : start + 5] for start in range(0, len(body), 5)]
    answer = await call(library.app, "POST", NOTES, chunks, {"content-encoding": "gzip"})
    assert answer.json()["count"] == 2


async def test_a_handler_need_not_read_its_stream(library: Library) -> None:
    async def refuse(_requests: Any, _metadata: Any) -> Any:
        raise StatusError(Code.PERMISSION_DENIED, "not you")

    library.answers["AddNotes"] = refuse
    assert (await call(library.app, "POST", NOTES, "[{}]")).status == 403
