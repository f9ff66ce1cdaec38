"""The reader of n8n's bodies, on captured bytes and on what could be mistaken for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.n8n import body as body_module
from gateway.adapters.n8n.body import (
    MOST_LINES,
    BodyError,
    BodyReader,
    DocumentTooLarge,
    LineTooLong,
    MalformedBody,
    MalformedStream,
    NameTooLong,
    TruncatedJson,
)
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
from tests.captures import CAPTURES

LIMIT = 2**20
unhurried = settings(deadline=None)
NODE = Node("id-1", "R1", 0, 0)
METADATA = '"metadata":{"nodeId":"id-1","nodeName":"R1","runIndex":0,"itemIndex":0,"timestamp":17}'
BEGIN = f'{{"type":"begin",{METADATA}}}\n'.encode()
END = f'{{"type":"end",{METADATA}}}\n'.encode()


def item(content: str) -> bytes:
    return f'{{"type":"item","content":{content},{METADATA}}}\n'.encode()


def captured(name: str) -> tuple[str, bytes]:
    """The content type and the body of a captured answer."""
    capture = CAPTURES[name]
    return capture.headers.get("content-type", ""), capture.body


NAMES = [capture.name for capture in CAPTURES.values() if capture.ended]
STREAMS = [name for name in NAMES if captured(name)[1].startswith(b'{"type":"begin"')]
DOCUMENTS = [name for name in NAMES if name not in STREAMS]


def fed(reader: BodyReader, data: bytes) -> Iterator[Piece]:
    yield from reader.feed(data)
    while reader.has_more:
        yield from reader.more()


def read(parts: list[bytes], content_type: str | None = None, **limits: int) -> list[Piece]:
    reader = BodyReader(content_type, **{"document_limit": LIMIT, "line_limit": LIMIT, **limits})
    pieces = [piece for part in parts for piece in fed(reader, part)]
    return pieces + reader.finish()


def outcome(parts: list[bytes], content_type: str | None = None, **limits: int) -> tuple[list[Piece], object]:
    """The pieces, those that came with an error too, and the error's class."""
    reader = BodyReader(content_type, **{"document_limit": LIMIT, "line_limit": LIMIT, **limits})
    pieces: list[Piece] = []
    try:
        for part in parts:
            pieces.extend(fed(reader, part))
        pieces += reader.finish()
    except BodyError as error:
        return pieces + error.pieces, type(error)
    return pieces, None


def as_document(parts: list[bytes], content_type: str | None = None) -> list[Piece]:
    reader = BodyReader(content_type, document_limit=LIMIT, line_limit=10, is_document=True)
    pieces = [piece for part in parts for piece in fed(reader, part)]
    return pieces + reader.finish()


def cut(body: bytes, *positions: int) -> list[bytes]:
    ends = [*sorted(positions), len(body)]
    return [body[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def plain(body: bytes) -> list[Piece]:
    """What a stream means, read the slow way."""
    pieces: list[Piece] = []
    for line in body.decode().splitlines():
        value: dict[str, Any] = json.loads(line)
        data = value["metadata"]
        node = Node(data["nodeId"], data["nodeName"], data["runIndex"], data["itemIndex"])
        match value["type"]:
            case "begin":
                pieces.append(NodeBegin(node))
            case "item":
                pieces.append(NodeItem(node, value["content"]))
            case "end":
                pieces.append(NodeEnd(node))
            case "error":
                pieces.append(NodeError(node))
    return pieces


def test_captures_hold_streams_and_documents() -> None:
    assert len(STREAMS) >= 10
    assert len(DOCUMENTS) >= 20


@pytest.mark.parametrize("name", STREAMS)
def test_stream_however_cut(name: str) -> None:
    content_type, body = captured(name)
    expected = plain(body)
    assert read([body], content_type) == expected
    assert read(cut(body, *range(1, len(body))), content_type) == expected
    for position in range(1, len(body)):
        assert read(cut(body, position), content_type) == expected


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_however_cut(name: str) -> None:
    content_type, body = captured(name)
    expected = read([body], content_type)
    assert [type(piece) for piece in expected] == [Document]
    assert isinstance(expected[0], Document)
    assert expected[0].data == body
    assert read(cut(body, *range(1, len(body))), content_type) == expected
    for position in range(1, len(body)):
        assert read(cut(body, position), content_type) == expected


@unhurried
@given(st.sampled_from(NAMES), st.lists(st.integers(0, 4000), max_size=40))
def test_any_cuts(name: str, positions: list[int]) -> None:
    content_type, body = captured(name)
    parts = cut(body, *(position % (len(body) + 1) for position in positions))
    assert read(parts, content_type) == read([body], content_type)


@pytest.mark.parametrize("name", STREAMS)
def test_truncated_stream_is_no_success(name: str) -> None:
    content_type, body = captured(name)
    whole = plain(body)
    for length in range(1, len(body)):
        pieces, error = outcome([body[:length]], content_type)
        if body[length - 1 : length] == b"\n":
            assert error is None
            assert pieces == plain(body[:length])
        else:
            assert error in {MalformedStream, TruncatedJson}, length
            assert pieces == whole[: len(pieces)]


@pytest.mark.parametrize("name", ["echo", "echo-headers", "echo-array", "agent-document", "wait-echo"])
def test_truncated_json_is_no_success(name: str) -> None:
    content_type, body = captured(name)
    for length in range(1, len(body)):
        assert outcome([body[:length]], content_type) == ([], TruncatedJson), length


@pytest.mark.parametrize(
    ("name", "kind", "content_type"),
    [
        ("echo", DocumentKind.JSON, "application/json; charset=utf-8"),
        ("on-received-html", DocumentKind.JSON, "application/json"),
        ("html-404", DocumentKind.TEXT, "text/html; charset=utf-8"),
        ("auth-wrong", DocumentKind.TEXT, "text/plain; charset=utf-8"),
        ("stream-none", DocumentKind.EMPTY, ""),
        ("stream-off", DocumentKind.EMPTY, ""),
    ],
)
def test_captured_documents(name: str, kind: DocumentKind, content_type: str) -> None:
    declared, body = captured(name)
    assert read([body], declared) == [Document(kind, content_type, body)]


def test_pieces_come_with_the_newline() -> None:
    reader = BodyReader(None, document_limit=LIMIT, line_limit=LIMIT)
    assert reader.feed(BEGIN[:-1]) == []
    assert reader.feed(b"\n") == [NodeBegin(NODE)]
    assert reader.feed(item('"a"') + item('"b"') + END[:-1]) == [NodeItem(NODE, "a"), NodeItem(NODE, "b")]
    assert reader.feed(b"\n") == [NodeEnd(NODE)]
    assert reader.finish() == []


def test_contents_are_strings() -> None:
    absent = f'{{"type":"item",{METADATA}}}\n'.encode()
    body = BEGIN + item('"{\\"n\\":1}"') + item('"é\\u2603"') + item('{"n":[1]}') + item("7") + absent
    contents = [piece.content for piece in read([body]) if isinstance(piece, NodeItem)]
    assert contents == ['{"n":1}', "é\u2603", '{"n":[1]}', "7", ""]


def test_half_a_surrogate_pair_is_replaced() -> None:
    body = BEGIN + item(r'"a\ud83d"') + item(r'"\ude00b"') + item(r'"\ud83d\ude00 \\ud83d \uDE00\n"')
    contents = [piece.content for piece in read([body]) if isinstance(piece, NodeItem)]
    assert contents == ["a\ufffd", "\ufffdb", "\U0001f600 \\ud83d \ufffd\n"]
    document = rb'{"a":"\ud83d","b":"\\ud83d"}'
    assert read([document]) == [
        Document(DocumentKind.JSON, "application/json", rb'{"a":"\ufffd","b":"\\ud83d"}')
    ]


def test_blank_lines_and_unknown_types_are_skipped() -> None:
    body = BEGIN + b"\n  \r\n" + b'{"type":"progress"}\n' + END.replace(b"\n", b"\r\n") + b"  "
    assert read([body]) == [NodeBegin(NODE), NodeEnd(NODE)]


@pytest.mark.parametrize("line", [item('"a"'), b'{"type":"new"}\n', b'{"type":"new"}\n\n \n'])
def test_many_lines_are_read_in_turns(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    lines, most = 0, 0

    def decode(line: bytes, decode: Callable[[bytes], Piece] = body_module._decode) -> Piece:
        nonlocal lines
        lines += 1
        return decode(line)

    monkeypatch.setattr(body_module, "_decode", decode)
    reader = BodyReader(None, document_limit=LIMIT, line_limit=LIMIT)
    pieces, lines = reader.feed(BEGIN), 0
    pieces += reader.feed(line * 5000 + END[:-1])
    while reader.has_more:
        lines, most = 0, max(most, lines)
        pieces += reader.more()
    assert 0 < most <= MOST_LINES
    assert pieces + reader.feed(b"\n") == [NodeBegin(NODE), *read([BEGIN + line])[1:] * 5000, NodeEnd(NODE)]


def test_a_fault_comes_after_all_that_was_before_it() -> None:
    for lines in (MOST_LINES - 2, MOST_LINES - 1, MOST_LINES, 1000):
        expected = [NodeBegin(NODE), *[NodeItem(NODE, "a")] * lines]
        body = BEGIN + item('"a"') * lines
        assert outcome([body + b"garbage\n" + END]) == (expected, MalformedStream)
        assert outcome([body + b" " * 201], line_limit=200) == (expected, LineTooLong)


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b" \t\n"])
def test_blank_lines_are_not_decoded(monkeypatch: pytest.MonkeyPatch, blank: bytes) -> None:
    """Each would cost as much as a line, and one read of a connection may bring 2**18 of them."""
    decoded: list[bytes] = []

    def decode(line: bytes, decode: Callable[[bytes], Piece] = body_module._decode) -> Piece:
        decoded.append(line)
        return decode(line)

    monkeypatch.setattr(body_module, "_decode", decode)
    parts = [BEGIN + blank * 1000, blank * 1000 + END]
    assert read(parts) == [NodeBegin(NODE), NodeEnd(NODE)]
    assert set(decoded) == {BEGIN.rstrip(), END.rstrip()}


def test_blank_lines_are_held_to_the_limit() -> None:
    body = BEGIN + b"\n" * 200 + b" " * 201 + b"\n"
    for position in range(len(body)):
        assert outcome(cut(body, position), line_limit=200) == ([NodeBegin(NODE)], LineTooLong)


def test_byte_order_mark_before_a_stream() -> None:
    body = b"\xef\xbb\xbf" + BEGIN + END
    for position in range(len(body)):
        assert read(cut(body, position)) == [NodeBegin(NODE), NodeEnd(NODE)]


def test_error_line_may_come_first() -> None:
    body = b'{"type":"error","metadata":{"nodeId":"a","nodeName":"b","runIndex":1,"itemIndex":2}}\n'
    assert read([body]) == [NodeError(Node("a", "b", 1, 2))]


@pytest.mark.parametrize(
    "document",
    [
        b'{"type":"begin","metadata":{}}\n',
        b'{"type":"begin","metadata":{"nodeId":"a"}}\n{"type":"end"}\n',
        b'{"type":"error","metadata":null}\n',
        b'{"type":"item","content":"x"}\n',
        b'{"type":"started",' + METADATA.encode() + b"}\n",
        b'{"type":["begin"],' + METADATA.encode() + b"}\n",
        b'{\n  "type": "begin",\n  "metadata": {"nodeId": "a"}\n}\n',
        b"[" + BEGIN + b"]",
        b"\n" + BEGIN,
        b'"begin"\n',
        BEGIN.replace(b"R1", b"caf\xe9"),
        BEGIN.replace(b'"begin"', b'"b\xe9gin"'),
    ],
)
def test_lookalikes_are_documents(document: bytes) -> None:
    for position in range(len(document)):
        pieces = read(cut(document, position), "application/json")
        assert [type(piece) for piece in pieces] == [Document]


@pytest.mark.parametrize(
    "line",
    [
        b"{\n",
        b"x\n",
        b"[]\n",
        b"null\n",
        b"7\n",
        b'{"type":7}\n',
        b'{"metadata":{}}\n',
        b'{"type":"item","content":"x"}\n',
        b'{"type":"item","metadata":[]}\n',
        END.replace(b'"id-1"', b"1"),
        END.replace(b'"R1"', b"null"),
        END.replace(b'"runIndex":0', b'"runIndex":true'),
        END.replace(b'"runIndex":0', b'"runIndex":-1'),
        END.replace(b'"itemIndex":0', b'"itemIndex":2147483648'),
        b"\xff\xfe\n",
        item('"caf\xe9"').decode().encode("latin-1"),
        END.replace(b'"end"', b'"\xe9nd"'),
        END.replace(b"id-1", b"id-\xe9"),
        END.replace(b"R1", b"\xc3"),
        END.rstrip(b"\n"),
        END[:-3],
    ],
)
def test_malformed_line(line: bytes) -> None:
    body = BEGIN + item('"a"') + line
    for position in range(len(body)):
        assert outcome(cut(body, position)) == ([NodeBegin(NODE), NodeItem(NODE, "a")], MalformedStream)


def test_line_limit_is_of_each_line() -> None:
    limit = len(item('"abcdef"')) - 1
    body = BEGIN + item('"abcdef"') * 20
    assert len(read([body], line_limit=limit)) == 21
    assert len(read(cut(body, *range(len(body))), line_limit=limit)) == 21
    for position in range(len(body)):
        pieces, error = outcome(cut(body + item('"abcdefg"'), position), line_limit=limit)
        assert (len(pieces), error) == (21, LineTooLong)
    unended = outcome([BEGIN, b" " * limit, b" "], line_limit=limit)
    assert unended == ([NodeBegin(NODE)], LineTooLong)


@pytest.mark.parametrize("named", [b'"id-1"', b'"R1"'])
def test_names_of_nodes_have_a_bound(named: bytes) -> None:
    longest, longer = (b'"' + "\N{SNOWMAN}".encode() * count + b'"' for count in (255, 256))
    assert len(read([BEGIN + END.replace(named, longest)])) == 2
    for position in range(len(BEGIN)):
        body = cut(BEGIN + END.replace(named, longer), position)
        assert outcome(body) == ([NodeBegin(NODE)], NameTooLong)
    assert outcome([BEGIN.replace(named, longer)]) == ([], NameTooLong)


def test_stream_is_not_held_to_the_document_limit() -> None:
    body = BEGIN + item('"a"') * 100
    for parts in ([body], cut(body, *range(len(body)))):
        assert len(read(parts, document_limit=10, line_limit=1000)) == 101


@pytest.mark.parametrize("document", [b"x" * 101, b"x\n" * 51, b"{}\n" + b" " * 98, b"x" * 100 + b"\n"])
def test_document_limit(document: bytes) -> None:
    for line_limit in (10, 1000):
        for parts in [cut(document, *range(len(document))), *(cut(document, at) for at in range(101))]:
            assert outcome(parts, document_limit=100, line_limit=line_limit) == ([], DocumentTooLarge)
        assert outcome([document[:100]], document_limit=100, line_limit=line_limit)[1] is None


def test_first_line_without_an_end_is_held_to_the_limit() -> None:
    reader = BodyReader("application/json", document_limit=100, line_limit=50)
    reader.feed(b'{"type":"begin","' + b"x" * 83)
    with pytest.raises(DocumentTooLarge):
        reader.feed(b"x")


@pytest.mark.parametrize(
    ("body", "declared", "kind", "content_type"),
    [
        (b"", None, DocumentKind.EMPTY, ""),
        (b"", "application/pdf", DocumentKind.EMPTY, ""),
        (b" \r\n", "text/plain", DocumentKind.TEXT, "text/plain"),
        (b"7", "application/json", DocumentKind.JSON, "application/json"),
        (b"7", "text/plain", DocumentKind.TEXT, "text/plain"),
        (b"true", None, DocumentKind.TEXT, "text/plain; charset=utf-8"),
        (b"hello", "Application/JSON", DocumentKind.TEXT, "text/plain; charset=utf-8"),
        (b"{not json}", "text/plain", DocumentKind.TEXT, "text/plain"),
        (b"{not json}", "application/json", DocumentKind.TEXT, "text/plain; charset=utf-8"),
        (b'{"a":1}\n{"a":2}\n', "application/json", DocumentKind.TEXT, "text/plain; charset=utf-8"),
        (b'{"a":1}\n{"a":2}\n', "application/x-ndjson", DocumentKind.TEXT, "application/x-ndjson"),
        (b'{"a":1}', "text/html; charset=utf-8", DocumentKind.JSON, "application/json"),
        (b'{"a":1}', "application/problem+json", DocumentKind.JSON, "application/problem+json"),
        (b'{"a":1}', "application/octet-stream", DocumentKind.BYTES, "application/octet-stream"),
        (b"%PDF-1.7", "application/pdf", DocumentKind.BYTES, "application/pdf"),
        (b"<svg/>", "image/svg+xml", DocumentKind.TEXT, "image/svg+xml"),
        (b"\x89PNG\r\n\x1a\n\x00", "image/png", DocumentKind.BYTES, "image/png"),
        (b"\x89PNG\r\n\x1a\n\x00", None, DocumentKind.BYTES, "application/octet-stream"),
        (b"caf\xe9", "text/plain; charset=latin-1", DocumentKind.BYTES, "text/plain; charset=latin-1"),
        (b"caf\xe9", "application/json", DocumentKind.BYTES, "application/octet-stream"),
        (b"a\x00b", "text/plain", DocumentKind.BYTES, "text/plain"),
        (b"[" * 2000 + b"]" * 2000, None, DocumentKind.TEXT, "text/plain; charset=utf-8"),
    ],
)
def test_document_kinds(body: bytes, declared: str | None, kind: DocumentKind, content_type: str) -> None:
    assert read([body], declared) == [Document(kind, content_type, body)]


@pytest.mark.parametrize(
    ("body", "declared"),
    [(b'{"a":1}', "application/json"), (b"caf\xc3\xa9", "text/plain"), (b"", "text/json")],
)
def test_byte_order_mark_is_dropped(body: bytes, declared: str) -> None:
    assert read([b"\xef\xbb\xbf" + body], declared) == read([body], declared)


def test_blank_json_is_nothing() -> None:
    assert read([b" \r\n"], "application/json") == [Document(DocumentKind.EMPTY, "", b"")]


@pytest.mark.parametrize(
    "body", [b'{"a":', b'["caf\xc3', b'{"a":"b', rb'{"a":"\ud8', b"{", b'\xef\xbb\xbf{"a"']
)
def test_cut_json(body: bytes) -> None:
    assert outcome([body], "application/json") == ([], TruncatedJson)
    assert outcome([body], "text/plain")[1] is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


@unhurried
@given(json_values, st.sampled_from([None, 0, 2]), st.lists(st.integers(0, 500), max_size=10))
def test_json_document(value: object, indent: int | None, positions: list[int]) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=not indent).encode()
    parts = cut(body, *(position % (len(body) + 1) for position in positions))
    assert read(parts, "application/json") == [Document(DocumentKind.JSON, "application/json", body)]


@unhurried
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_any_bytes(body: bytes, positions: list[int]) -> None:
    parts = cut(body, *(position % (len(body) + 1) for position in positions))
    for declared in (None, "application/json", "text/plain", "image/png"):
        assert outcome(parts, declared) == outcome([body], declared)


@unhurried
@given(st.lists(st.text(max_size=30) | json_values, max_size=10), st.lists(st.integers(0, 3000), max_size=20))
def test_any_stream(contents: list[Any], positions: list[int]) -> None:
    texts = [content if isinstance(content, str) else json.dumps(content) for content in contents]
    body = BEGIN + b"".join(item(json.dumps(text, ensure_ascii=False)) for text in texts) + END
    parts = cut(body, *(position % (len(body) + 1) for position in positions))
    assert read(parts) == [NodeBegin(NODE), *(NodeItem(NODE, text) for text in texts), NodeEnd(NODE)]


@unhurried
@given(st.binary(max_size=60), st.lists(st.integers(0, 300), max_size=10))
def test_any_fault_in_a_stream(noise: bytes, positions: list[int]) -> None:
    body = BEGIN + item('"a"') + noise + b"\n" + END
    parts = cut(body, *(position % (len(body) + 1) for position in positions))
    pieces, error = outcome(parts, line_limit=150)
    assert (pieces, error) == outcome([body], line_limit=150)
    assert error is None or issubclass(error, MalformedBody)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/plain", None])
def test_what_is_expected_to_be_a_document_is_one_though_it_looks_like_a_stream(
    name: str, content_type: str | None
) -> None:
    _, body = captured(name)
    for parts in ([body], cut(body, 1, 100), cut(body, body.index(b"\n"), body.index(b"\n") + 1)):
        [document] = as_document(parts, content_type)
        assert isinstance(document, Document)
        assert (document.kind, document.data) == (DocumentKind.TEXT, body)
        assert document.content_type.startswith("text/plain")


def test_one_line_of_a_stream_is_a_document_where_one_is_expected() -> None:
    [document] = as_document([BEGIN.rstrip()], "application/json")
    assert document == Document(DocumentKind.JSON, "application/json", BEGIN.rstrip())
    with pytest.raises(DocumentTooLarge):
        as_document([b"x" * LIMIT, b"x"])
