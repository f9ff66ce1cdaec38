"""What n8n puts out, as events for readers and as the one value that Execute answers with."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Literal, TypeVar

from protobuf import Oneof
from protobuf.wkt import ListValue, Struct, Value

from gateway.adapters.n8n.body import Document, DocumentKind, NodeBegin, NodeEnd, NodeItem
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionChunk, NodeFinished, NodeStarted

if TYPE_CHECKING:
    from gateway.adapters.n8n.body import Node, Piece

    Event = (
        Oneof[Literal["chunk"], ExecutionChunk]
        | Oneof[Literal["node_started"], NodeStarted]
        | Oneof[Literal["node_finished"], NodeFinished]
    )
    Content = Oneof[Literal["json"], Value] | Oneof[Literal["text"], str] | Oneof[Literal["data"], bytes]

Placed = TypeVar("Placed", ExecutionChunk, NodeStarted, NodeFinished)

MAX_VALUES = 250_000
"""JSON of more values is handed on as text."""

JSON = "application/json"
TEXT = "text/plain"

# Where a number beyond a double may be: an exponent of three digits, or so many digits before a shorter one.
_HUGE = r"[0-9][eE]\+?0*[1-9][0-9]{2}|(?<![0-9])[0-9]{200}"
_HUGE_TEXT, _HUGE_BYTES = re.compile(_HUGE), re.compile(_HUGE.encode())


def event_of(piece: Piece) -> tuple[Event, str | bytes] | None:
    """The event that tells of a piece, and its content as n8n sent it; None where there is nothing."""
    match piece:
        case NodeItem(node, content):
            chunk = _at(node, ExecutionChunk)
            chunk.content, chunk.content_type = _item(content)
            return _chunk(chunk), content
        case NodeBegin(node):
            return Oneof[Literal["node_started"], NodeStarted]("node_started", _at(node, NodeStarted)), ""
        case NodeEnd(node):
            finished = _at(node, NodeFinished)
            return Oneof[Literal["node_finished"], NodeFinished]("node_finished", finished), ""
        case Document() if piece.data:
            content_of, content_type = _document(piece)
            return _chunk(ExecutionChunk(content_type=content_type, content=content_of)), piece.data
    return None


class Output:
    """Joins the chunks of a run into one value, as long as they fit in `limit` bytes.

    A document is that value. Of a stream, what one node put out for one item is joined:
    a lone JSON value stays what it is, all else becomes one text. One such output is
    the value; several are a list in the order in which they began. Bytes become
    `{"content_type": …, "base64": …}`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._outputs: dict[tuple[str, int, int], tuple[ExecutionChunk, list[str | bytes]]] = {}
        self.truncated = False

    def add(self, chunk: ExecutionChunk, raw: str | bytes) -> None:
        """Take a chunk, and its content as n8n sent it; the first that does not fit ends the value there."""
        self._size += len(raw)
        if self.truncated or self._size > self._limit:
            self.truncated = True
            return
        key = (chunk.node_id, chunk.run_index, chunk.item_index)
        self._outputs.setdefault(key, (chunk, []))[1].append(raw)

    def value(self) -> Value | None:
        """The joined value; None when the run put out nothing."""
        outputs = [_joined(first, parts) for first, parts in self._outputs.values()]
        if len(outputs) > 1:
            return Value(
                kind=Oneof[Literal["list_value"], ListValue]("list_value", ListValue(values=outputs))
            )
        return outputs[0] if outputs else None


def _at(node: Node, kind: type[Placed]) -> Placed:
    """A message of what happened at a node, in one of its runs, for one of its items."""
    return kind(node_id=node.id, node_name=node.name, run_index=node.run_index, item_index=node.item_index)


def _item(content: str) -> tuple[Content, str]:
    """An object or array that n8n encoded a second time is JSON; all else is text."""
    if content[:1] in ("{", "["):
        value = _json(content)
        if value is not None:
            return _json_content(value), JSON
    return _text_content(content), TEXT


def _document(document: Document) -> tuple[Content, str]:
    if document.kind is DocumentKind.JSON:
        value = _json(document.data)
        if value is not None:
            return _json_content(value), JSON
    if document.kind in (DocumentKind.JSON, DocumentKind.TEXT):
        return _text_content(document.data.decode()), document.content_type
    return _bytes_content(document.data), document.content_type


def _chunk(chunk: ExecutionChunk) -> Oneof[Literal["chunk"], ExecutionChunk]:
    return Oneof("chunk", chunk)


def _json_content(value: Value) -> Oneof[Literal["json"], Value]:
    return Oneof("json", value)


def _text_content(text: str) -> Oneof[Literal["text"], str]:
    return Oneof("text", text)


def _bytes_content(data: bytes) -> Oneof[Literal["data"], bytes]:
    return Oneof("data", data)


def _json(text: str | bytes) -> Value | None:
    """The value; None for what protobuf's JSON cannot hold, or not at a bearable price.

    Numbers beyond a double, nesting too deep, and more than MAX_VALUES values: making
    those would keep the whole gateway waiting, and take many times the memory of the text.
    """
    if _most_values(text) > MAX_VALUES:
        return None
    huge = _HUGE_TEXT.search(text) if isinstance(text, str) else _HUGE_BYTES.search(text)
    try:
        value = Value.from_json(text)
        if huge:
            value.to_json()  # refuses the infinity that such a number has become
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return value


def _most_values(text: str | bytes) -> int:
    """At least as many as there are values in the text; marks within strings are counted too."""
    if isinstance(text, str):
        return text.count(",") + text.count("[") + text.count("{")
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _joined(first: ExecutionChunk, parts: list[str | bytes]) -> Value:
    content = first.content
    if len(parts) == 1 and content is not None and content.field == "json":
        return content.value
    if content is not None and content.field == "data" and isinstance(parts[0], bytes):
        return _bytes_value(first.content_type, parts[0])
    return _string("".join(part if isinstance(part, str) else part.decode() for part in parts))


def _bytes_value(content_type: str, data: bytes) -> Value:
    fields = {"content_type": _string(content_type), "base64": _string(base64.b64encode(data).decode())}
    return Value(kind=Oneof[Literal["struct_value"], Struct]("struct_value", Struct(fields=fields)))


def _string(text: str) -> Value:
    return Value(kind=Oneof[Literal["string_value"], str]("string_value", text))
