"""One HTTP exchange at a time: headers, statuses, limits, errors."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import random
import zlib
from collections.abc import AsyncIterator, MutableMapping, Sequence
from typing import Any

import pytest
from protobuf import Message, Registry
from protobuf.wkt.google.protobuf import any_pb, duration_pb, struct_pb

from gateway.transcoding import (
    Code,
    Headers,
    LazyRequest,
    Options,
    StatusError,
    Template,
    Transcoder,
    WholeRequest,
)
from gateway.transcoding.gen.google.rpc.error_details_pb import ErrorInfo, RetryInfo
from tests.transcoding.asgi import call
from tests.transcoding.library import Library, fail

pytestmark = pytest.mark.usefixtures("way")

BOOK = "/v1/shelves/1/books/2"
BOOKS = "/v1/shelves/1/books"


@pytest.fixture
def library(library_set: bytes) -> Library:
    return Library(library_set)


def raising(error: Exception) -> Any:
    async def answer(_request: Any, _metadata: Any) -> Any:
        raise error

    return answer


async def test_get_answers_with_defaults_and_proto_names(library: Library) -> None:
    answer = await call(library.app, "GET", "/v1/shelves/1/total")
    assert (answer.status, answer.body) == (200, b"0")
    answer = await call(library.app, "GET", BOOK)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.json()["display_title"] == ""


async def test_head_is_get_without_a_body(library: Library) -> None:
    get, head = await call(library.app, "GET", BOOK), await call(library.app, "HEAD", BOOK)
    assert (head.status, head.body, head.headers) == (200, b"", get.headers)
    assert (await call(library.app, "HEAD", "/v1/echo")).status == 405
    missing = await call(library.app, "HEAD", "/nothing")
    assert (missing.status, missing.body) == (404, b"")
    assert int(missing.headers["content-length"]) > 0


async def test_options_tells_the_methods_unless_it_is_declared(library: Library) -> None:
    answer = await call(library.app, "OPTIONS", BOOK)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers == {"allow": "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"}
    assert (await call(library.app, "OPTIONS", "/nothing")).status == 404
    assert (await call(library.app, "OPTIONS", "/v1/declared-options")).status == 200
    assert len(library.requests) == 1


@pytest.mark.parametrize("method", ["REPORT", "OPTIONS", "HEAD", "GET"])
async def test_a_rule_for_any_method(library: Library, method: str) -> None:
    assert (await call(library.app, method, "/v1/any/x")).status == 200
    assert library.requests[0].name == "x"
    assert library.metadata[0].http_method == method


async def test_a_wrong_method_is_405_with_every_right_one(library: Library) -> None:
    answer = await call(library.app, "POST", BOOK, "{}")
    assert answer.status == 405
    assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"
    assert answer.json() == {
        "code": Code.UNIMPLEMENTED,
        "message": "this path is served for DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
        "details": [],
    }


@pytest.mark.parametrize("path", ["/nothing", "/v1/echo/", "//", "/v1/shelves//books"])
async def test_an_unknown_path_is_404(library: Library, path: str) -> None:
    answer = await call(library.app, "GET", path)
    assert (answer.status, answer.json()["code"]) == (404, Code.NOT_FOUND)


async def test_a_long_target_is_414(library_set: bytes) -> None:
    library = Library(library_set, Options(max_target=100))
    assert (await call(library.app, "GET", f"/v1/books/{'x' * 89}")).status == 200
    for target in (f"/v1/books/{'x' * 91}", f"/v1/books/x?full=true&{'x' * 80}"):
        answer = await call(library.app, "GET", target)
        assert (answer.status, answer.json()["code"]) == (414, Code.INVALID_ARGUMENT)


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/html, application/*;q=0.1"])
async def test_accept(library: Library, accept: str) -> None:
    assert (await call(library.app, "GET", BOOK, headers={"accept": accept})).status == 200


@pytest.mark.parametrize("accept", ["text/html", "application/x-ndjson", "application/json;q=0"])
async def test_what_cannot_be_accepted_is_406(library: Library, accept: str) -> None:
    answer = await call(library.app, "GET", BOOK, headers={"accept": accept})
    assert (answer.status, answer.headers["content-type"]) == (406, "application/json")
    assert answer.headers["vary"] == "accept"
    assert "application/json" in answer.json()["message"]
    assert library.requests == []


async def test_several_accept_headers_are_one_list(library: Library) -> None:
    headers = [(b"accept", b"text/html"), (b"accept", b"application/json")]
    assert (await call(library.app, "GET", BOOK, headers=headers)).status == 200


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 200), ("application/json", 200), ("application/json; charset=utf-8", 200), ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415), ("application/json; charset=utf-16", 415),
        ("application/x-ndjson", 415), ("", 415),
    ],
)  # fmt: skip
async def test_content_types(library: Library, content_type: str | None, status: int) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    assert (await call(library.app, "POST", BOOKS, "{}", headers)).status == status
    # Without a body its type does not matter.
    assert (await call(library.app, "POST", BOOKS, "", headers)).status == 200
    assert (await call(library.app, "POST", BOOKS, None, headers)).status == 200


async def test_a_body_that_was_not_announced_is_read_where_http_allows_it(library: Library) -> None:
    two: dict[str, Any] = {"http_version": "2"}
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"0")]
    assert (await call(library.app, "POST", BOOKS, b"{}", headers, **two)).status == 415
    headers[0] = (b"content-type", b"application/json")
    answer = await call(library.app, "POST", BOOKS, b'{"name":"x"}', headers, **two)
    assert (answer.status, library.requests[0].book.name) == (200, "x")
    assert (await call(library.app, "GET", BOOK, b"x", [(b"content-length", b"0")], **two)).status == 400


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
    ],
)
async def test_content_codings(library: Library, coding: str, compress: Any) -> None:
    body = compress(b'{"name":"x"}')
    answer = await call(library.app, "POST", BOOKS, [body[:3], body[3:]], {"content-encoding": coding})
    assert (answer.status, library.requests[0].book.name) == (200, "x")


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("br", b"{}", 415),
        ("gzip, gzip", b"{}", 415),
        ("gzip", b"{}", 400),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-4], 400),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"x", 400),
        ("gzip", gzip.compress(b"{}", mtime=0) * 1000, 400),
        ("deflate", gzip.compress(b"{}", mtime=0), 400),
        ("gzip", gzip.compress(b" " * 1001, mtime=0), 413),
        ("identity", b" " * 1001, 413),
    ],
)
async def test_wrong_content_codings(library_set: bytes, coding: str, body: bytes, status: int) -> None:
    library = Library(library_set, Options(max_body=1000))
    answer = await call(library.app, "POST", BOOKS, [body[:-1], body[-1:]], {"content-encoding": coding})
    assert answer.status in {status, 413}
    assert ("accept-encoding" in answer.headers) == (status == 415)
    assert library.requests == []


@pytest.mark.parametrize("length", [b"1001", b"9" * 4000, b"nonsense", None])
async def test_a_body_over_the_limit_is_413_whatever_its_length_says(
    library_set: bytes, length: bytes | None
) -> None:
    library = Library(library_set, Options(max_body=1000))
    headers = [(b"transfer-encoding", b"chunked")] if length is None else [(b"content-length", length)]
    for chunks in ([b" " * 1001], [b" " * 600, b" " * 600]):
        answer = await call(library.app, "POST", BOOKS, chunks, headers)
        assert (answer.status, answer.json()["code"]) == (413, Code.RESOURCE_EXHAUSTED)
        assert answer.headers["connection"] == "close"
    answer = await call(library.app, "POST", BOOKS, [b" " * 1001], headers, http_version="2")
    assert (answer.status, "connection" in answer.headers) == (413, False)


@pytest.mark.parametrize(
    ("header", "value", "seconds"),
    [
        ("grpc-timeout", "10m", 0.01), ("grpc-timeout", "2S", 2.0),
        ("grpc-timeout", "99999999H", 99999999 * 3600.0), ("grpc-timeout", "1M", 60.0),
        ("grpc-timeout", "5u", 5e-6), ("grpc-timeout", "5n", 5e-9), ("connect-timeout-ms", "1500", 1.5),
    ],
)  # fmt: skip
async def test_deadlines_are_handed_on(library: Library, header: str, value: str, seconds: float) -> None:
    async def answer(_request: Any, metadata: Any) -> Any:
        assert metadata.timeout == pytest.approx(seconds)
        await asyncio.Event().wait() if seconds < 0.1 else None
        return library.make("Book")

    library.answers["GetBook"] = answer
    got = await call(library.app, "GET", BOOK, headers={header: value})
    assert got.status == (504 if seconds < 0.1 else 200)


async def test_the_shorter_deadline_holds(library: Library) -> None:
    await call(library.app, "GET", BOOK, headers={"grpc-timeout": "2S", "connect-timeout-ms": "1000"})
    assert library.metadata[0].timeout == 1.0


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("grpc-timeout", "10"), ("grpc-timeout", "1x"), ("grpc-timeout", "123456789S"),
        ("grpc-timeout", "-1S"), ("grpc-timeout", "1.5S"), ("connect-timeout-ms", "1s"),
        ("connect-timeout-ms", "12345678901"), ("connect-timeout-ms", ""),
    ],
)  # fmt: skip
async def test_a_malformed_deadline_is_400(library: Library, header: str, value: str) -> None:
    answer = await call(library.app, "GET", BOOK, headers={header: value})
    assert (answer.status, header in answer.json()["message"].lower()) == (400, True)


async def test_a_timeout_of_the_handler_itself_is_no_deadline(library: Library) -> None:
    library.answers["GetBook"] = raising(TimeoutError())
    assert (await call(library.app, "GET", BOOK, headers={"grpc-timeout": "10S"})).status == 500


async def test_a_deadline_ends_a_stream(library: Library) -> None:
    async def events(_request: Any, _metadata: Any) -> AsyncIterator[Any]:
        yield library.make("BookEvent", sequence=1)
        await asyncio.Event().wait()

    library.answers["WatchBooks"] = events
    answer = await call(library.app, "GET", "/v1/shelves/1:watch", headers={"grpc-timeout": "30m"})
    assert [list(element) for element in answer.json()] == [["sequence"], ["error"]]
    assert answer.json()[-1]["error"]["code"] == Code.DEADLINE_EXCEEDED


async def test_what_a_handler_knows_of_the_request(library: Library) -> None:
    headers = [(b"x-a", b"1"), (b"x-a", b"2"), (b"x-b", b"\xe9")]
    await call(library.app, "GET", f"{BOOK}?full=true", headers=headers)
    metadata = library.metadata[0]
    assert dict(metadata.headers) == {"x-b": "é", "x-a": "1"}
    assert len(metadata.headers) == 2
    assert metadata.headers.get("x-c") is None
    assert metadata.headers.get_all("x-a") == ["1", "2"]
    assert metadata.headers.get_all("x-c") == []
    assert (metadata.http_method, metadata.raw_target) == ("GET", f"{BOOK}?full=true")
    assert (metadata.client, metadata.timeout) == (("192.0.2.1", 4711), None)
    await call(library.app, "GET", BOOK, client=None)
    assert library.metadata[1].client is None


async def test_headers_as_grpc_metadata(library: Library) -> None:
    headers = {
        "x-tenant": "t",
        "grpc-metadata-x-user": "u",
        "x-bytes-bin": "AAE",
        "cookie": "secret",
        "grpc-metadata-cookie": "c",
    }
    await call(library.app, "GET", BOOK, headers=headers)
    allowed = {"x-tenant", "x-user", "x-bytes-bin"}
    metadata = library.metadata[0].grpc_metadata(allowed)
    assert metadata == [("x-tenant", "t"), ("x-user", "u"), ("x-bytes-bin", b"\x00\x01")]

    async def broken(_request: Any, metadata: Any) -> Any:
        return metadata.grpc_metadata(allowed)

    library.answers["GetBook"] = broken
    answer = await call(library.app, "GET", BOOK, headers={"x-bytes-bin": "!"})
    assert (answer.status, answer.json()["message"]) == (400, "the header x-bytes-bin is not base64")


async def test_what_a_handler_says_beside_the_answer(library: Library) -> None:
    async def create(request: Any, metadata: Any) -> Any:
        metadata.http_status = 201
        metadata.response_headers += [
            ("Location", "/v1/shelves/1/books/9"),
            ("Content-Type", "application/json; v=1"),
        ]
        metadata.trailers.append(("x-cost", "3"))
        return request.book

    library.answers["CreateBook"] = create
    answer = await call(library.app, "POST", BOOKS, '{"name":"x"}')
    assert (answer.status, answer.json()["name"]) == (201, "x")
    assert answer.headers["location"] == "/v1/shelves/1/books/9"
    assert answer.headers["content-type"] == "application/json; v=1"
    assert answer.headers["grpc-trailer-x-cost"] == "3"


async def test_an_answer_without_content(library: Library) -> None:
    async def delete(_request: Any, metadata: Any) -> Any:
        metadata.http_status = 204
        return library.methods["DeleteBook"].output.type()

    library.answers["DeleteBook"] = delete
    answer = await call(library.app, "DELETE", BOOK)
    assert (answer.status, answer.body, answer.headers) == (204, b"", {})


async def test_entity_tags_spare_the_body(library: Library) -> None:
    first = await call(library.app, "GET", BOOK)
    tag = first.headers["etag"]
    again = await call(library.app, "GET", BOOK, headers={"if-none-match": f'"x", {tag}'})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert "content-type" not in again.headers
    assert (await call(library.app, "HEAD", BOOK, headers={"if-none-match": tag})).status == 304
    assert (await call(library.app, "GET", BOOK, headers={"if-none-match": '"x"'})).status == 200
    # Only methods that say that they have no side effects.
    assert "etag" not in (await call(library.app, "GET", BOOKS)).headers


async def test_a_handler_may_tag_its_answer_itself(library: Library) -> None:
    async def get(_request: Any, metadata: Any) -> Any:
        metadata.response_headers.append(("ETag", '"v7"'))
        return library.make("Book")

    library.answers["GetBook"] = get
    assert (await call(library.app, "GET", BOOK)).headers["etag"] == '"v7"'
    assert (await call(library.app, "GET", BOOK, headers={"if-none-match": '"v7"'})).status == 304


async def test_what_caches_may_do_is_said_of_tagged_answers(library_set: bytes) -> None:
    library = Library(library_set, Options(cache_control="private"))
    assert (await call(library.app, "GET", BOOK)).headers["cache-control"] == "private"
    assert "cache-control" not in (await call(library.app, "GET", BOOKS)).headers

    async def get(_request: Any, metadata: Any) -> Any:
        metadata.response_headers.append(("Cache-Control", "max-age=60"))
        return library.make("Book")

    library.answers["GetBook"] = get
    assert (await call(library.app, "GET", BOOK)).headers["cache-control"] == "max-age=60"


@pytest.mark.parametrize("size", [2_000, 400_000])
async def test_large_answers_are_compressed(library: Library, size: int) -> None:
    async def get(_request: Any, _metadata: Any) -> Any:
        return library.make("Book", name="x" * size)

    library.answers["GetBook"] = get
    plain = await call(library.app, "GET", BOOK)
    packed = await call(library.app, "GET", BOOK, headers={"accept-encoding": "br, gzip"})
    assert gzip.decompress(packed.body) == plain.body
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["content-length"] == str(len(packed.body))
    assert packed.headers["etag"] == plain.headers["etag"]
    kept = await call(library.app, "GET", BOOK, headers={"if-none-match": plain.headers["etag"]})
    assert kept.status == 304
    assert packed.headers["vary"] == plain.headers["vary"] == kept.headers["vary"] == "accept-encoding"


async def test_a_handler_may_encode_its_answer_itself(library: Library) -> None:
    packed = gzip.compress(random.Random(0).randbytes(3000))

    async def export(_request: Any, metadata: Any) -> Any:
        metadata.response_headers.append(("content-encoding", "gzip"))
        return library.methods["ExportBooks"].output.type(content_type="text/csv", data=packed)

    library.answers["ExportBooks"] = export
    answer = await call(library.app, "GET", "/v1/shelves/1:export", headers={"accept-encoding": "gzip"})
    assert answer.body == packed


async def test_small_answers_are_not_compressed(library: Library) -> None:
    answer = await call(library.app, "GET", BOOK, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers


async def test_errors_are_statuses_with_details(library: Library) -> None:
    details: Sequence[Message] = [
        ErrorInfo(reason="CLOSED", domain="library", metadata={"shelf_name": "1"}),
        RetryInfo(retry_delay=duration_pb.Duration(seconds=2, nanos=1)),
        duration_pb.Duration(seconds=3),
        any_pb.Any.pack(library.make("Summary", count=1)),
        any_pb.Any(type_url="type.googleapis.com/no.such.Type", value=b"x"),
    ]
    library.answers["GetBook"] = raising(StatusError(Code.UNAVAILABLE, "closed", details, {"X-Shelf": "1"}))
    answer = await call(library.app, "GET", BOOK)
    assert (answer.status, answer.headers["retry-after"], answer.headers["x-shelf"]) == (503, "3", "1")
    status = answer.json()
    assert (status["code"], status["message"]) == (14, "closed")
    prefix = "type.googleapis.com/"
    assert status["details"][:4] == [
        {
            "@type": f"{prefix}google.rpc.ErrorInfo",
            "reason": "CLOSED",
            "domain": "library",
            "metadata": {"shelf_name": "1"},
        },
        {"@type": f"{prefix}google.rpc.RetryInfo", "retry_delay": "2.000000001s"},
        {"@type": f"{prefix}google.protobuf.Duration", "value": "3s"},
        {"@type": f"{prefix}transcoding.library.Summary", "count": 1},
    ]
    assert status["details"][4] == {"@type": f"{prefix}no.such.Type", "value": "eA=="}


async def test_a_detail_that_json_cannot_show_is_bytes(library: Library) -> None:
    nothing = struct_pb.Value()
    library.answers["GetBook"] = raising(StatusError(Code.ABORTED, "", [nothing]))
    (detail,) = (await call(library.app, "GET", BOOK)).json()["details"]
    assert detail == {"@type": "type.googleapis.com/google.protobuf.Value", "value": ""}


async def test_a_retry_without_a_delay_has_no_header(library: Library) -> None:
    library.answers["GetBook"] = raising(StatusError(Code.UNAVAILABLE, "", [RetryInfo()]))
    assert "retry-after" not in (await call(library.app, "GET", BOOK)).headers


async def test_statuses_can_be_refined(library_set: bytes) -> None:
    def refine(code: int, details: Sequence[Message]) -> int | None:
        reasons = [detail.reason for detail in details if isinstance(detail, ErrorInfo)]
        if "BROKEN" in reasons:
            raise RuntimeError
        return 402 if "INSUFFICIENT_CREDITS" in reasons and code == Code.FAILED_PRECONDITION else None

    library = Library(library_set, Options(http_status=refine))
    for reason, status in (("INSUFFICIENT_CREDITS", 402), ("OTHER", 400), ("BROKEN", 500)):
        error = StatusError(Code.FAILED_PRECONDITION, "", [ErrorInfo(reason=reason)])
        library.answers["GetBook"] = raising(error)
        assert (await call(library.app, "GET", BOOK)).status == status
    library.answers["GetBook"] = raising(StatusError(99, "", http_status=418))
    assert (await call(library.app, "GET", BOOK)).status == 418
    library.answers["GetBook"] = raising(StatusError(99))
    assert (await call(library.app, "GET", BOOK)).status == 500


async def test_types_inside_any_come_from_a_registry(library_set: bytes) -> None:
    library = Library(library_set, Options(registry=Registry()))
    body = '{"attachment":{"@type":"type.googleapis.com/transcoding.library.Summary","count":1}}'
    assert (await call(library.app, "POST", BOOKS, body)).violations == ["book.attachment"]
    library = Library(library_set)
    assert (await call(library.app, "POST", BOOKS, body)).status == 200
    assert (await call(library.app, "PUT", BOOK, body)).json()["attachment"]["count"] == 1


async def test_what_is_unexpected_does_not_leak(library: Library, caplog: pytest.LogCaptureFixture) -> None:
    library.answers["GetBook"] = raising(RuntimeError("password=hunter2"))
    with caplog.at_level(logging.ERROR, "gateway.transcoding"):
        answer = await call(library.app, "GET", BOOK)
    assert (answer.status, answer.json()) == (500, {"code": 13, "message": "internal error", "details": []})
    assert "hunter2" in caplog.text


@pytest.mark.parametrize(
    "answer",
    [None, 5, "book", ("Book", {"attachment": any_pb.Any(type_url="type.googleapis.com/no.such.Type")})],
)
async def test_an_answer_that_cannot_be_sent_is_internal(library: Library, answer: Any) -> None:
    async def get(_request: Any, _metadata: Any) -> Any:
        return library.make(answer[0], **answer[1]) if isinstance(answer, tuple) else answer

    library.answers["GetBook"] = get
    assert (await call(library.app, "GET", BOOK)).status == 500
    library.answers["WatchBooks"] = get
    assert (await call(library.app, "GET", "/v1/shelves/1:watch")).status == 500


@pytest.mark.parametrize("value", ["a\r\nset-cookie: x", "a\nb", "a\0b", "日本"])
async def test_a_header_cannot_end_its_line(library: Library, value: str) -> None:
    async def get(_request: Any, metadata: Any) -> Any:
        metadata.response_headers.append(("x-note", value))
        return library.make("Book")

    library.answers["GetBook"] = get
    answer = await call(library.app, "GET", BOOK)
    assert (answer.status, "x-note" in answer.headers) == (500, False)
    library.answers["GetBook"] = raising(StatusError(Code.NOT_FOUND, "", headers={"x-note": value}))
    answer = await call(library.app, "GET", BOOK)
    assert (answer.status, answer.json()["message"]) == (500, "internal error")


async def test_a_lazy_handler_sees_the_bytes_before_they_are_decoded(library_set: bytes) -> None:
    library = Library(library_set, lazy=True)

    async def create(request: LazyRequest, _metadata: Any) -> Any:
        assert request.body == b'{"page_count":"x"}'
        assert request.variables == {"shelf": "1"}
        assert str(request.binding.template) == "/v1/shelves/{shelf}/books"
        library.requests.append(request)
        return request.decode()

    library.answers["CreateBook"] = create
    body = gzip.compress(b'{"page_count":"x"}')
    answer = await call(library.app, "POST", BOOKS, body, {"content-encoding": "gzip"})
    assert (answer.status, answer.violations) == (400, ["book.page_count"])
    assert len(library.requests) == 1


async def test_a_lazy_handler_can_refuse_first(library_set: bytes) -> None:
    library = Library(library_set, lazy=True)
    library.answers["CreateBook"] = raising(
        StatusError(Code.UNAUTHENTICATED, "who?", headers={"www-authenticate": "Bearer"})
    )
    answer = await call(library.app, "POST", BOOKS, b"not even JSON")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


async def test_lazy_streams(library_set: bytes) -> None:
    library = Library(library_set, lazy=True)

    async def events(request: LazyRequest, _metadata: Any) -> AsyncIterator[Any]:
        message: Any = request.decode()
        yield library.make("BookEvent", sequence=message.count)

    async def notes(requests: AsyncIterator[LazyRequest], _metadata: Any) -> Any:
        return library.make("Summary", text=",".join([request.body.decode() async for request in requests]))

    library.answers |= {"WatchBooks": events, "AddNotes": notes}
    answer = await call(library.app, "POST", "/v1/watch", '{"count":7}')
    assert answer.json() == [{"sequence": "7"}]
    answer = await call(library.app, "POST", "/v1/watch", '{"count":"x"}')
    assert (answer.status, answer.violations) == (400, ["count"])
    answer = await call(library.app, "POST", "/v1/shelves/1/notes", '[{"text":"a"}, {}]')
    assert answer.json()["text"] == '{"text":"a"}, {}'


async def test_below_a_root_path(library: Library) -> None:
    assert (await call(library.app, "GET", f"/api{BOOK}", root_path="/api")).status == 200
    assert (await call(library.app, "GET", BOOK, root_path="/api")).status == 200
    assert (await call(library.app, "GET", f"/apis{BOOK}", root_path="/api")).status == 404


async def test_a_server_that_gives_no_raw_path(library: Library) -> None:
    answer = await call(library.app, "GET", "/unused", raw_path=None, path="/v1/books/a b%ü")
    assert (answer.status, library.requests[0].name) == (200, "a b%ü")


async def test_an_error_in_the_sending_is_not_sent(
    library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            raise OSError

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        return {}

    scope = {"type": "http", "method": "GET", "raw_path": BOOK.encode(), "path": BOOK, "headers": []}
    await library.app(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert "OSError" in caplog.text


async def test_a_cancelled_request_is_cancelled(library: Library) -> None:
    async def get(_request: Any, _metadata: Any) -> Any:
        library.entered.set()
        await asyncio.Event().wait()

    library.answers["GetBook"] = get
    task = asyncio.create_task(call(library.app, "GET", BOOK))
    await library.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_requests_on_another_event_loop(library_set: bytes) -> None:
    library = Library(library_set)

    def elsewhere() -> int:
        return asyncio.run(call(library.app, "GET", BOOK)).status

    assert (await call(library.app, "GET", BOOK)).status == 200
    assert await asyncio.to_thread(elsewhere) == 200
    assert (await call(library.app, "GET", BOOK)).status == 200


async def asgi_messages(app: Transcoder, kind: str, *received: str) -> list[MutableMapping[str, Any]]:
    inbox, sent = [{"type": name} for name in received], []

    async def receive() -> MutableMapping[str, Any]:
        return inbox.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app({"type": kind}, receive, send)
    return sent


async def test_lifespan_and_websockets(library: Library) -> None:
    sent = await asgi_messages(library.app, "lifespan", "lifespan.startup", "lifespan.shutdown")
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    sent = await asgi_messages(library.app, "websocket", "websocket.connect")
    assert sent == [{"type": "websocket.close", "code": 1000}]


async def test_an_error_of_the_handler_has_its_headers(library: Library) -> None:
    library.answers["GetBook"] = fail
    answer = await call(library.app, "GET", BOOK)
    assert (answer.status, answer.headers["x-hint"]) == (404, "other shelf")
    assert json.loads(answer.body)["message"] == "no such book"


@pytest.mark.parametrize(
    ("http_method", "target", "headers", "body", "is_plain"),
    [
        ("GET", BOOK, {}, b"", True),
        ("POST", BOOKS, {"content-type": "application/json"}, b"{}", True),
        ("POST", BOOKS, {"accept": "text/html, */*;q=0.1"}, b"{", True),
        ("GET", f"{BOOK}?unknown=1", {"accept-encoding": "gzip"}, b"", True),
        ("HEAD", BOOK, {}, b"", False),
        ("PUT", "/nothing", {}, b"", False),
        ("TRACE", BOOK, {}, b"", False),
        ("GET", "/%zz", {}, b"", False),
        ("GET", f"{BOOK}?{'x' * 20_000}", {}, b"", False),
        ("GET", BOOK, {"accept": "text/html"}, b"", False),
        ("GET", BOOK, {"grpc-timeout": "1S"}, b"", False),
        ("GET", BOOK, {"connect-timeout-ms": "1000"}, b"", False),
        ("POST", BOOKS, {"content-type": "text/plain"}, b"{}", False),
        ("POST", BOOKS, {"content-encoding": "gzip"}, b"{}", False),
        ("POST", BOOKS, {"transfer-encoding": "chunked"}, b"{}", False),
        ("POST", BOOKS, {}, b" " * 5_000_000, False),
    ],
)
async def test_plain_unary_requests_are_answered_whole(
    library: Library, http_method: str, target: str, headers: dict[str, str], body: bytes, *, is_plain: bool
) -> None:
    path, _, query = target.encode().partition(b"?")
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    answering = library.app.answer(WholeRequest(http_method, path, query, Headers(fields), None, body))
    assert (answering is not None) == is_plain
    if answering is not None:
        assert (await answering).body


async def test_streams_are_not_answered_whole(library: Library) -> None:
    for binding in library.app.bindings:
        if binding.server_streaming or binding.client_streaming:
            path = str(Template(binding.template.segments, binding.template.verb, ())).encode()
            assert (
                library.app.answer(WholeRequest(binding.http_method, path, b"", Headers(()), None, b""))
                is None
            )
