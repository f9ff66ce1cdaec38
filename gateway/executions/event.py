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
from msgspec import Struct
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

    from gateway.adapters.n8n.pieces import Node

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
_NUMBERS_REMEMBERED: Final = 4096
_LENGTH_DELIMITED: Final = 2
_EVENT = {field.name: field.number for field in ExecutionEvent.desc().fields}
_CHUNK = {field.name: field.number for field in ExecutionChunk.desc().fields}
_SECONDS, _NANOS = (field.number for field in Timestamp.desc().fields)
_KEYS = {name: bytes([number << 3 | _LENGTH_DELIMITED]) for name, number in _EVENT.items()}
_SEQUENCE_KEY = bytes([_EVENT["sequence"] << 3])
_LONG = 5
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
            self._binary = _second_binary(self._seconds) + _long_varint(self._nanos)
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


class AtNode(Struct, gc=False):
    """What a node does, in one of its runs, for one of its items: it starts, puts out `text`, or finishes.

    It reads like the Oneof of an ExecutionEvent.
    """

    field: NodeField
    node: Node
    text: str = ""

    @property
    def value(self) -> ExecutionChunk | NodeStarted | NodeFinished:
        """The message that tells of it."""
        message = _named(self.field, self.node)
        if isinstance(message, ExecutionChunk):
            message.content = Oneof[Literal["text"], str]("text", self.text)
        return message


class NodeEvent(Struct, gc=False):
    """The event of a run that tells what a node does: printed as an ExecutionEvent, and read like one."""

    execution_id: str
    sequence: int
    at: Moment
    event: AtNode

    @staticmethod
    def desc() -> DescMessage:
        """The type of the message."""
        return ExecutionEvent.desc()

    @property
    def time(self) -> Timestamp:
        """When the gateway saw it."""
        return self.at.timestamp

    def message(self) -> ExecutionEvent:
        """The event as a message."""
        told: Any = Oneof(self.event.field, self.event.value)
        return ExecutionEvent(
            execution_id=self.execution_id, sequence=self.sequence, time=self.time, event=told
        )

    def to_binary(self) -> bytes:
        """See `ExecutionEvent.to_binary`."""
        event = self.event
        place = _place_binary(event.field, event.node)
        text = length = b""
        if event.field == "chunk":
            text = event.text.encode()
            length = _varint(len(text))
        size = _varint(len(place) + len(length) + len(text))
        head, sequence = _execution_binary(self.execution_id), _varint(self.sequence)
        return b"".join((head, sequence, self.at.binary, _KEYS[event.field], size, place, length, text))

    def to_json(
        self,
        *,
        registry: Registry | None = None,  # noqa: ARG002 - nothing in it that these two could be for
        always_emit_implicit: bool = False,
        print_enums_as_ints: bool = False,  # noqa: ARG002
        use_proto_field_name: bool = False,
    ) -> str:
        """See `ExecutionEvent.to_json`."""
        event = self.event
        head = _execution_json(self.execution_id, use_proto_field_name)
        place = _place_json(event.field, event.node, use_proto_field_name, always_emit_implicit)
        text = orjson.dumps(event.text).decode() if event.field == "chunk" else ""
        return f'{head}{self.sequence},"time":"{self.at.text}",{place}{text}}}}}'


def _named(field: NodeField, node: Node) -> ExecutionChunk | NodeStarted | NodeFinished:
    """The message of what happens there, without the text."""
    place: Any = {
        "node_id": node.id,
        "node_name": node.name,
        "run_index": node.run_index,
        "item_index": node.item_index,
    }
    match field:
        case "node_started":
            return NodeStarted(**place)
        case "node_finished":
            return NodeFinished(**place)
        case "chunk":
            return ExecutionChunk(**place, content_type=TEXT)


@lru_cache(_REMEMBERED)
def _place_binary(field: NodeField, node: Node) -> bytes:
    """What is told of it, to the length of its text."""
    return _named(field, node).to_binary() + (_TEXT_KEY if field == "chunk" else b"")


@lru_cache(_REMEMBERED)
def _place_json(field: NodeField, node: Node, as_in_proto: bool, emit_defaults: bool) -> str:  # noqa: FBT001 - names cost a dict
    """What is told of it, to its text or its closing brace."""
    names = _JSON_NAMES[as_in_proto]
    printed = _named(field, node).to_json(
        always_emit_implicit=emit_defaults, use_proto_field_name=as_in_proto
    )
    return f'"{names[field]}":{printed[:-1]}' + (f',"{names["text"]}":' if field == "chunk" else "")


@lru_cache(_REMEMBERED)
def _execution_binary(execution_id: str) -> bytes:
    """What comes before the sequence."""
    return ExecutionEvent(execution_id=execution_id).to_binary() + _SEQUENCE_KEY


@lru_cache(_REMEMBERED)
def _execution_json(execution_id: str, as_in_proto: bool) -> str:  # noqa: FBT001
    """What comes before the sequence."""
    return f'{{"{_JSON_NAMES[as_in_proto]["execution_id"]}":"{execution_id}","sequence":'


@lru_cache(2)
def _date_and_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@lru_cache(2)
def _second_binary(seconds: int) -> bytes:
    """The field of a time, to its nanoseconds."""
    printed = b"%c%b%c" % (_SECONDS << 3, _long_varint(seconds), _NANOS << 3)
    return b"%c%c%b" % (_EVENT["time"] << 3 | _LENGTH_DELIMITED, len(printed) + _LONG, printed)


@lru_cache(_NUMBERS_REMEMBERED)
def _varint(number: int) -> bytes:
    """A number that is not negative."""
    groups = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _long_varint(number: int) -> bytes:
    """The same in _LONG bytes, whatever the number: readers take it, and it is made in one step."""
    return bytes(
        (
            number & 0x7F | 0x80,
            number >> 7 & 0x7F | 0x80,
            number >> 14 & 0x7F | 0x80,
            number >> 21 & 0x7F | 0x80,
            number >> 28,
        )
    )
