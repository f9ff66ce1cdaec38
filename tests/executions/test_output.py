from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson
from n8n_gateway_client.v1 import execution_event_pb2, execution_service_pb2
from protobuf import Oneof, message_to_json_value

from gateway.adapters.n8n.body import BodyReader
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
from gateway.executions import output as output_module
from gateway.executions.output import MAX_VALUES, Output, event_of
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent
from gateway.gen.n8ngateway.v1.execution_pb import Execution
from gateway.gen.n8ngateway.v1.execution_service_pb import ListExecutionsResponse

LIMIT = 1 << 20


def item(content: str, node: str = "A", *, run: int = 0, item: int = 0) -> NodeItem:
    return NodeItem(Node(f"id-{node}", node, run, item), content)


def document(
    data: bytes, kind: DocumentKind = DocumentKind.JSON, content_type: str = "application/json"
) -> Document:
    return Document(kind, content_type, data)


def put_out(*pieces: Piece, limit: int = LIMIT) -> Output:
    """The output of a run that n8n tells of in these pieces."""
    output = Output(limit)
    for piece in pieces:
        heard = event_of(piece)
        if heard is not None:
            output.extend([heard])
    return output


def value(*pieces: Piece, limit: int = LIMIT) -> Any:
    joined = put_out(*pieces, limit=limit).value()
    return None if joined is None else message_to_json_value(joined)


def chunk(piece: Piece) -> Any:
    heard = event_of(piece)
    assert heard is not None
    assert heard[0].field == "chunk"
    return heard[0].value


def test_nothing_is_no_value() -> None:
    assert put_out().value() is None
    assert event_of(document(b"", DocumentKind.EMPTY, "")) is None
    assert event_of(NodeError(Node("i", "n", 0, 0))) is None


def test_begin_and_end_are_events_without_content() -> None:
    node = Node("id-A", "A", 1, 2)
    for piece, field in ((NodeBegin(node), "node_started"), (NodeEnd(node), "node_finished")):
        heard = event_of(piece)
        assert heard is not None
        event, raw = heard
        assert (event.field, raw) == (field, "")
        told = event.value
        assert (told.node_id, told.node_name, told.run_index, told.item_index) == ("id-A", "A", 1, 2)


def test_a_chunk_names_its_node() -> None:
    told = chunk(item("x", "A", run=1, item=2))
    assert (told.node_id, told.node_name, told.run_index, told.item_index) == ("id-A", "A", 1, 2)
    assert (told.content_type, told.content.field, told.content.value) == ("text/plain", "text", "x")


@pytest.mark.parametrize("text", ['{"a":[1,null,"x"]}', "[]", "{}", '[{"a":{}}]'])
def test_an_object_or_array_is_json(text: str) -> None:
    told = chunk(item(text))
    assert (told.content_type, told.content.field) == ("application/json", "json")
    assert value(item(text)) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "true",
        "null",
        '"x"',
        " {}",
        "{",
        "[1,]",
        '{"a":1,"a":2}x',
        "{a:1}",
        "plain ☃",
        "",
        "[1e999]",
        "[NaN]",
    ],
)
def test_all_else_is_the_text_that_it_is(text: str) -> None:
    told = chunk(item(text))
    assert (told.content_type, told.content.field, told.content.value) == ("text/plain", "text", text)
    assert value(item(text)) == text


@pytest.mark.parametrize("levels", [31, 40, 1000])
def test_what_is_nested_too_deep_for_a_message_is_text(levels: int) -> None:
    for deep in ("[" * levels + "]" * levels, '{"a":' * levels + "1" + "}" * levels):
        assert value(item(deep)) == deep
        assert value(document(deep.encode())) == deep


@pytest.mark.parametrize("text", ["[" * 30 + "]" * 30, '{"a":' * 30 + "1" + "}" * 30])
def test_json_as_deep_as_it_may_be_is_read_by_other_runtimes(text: str) -> None:
    pieces = (item(text, "A"), item(text, "B"), document(text.encode()))
    for piece in pieces:
        event = ExecutionEvent(event=Oneof("chunk", chunk(piece)))
        read = execution_event_pb2.ExecutionEvent.FromString(event.to_binary())
        assert json.loads(MessageToJson(read.chunk.json, indent=None)) == json.loads(text)
    runs = ListExecutionsResponse(executions=[Execution(result=put_out(*pieces).value())])
    [run] = execution_service_pb2.ListExecutionsResponse.FromString(runs.to_binary()).executions
    assert json.loads(MessageToJson(run.result, indent=None)) == [json.loads(text)] * 3


def test_many_brackets_are_not_deep() -> None:
    broad = json.dumps([{"a": [[]]}] * 100 + ["[{" * 100])
    assert value(item(broad)) == value(document(broad.encode())) == json.loads(broad)


@pytest.mark.parametrize("number", ["1e999", "-1E+0999", "1" + "0" * 400, "1" + "0" * 250 + "e99", "1.9e308"])
def test_a_number_beyond_a_double_is_told_as_it_was_written(number: str) -> None:
    text = f'{{"n":{number}}}'
    assert value(item(text)) == text
    assert value(document(text.encode())) == text


@pytest.mark.parametrize("number", ["1.7e308", "-1.7e308", "1e-999", "1" + "0" * 300, "0." + "0" * 400 + "1"])
def test_a_number_within_a_double_is_one(number: str) -> None:
    assert value(item(f"[{number}]")) == [float(number)]


def test_a_text_that_only_looks_like_a_huge_number_does_not_matter() -> None:
    assert value(item('["1e999", "☃"]')) == ["1e999", "☃"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a":1}', {"a": 1}),
        (b"[1,2]", [1, 2]),
        (b"null", None),
        (b"true", True),
        (b'"x"', "x"),
        (b"0", 0),
        (b"-2.5e3", -2500),
        ('"☃"'.encode(), "☃"),
    ],
)
def test_a_json_document_is_the_value(data: bytes, expected: Any) -> None:
    output = put_out(document(data))
    joined = output.value()
    assert joined is not None
    assert message_to_json_value(joined) == expected


def test_a_text_document_is_text_of_its_type() -> None:
    piece = document("plain ☃".encode(), DocumentKind.TEXT, "text/markdown")
    assert chunk(piece).content_type == "text/markdown"
    assert value(piece) == "plain ☃"


def test_a_document_of_bytes_is_told_with_its_type() -> None:
    piece = document(bytes(range(256)), DocumentKind.BYTES, "image/png")
    assert chunk(piece).content.value == bytes(range(256))
    joined = value(piece)
    assert joined["content_type"] == "image/png"
    assert joined["base64"].startswith("AAECAwQF")


def test_parts_of_one_item_are_one_text() -> None:
    assert value(item("a "), item("☃"), item(""), item(" b")) == "a ☃ b"


def test_parts_that_look_like_json_are_kept_to_the_letter() -> None:
    """One JSON value in one part is a value; in several it is text, spaces, order and numbers as written."""
    parts = ['{"b": 1.0,  "a":2}', '{"n": 12345678901234567890}', "[1]"]
    assert value(*(item(part) for part in parts)) == "".join(parts)
    assert value(item("text "), item('{"a": 1.0}')) == 'text {"a": 1.0}'


def test_nodes_runs_and_items_are_told_apart_in_the_order_in_which_they_began() -> None:
    pieces = [
        item("a0", "A"),
        item('{"n":1}', "B"),
        item("a0 too", "A"),
        item("a1", "A", item=1),
        item("a0 again", "A", run=1),
    ]
    assert value(*pieces) == ["a0a0 too", {"n": 1}, "a1", "a0 again"]


def test_two_nodes_of_one_name_are_told_apart_by_id() -> None:
    first, second = Node("1", "Same", 0, 0), Node("2", "Same", 0, 0)
    assert value(NodeItem(first, "a"), NodeItem(second, "b")) == ["a", "b"]


@pytest.mark.parametrize("content", ["a\x00b", "\x00", '{"k\\u0000":"v\\u0000"}', "\x7f\x01", "\U0001f600"])
def test_control_characters_are_kept(content: str) -> None:
    expected = json.loads(content) if content.startswith("{") else content
    assert value(item(content)) == expected


def test_a_value_ends_at_the_limit_and_says_so() -> None:
    output = put_out(item("x" * 6), item("y" * 4), item("z"), limit=10)
    assert (message_to_json_value(output.value()), output.truncated) == ("x" * 6 + "y" * 4, True)  # type: ignore[arg-type]


def test_what_fits_to_the_byte_is_whole() -> None:
    output = put_out(item("x" * 10), limit=10)
    assert (message_to_json_value(output.value()), output.truncated) == ("x" * 10, False)  # type: ignore[arg-type]


def test_nothing_comes_after_the_gap() -> None:
    """A smaller chunk that would fit again must not hide that something is missing before it."""
    output = put_out(item("x"), item("y" * 100), item("z"), limit=10)
    assert (message_to_json_value(output.value()), output.truncated) == ("x", True)  # type: ignore[arg-type]


def test_an_output_that_does_not_fit_at_all_is_none() -> None:
    output = put_out(document(b'"' + b"x" * 100 + b'"'), limit=10)
    assert output.value() is None
    assert output.truncated


@pytest.mark.parametrize("size", [1, 3, 7])
def test_n8n_s_own_lines_become_the_value_however_they_arrive(size: int) -> None:
    node = {"nodeId": "1", "nodeName": "A", "itemIndex": 0, "runIndex": 0, "timestamp": 1}
    contents = ["Hel", "lo \x00", "☃", '{"a": 1}']
    lines = [{"type": "begin", "metadata": node}]
    lines += [{"type": "item", "content": content, "metadata": node} for content in contents]
    lines += [{"type": "end", "metadata": node}]
    body = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
    reader = BodyReader("application/json", document_limit=LIMIT, line_limit=LIMIT)
    pieces = [piece for at in range(0, len(body), size) for piece in reader.feed(body[at : at + size])]
    assert value(*pieces, *reader.finish()) == 'Hello \x00☃{"a": 1}'


@pytest.mark.parametrize("piece", [document, lambda data: item(data.decode())], ids=["document", "item"])
def test_json_of_too_many_values_is_handed_on_as_text(piece: Any) -> None:
    """Making that many values would keep everybody else waiting."""
    data = b"[" + b"1," * 300_000 + b"1]"
    told = chunk(piece(data))
    assert told.content.field == "text"
    assert told.content.value == data.decode()


def test_a_stream_s_items_have_no_more_values_together_than_a_document() -> None:
    """What comes after them is text, however many small pieces it comes in."""
    half = json.dumps([0] * (MAX_VALUES // 2))
    assert value(item(half, item=0), item("x", item=1), item(half, item=2), item("{", item=3)) == [
        json.loads(half),
        "x",
        json.loads(half),
        "{",
    ]
    more = (item(half, item=number) for number in range(3))
    assert value(*more, item("[]", item=3)) == [json.loads(half), json.loads(half), half, "[]"]


def test_more_outputs_than_values_end_the_value() -> None:
    output = put_out(*(item("", item=number) for number in range(MAX_VALUES + 1)))
    joined = output.value()
    assert joined is not None
    assert (len(message_to_json_value(joined)), output.truncated) == (MAX_VALUES, True)  # type: ignore[arg-type]


def test_a_document_of_as_many_values_as_there_may_be_is_json() -> None:
    assert value(document(json.dumps([0] * MAX_VALUES).encode())) == [0] * MAX_VALUES


def test_more_chunks_than_may_be_end_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "MAX_CHUNKS", 3)
    output = put_out(item("a"), item(""), item("b"), item(""))
    assert (message_to_json_value(output.value()), output.truncated) == ("ab", True)  # type: ignore[arg-type]
