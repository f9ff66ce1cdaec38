"""What n8n puts out, as events for readers and as the one value that Execute answers with."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Literal

import orjson
from protobuf import Oneof
from protobuf.wkt import ListValue, Struct, Value

from gateway.adapters.n8n.pieces import Document, DocumentKind, NodeBegin, NodeEnd, NodeItem
from gateway.executions.event import AtNode
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionChunk
from gateway.transcoding import MAX_VALUE_DEPTH, Options, is_deeper, json_encoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.adapters.n8n.pieces import Node, Piece

    Heard = AtNode | Oneof[Literal["chunk"], ExecutionChunk]
    Content = Oneof[Literal["json"], Value] | Oneof[Literal["text"], str] | Oneof[Literal["data"], bytes]

MAX_VALUES = 50_000
"""JSON of more values is handed on as text, and so is what would make them more in a run's joined value."""
MAX_CHUNKS = 1 << 20
"""More end a run's joined value, whatever their size: each takes many bytes besides."""

JSON = "application/json"

_encode_value = json_encoder(Value.desc(), Options())

# Where a number beyond a double may be: an exponent of three digits, or so many digits before a shorter one.
# All of it begins with one set of characters, to the next of which a search leaps.
_HUGE = r"[0-9](?:[eE]\+?0*[1-9][0-9]{2}|(?<![0-9]{2})[0-9]{199})"
_HUGE_TEXT, _HUGE_BYTES = re.compile(_HUGE), re.compile(_HUGE.encode())


def event_of(piece: Piece) -> tuple[Heard, str | bytes] | None:
    """The event that tells of a piece, and its content as n8n sent it; None where there is nothing."""
    if isinstance(piece, NodeItem):
        # An object or array that n8n encoded a second time is JSON; all else is text.
        content = piece.content
        value = _json(content) if content[:1] in ("{", "[") else None
        if value is None:
            return AtNode("chunk", piece.node, content), content
        return _json_chunk(piece.node, value), content
    if isinstance(piece, NodeBegin):
        return AtNode("node_started", piece.node), ""
    if isinstance(piece, NodeEnd):
        return AtNode("node_finished", piece.node), ""
    if isinstance(piece, Document) and piece.data:
        content_of, content_type = _document(piece)
        return _chunk(ExecutionChunk(content_type=content_type, content=content_of)), piece.data
    return None


class Output:
    """Joins the chunks of a run into one value, as long as they fit in `limit` bytes.

    A document is that value. Of a stream, what one node put out for one item is joined:
    a lone JSON value stays what it is, all else becomes one text. One such output is
    the value; several are a list in the order in which they began, of no more than
    MAX_VALUES. Bytes become `{"content_type": …, "base64": …}`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = self._chunks = self._values = 0
        self._outputs: dict[tuple[str, int, int], tuple[ExecutionChunk | None, list[str | bytes]]] = {}
        """What each begins with, if that is more than text, and its parts."""
        self.truncated = False

    def extend(self, events: Iterable[tuple[Heard, str | bytes]]) -> None:
        """Take the chunks among events, each with its content as n8n sent it.

        The first that does not fit ends the value there.
        """
        for chunk, raw in events:
            if chunk.field != "chunk":
                continue
            self._size += len(raw)
            self._chunks += 1
            if self.truncated or self._size > self._limit or self._chunks > MAX_CHUNKS:
                self.truncated = True
                return
            if isinstance(chunk, AtNode):
                node = chunk.node
                key = (node.id, node.run_index, node.item_index)
            else:
                message = chunk.value
                key = (message.node_id, message.run_index, message.item_index)
            output = self._outputs.get(key)
            if output is None:
                if len(self._outputs) == MAX_VALUES:
                    self.truncated = True
                    return
                first = None if isinstance(chunk, AtNode) else chunk.value
                output = self._outputs[key] = (self._counted(first, raw), [])
            output[1].append(raw)

    def _counted(self, first: ExecutionChunk | None, raw: str | bytes) -> ExecutionChunk | None:
        """What an output begins with; None where that is text, or JSON that would make too many values."""
        if first is not None and is_json(first):
            values = most_values(raw)
            if self._values + values > MAX_VALUES:
                return None
            self._values += values
        return first

    def json(self) -> bytes | None:
        """The joined value as JSON; None when the run put out nothing."""
        if len(self._outputs) == 1:
            ((first, parts),) = self._outputs.values()
            document = parts[0]
            # What was found to be JSON as a whole is not printed again.
            if isinstance(document, bytes) and first is not None and is_json(first):
                return document
        value = self.value()
        if value is not None and value.kind is not None and value.kind.field == "string_value":
            return orjson.dumps(value.kind.value)  # nothing in it that the encoder would have to look for
        return None if value is None else _encode_value(value)

    def value(self) -> Value | None:
        """The joined value; None when the run put out nothing."""
        outputs = [_joined(first, parts) for first, parts in self._outputs.values()]
        if len(outputs) > 1:
            return Value(
                kind=Oneof[Literal["list_value"], ListValue]("list_value", ListValue(values=outputs))
            )
        return outputs[0] if outputs else None


def is_json(chunk: ExecutionChunk) -> bool:
    """Whether it holds JSON as such, and not as text."""
    return chunk.content is not None and chunk.content.field == "json"


def most_values(json: str | bytes) -> int:
    """How many values JSON has at most, nearly: its commas and the brackets that open, also in strings."""
    return sum(_marks(json))


def _json_chunk(node: Node, value: Value) -> Oneof[Literal["chunk"], ExecutionChunk]:
    return _chunk(
        ExecutionChunk(
            node_id=node.id,
            node_name=node.name,
            run_index=node.run_index,
            item_index=node.item_index,
            content_type=JSON,
            content=_json_content(value),
        )
    )


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

    Numbers beyond a double, nesting deeper than MAX_VALUE_DEPTH, which others could not read, and
    more than MAX_VALUES values: making those would keep the whole gateway waiting, and take many
    times the memory of the text.
    """
    brackets, commas = _marks(text)
    if brackets + commas > MAX_VALUES:
        return None
    if brackets > MAX_VALUE_DEPTH and is_deeper(
        text.encode() if isinstance(text, str) else text, MAX_VALUE_DEPTH
    ):
        return None
    huge = _HUGE_TEXT.search(text) if isinstance(text, str) else _HUGE_BYTES.search(text)
    try:
        value = Value.from_json(text)
        if huge:
            value.to_json()  # refuses the infinity that such a number has become
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return value


def _marks(text: str | bytes) -> tuple[int, int]:
    """How many brackets open and how many commas there are in the text, those within strings among them."""
    if isinstance(text, str):
        return text.count("[") + text.count("{"), text.count(",")
    return text.count(b"[") + text.count(b"{"), text.count(b",")


def _joined(first: ExecutionChunk | None, parts: list[str | bytes]) -> Value:
    if first is not None and first.content is not None:
        content = first.content
        if content.field == "json" and len(parts) == 1:
            return content.value
        if content.field == "data" and isinstance(parts[0], bytes):
            return _bytes_value(first.content_type, parts[0])
    return _string("".join(part if isinstance(part, str) else part.decode() for part in parts))


def _bytes_value(content_type: str, data: bytes) -> Value:
    fields = {"content_type": _string(content_type), "base64": _string(base64.b64encode(data).decode())}
    return Value(kind=Oneof[Literal["struct_value"], Struct]("struct_value", Struct(fields=fields)))


def _string(text: str) -> Value:
    return Value(kind=Oneof[Literal["string_value"], str]("string_value", text))
