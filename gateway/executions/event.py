"""The events of a run, as its log keeps them.

To make a message of the contract and to print it costs several times what its parts do, and nearly all events
of a stream tell of text that a node puts out. So an event is kept as its parts, and one of a node is printed
from them, in protobuf's binary form (protobuf.dev/programming-guides/encoding) and in ProtoJSON: to the same
meaning as its message has, though not byte for byte.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import orjson
from protobuf import Oneof
from protobuf.wkt import Timestamp

from gateway.gen.n8ngateway.v1.execution_event_pb import (
    ExecutionChunk,
    ExecutionCompleted,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionStarted,
    NodeFinished,
    NodeStarted,
)

if TYPE_CHECKING:
    from protobuf import DescMessage, Registry

    from gateway.adapters.n8n.body import Node

    NodeField: TypeAlias = Literal["node_started", "chunk", "node_finished"]
    Place: TypeAlias = tuple[NodeField, str, str, int, int]
    """What happens, and where: node id and name, run index and item index."""
    Told: TypeAlias = (
        Oneof[Literal["started"], ExecutionStarted]
        | Oneof[Literal["node_started"], NodeStarted]
        | Oneof[Literal["chunk"], ExecutionChunk]
        | Oneof[Literal["node_finished"], NodeFinished]
        | Oneof[Literal["failed"], ExecutionFailed]
        | Oneof[Literal["completed"], ExecutionCompleted]
    )
    """What a message can tell."""
    Event: TypeAlias = "NodeEvent | ExecutionEvent"

TEXT: Final = "text/plain"

_REMEMBERED: Final = 1024
_LENGTH_DELIMITED: Final = 2
_EVENT = {field.name: field.number for field in ExecutionEvent.desc().fields}
_CHUNK = {field.name: field.number for field in ExecutionChunk.desc().fields}
_SECONDS, _NANOS = (field.number for field in Timestamp.desc().fields)
_KEYS = {name: bytes([number << 3 | _LENGTH_DELIMITED]) for name, number in _EVENT.items()}
_SEQUENCE_KEY = bytes([_EVENT["sequence"] << 3])
_TEXT_KEY = bytes([_CHUNK["text"] << 3 | _LENGTH_DELIMITED])
_JSON_NAMES = {
    as_in_proto: {
        field.name: field.name if as_in_proto else field.json_name
        for kind in (ExecutionEvent, ExecutionChunk)
        for field in kind.desc().fields
    }
    for as_in_proto in (True, False)
}


class Moment:
    """A time, and how it is printed: many events share one, and many are never printed."""

    __slots__ = ("_binary", "_nanos", "_seconds", "_text")

    def __init__(self, nanoseconds: int) -> None:
        self._seconds, self._nanos = divmod(nanoseconds, 10**9)
        self._binary, self._text = b"", ""

    @property
    def timestamp(self) -> Timestamp:
        """The message that tells of it."""
        return Timestamp(seconds=self._seconds, nanos=self._nanos)

    @property
    def binary(self) -> bytes:
        """The field of ExecutionEvent that tells of it."""
        if not self._binary:
            seconds, nanos = _varint(self._seconds), _varint(self._nanos)
            printed = b"%c%b%c%b" % (_SECONDS << 3, seconds, _NANOS << 3, nanos)
            self._binary = _delimited(_EVENT["time"], printed)
        return self._binary

    @property
    def text(self) -> str:
        """As JSON says it, without the quotes."""
        if not self._text:
            nanos = f".{self._nanos:09d}".removesuffix("000").removesuffix("000") if self._nanos else ""
            self._text = f"{_date_and_time(self._seconds)}{nanos}Z"
        return self._text

    @classmethod
    def now(cls) -> Moment:
        """The present."""
        return cls(time.time_ns())


class AtNode:
    """What a node does, in one of its runs, for one of its items: it starts, puts out `text`, or finishes.

    It reads like the Oneof of an ExecutionEvent.
    """

    __slots__ = ("field", "node", "text")

    def __init__(self, field: NodeField, node: Node, text: str = "") -> None:
        self.field = field
        self.node = node
        self.text = text

    @property
    def value(self) -> ExecutionChunk | NodeStarted | NodeFinished:
        """The message that tells of it."""
        node = self.node
        message = _named(self.field, node.id, node.name)
        message.run_index, message.item_index = node.run_index, node.item_index
        if isinstance(message, ExecutionChunk):
            message.content = Oneof[Literal["text"], str]("text", self.text)
        return message


class NodeEvent:
    """The event of a run that tells what a node does: printed as an ExecutionEvent, and read like one."""

    __slots__ = ("_at", "event", "execution_id", "sequence")

    def __init__(self, execution_id: str, sequence: int, at: Moment, event: AtNode) -> None:
        self.execution_id = execution_id
        self.sequence = sequence
        self.event = event
        self._at = at

    @staticmethod
    def desc() -> DescMessage:
        """The type of the message."""
        return ExecutionEvent.desc()

    @property
    def time(self) -> Timestamp:
        """When the gateway saw it."""
        return self._at.timestamp

    def message(self) -> ExecutionEvent:
        """The event as a message."""
        told: Any = Oneof(self.event.field, self.event.value)
        return ExecutionEvent(
            execution_id=self.execution_id, sequence=self.sequence, time=self._at.timestamp, event=told
        )

    def to_binary(self) -> bytes:
        """See `ExecutionEvent.to_binary`."""
        event, node = self.event, self.event.node
        told = _place_binary((event.field, node.id, node.name, node.run_index, node.item_index))
        if event.field == "chunk":
            text = event.text.encode()
            told = b"".join((told, _TEXT_KEY, _length(len(text)), text))
        head = _execution_binary(self.execution_id)
        sequence, size = _length(self.sequence), _length(len(told))
        return b"".join((head, _SEQUENCE_KEY, sequence, self._at.binary, _KEYS[event.field], size, told))

    def to_json(
        self,
        *,
        registry: Registry | None = None,  # noqa: ARG002 - nothing in it that these two could be for
        always_emit_implicit: bool = False,
        print_enums_as_ints: bool = False,  # noqa: ARG002
        use_proto_field_name: bool = False,
    ) -> str:
        """See `ExecutionEvent.to_json`."""
        names, event = _JSON_NAMES[use_proto_field_name], self.event
        node = event.node
        place = event.field, node.id, node.name, node.run_index, node.item_index
        told = _place_json(place, use_proto_field_name, always_emit_implicit)
        text = f',"text":{orjson.dumps(event.text).decode()}' if event.field == "chunk" else ""
        return (
            f'{{"{names["execution_id"]}":"{self.execution_id}","sequence":{self.sequence},'
            f'"time":"{self._at.text}","{names[event.field]}":{told}{text}}}}}'
        )


def _named(field: NodeField, node_id: str, node_name: str) -> ExecutionChunk | NodeStarted | NodeFinished:
    match field:
        case "node_started":
            return NodeStarted(node_id=node_id, node_name=node_name)
        case "node_finished":
            return NodeFinished(node_id=node_id, node_name=node_name)
        case "chunk":
            return ExecutionChunk(node_id=node_id, node_name=node_name, content_type=TEXT)


@lru_cache(_REMEMBERED)
def _place_binary(place: Place) -> bytes:
    """All but the text."""
    field, node_id, node_name, run_index, item_index = place
    message = _named(field, node_id, node_name)
    message.run_index, message.item_index = run_index, item_index
    return message.to_binary()


@lru_cache(_REMEMBERED)
def _place_json(place: Place, as_in_proto: bool, emit_defaults: bool) -> str:  # noqa: FBT001 - names cost a dict
    """All but the text, and without the closing brace."""
    names = _JSON_NAMES[as_in_proto]
    field, node_id, node_name, run_index, item_index = place
    members: dict[str, str | int] = {
        "node_id": node_id,
        "node_name": node_name,
        "run_index": run_index,
        "item_index": item_index,
    }
    printed = {names[name]: value for name, value in members.items() if value or emit_defaults}
    if field == "chunk":
        printed[names["content_type"]] = TEXT
    return orjson.dumps(printed).decode()[:-1]


@lru_cache(_REMEMBERED)
def _execution_binary(execution_id: str) -> bytes:
    return ExecutionEvent(execution_id=execution_id).to_binary()


@lru_cache(2)
def _date_and_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _delimited(number: int, data: bytes) -> bytes:
    """A field of text, bytes or a message."""
    return b"%c%b%b" % (number << 3 | _LENGTH_DELIMITED, _varint(len(data)), data)


def _varint(number: int) -> bytes:
    """A number that is not negative."""
    groups = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


_length = lru_cache(_REMEMBERED)(_varint)
