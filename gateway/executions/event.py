"""The events of a run, as its log keeps them.

To make a message of the contract and to print it costs several times what its parts do, and nearly all events
of a stream tell of text that a node puts out. So an event is kept as its parts, and one of a node is printed
from them, in protobuf's binary form (protobuf.dev/programming-guides/encoding) and in ProtoJSON: to the same
meaning as its message has, though not byte for byte.
"""

from __future__ import annotations

import time
from functools import cached_property, lru_cache
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
_JSON_NAMES = {
    as_in_proto: {
        field.name: field.name if as_in_proto else field.json_name
        for kind in (ExecutionEvent, ExecutionChunk)
        for field in kind.desc().fields
    }
    for as_in_proto in (True, False)
}


class Moment:
    """A time, and how it is printed: many events share one."""

    def __init__(self, nanoseconds: int) -> None:
        self._nanoseconds = nanoseconds

    @cached_property
    def timestamp(self) -> Timestamp:
        """The message that tells of it."""
        seconds, nanos = divmod(self._nanoseconds, 10**9)
        return Timestamp(seconds=seconds, nanos=nanos)

    @cached_property
    def binary(self) -> bytes:
        """The field of ExecutionEvent that tells of it."""
        return _delimited(_EVENT["time"], self.timestamp.to_binary())

    @cached_property
    def text(self) -> str:
        """As JSON says it, without the quotes."""
        text: str = orjson.loads(self.timestamp.to_json())
        return text

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
        field, node = self.event.field, self.event.node
        told = _named_binary(field, node.id, node.name)
        if node.run_index:
            told += b"%c%b" % (_CHUNK["run_index"] << 3, _varint(node.run_index))
        if node.item_index:
            told += b"%c%b" % (_CHUNK["item_index"] << 3, _varint(node.item_index))
        if field == "chunk":
            told += _delimited(_CHUNK["text"], self.event.text.encode())
        return b"%b%c%b%b%b" % (
            _execution_binary(self.execution_id),
            _EVENT["sequence"] << 3,
            _varint(self.sequence),
            self._at.binary,
            _delimited(_EVENT[field], told),
        )

    def to_json(
        self,
        *,
        registry: Registry | None = None,  # noqa: ARG002 - nothing in it that these two could be for
        always_emit_implicit: bool = False,
        print_enums_as_ints: bool = False,  # noqa: ARG002
        use_proto_field_name: bool = False,
    ) -> str:
        """See `ExecutionEvent.to_json`."""
        names, told = _JSON_NAMES[use_proto_field_name], self.event
        node = told.node
        place = _place_json(
            *(told.field, node.id, node.name, node.run_index, node.item_index),
            as_in_proto=use_proto_field_name,
            emit_defaults=always_emit_implicit,
        )
        text = f',"text":{orjson.dumps(told.text).decode()}' if told.field == "chunk" else ""
        return (
            f'{{"{names["execution_id"]}":"{self.execution_id}","sequence":{self.sequence},'
            f'"time":"{self._at.text}","{names[told.field]}":{place}{text}}}}}'
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
def _named_binary(field: NodeField, node_id: str, node_name: str) -> bytes:
    return _named(field, node_id, node_name).to_binary()


@lru_cache(_REMEMBERED)
def _place_json(
    field: NodeField,
    node_id: str,
    node_name: str,
    run_index: int,
    item_index: int,
    *,
    as_in_proto: bool,
    emit_defaults: bool,
) -> str:
    """All but the text, and without the closing brace."""
    names = _JSON_NAMES[as_in_proto]
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


def _delimited(number: int, data: bytes) -> bytes:
    """A field of text, bytes or a message."""
    return b"%c%b%b" % (number << 3 | _LENGTH_DELIMITED, _varint(len(data)), data)


@lru_cache(_REMEMBERED)
def _varint(number: int) -> bytes:
    """A number that is not negative."""
    low, high = number & 0x7F, number >> 7
    return b"%c%b" % (low | 0x80, _varint(high)) if high else b"%c" % low
