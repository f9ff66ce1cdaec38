"""What the body of an answer is made of: the lines of a stream, or one document."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

NAME_CHARACTERS = 255
"""Of a node's id, and of its name. Each event of a run has both, and so have an error and its record."""

_Index = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Name = Annotated[str, Meta(max_length=NAME_CHARACTERS)]
_NODE = {
    "id": "nodeId",
    "name": "nodeName",
    "run_index": "runIndex",
    "item_index": "itemIndex",
}
"""What n8n calls them."""


class Node(Struct, frozen=True, gc=False, rename=_NODE.get):
    """The node a line is about. Indices count from 0."""

    id: _Name
    name: _Name
    run_index: _Index
    item_index: _Index


class _Line(Struct, gc=False, tag_field="type", rename={"node": "metadata"}.get):
    node: Node


class NodeBegin(_Line, tag="begin"):
    """A node starts to send one item."""


class NodeItem(_Line, tag="item"):
    """A part of the item: text as it is, an object or array as JSON text, which n8n does not mark."""

    content: str = ""


class NodeEnd(_Line, tag="end"):
    """The item is whole."""


class NodeError(_Line, tag="error"):
    """The node failed. n8n says no more than that."""


class DocumentKind(Enum):
    """What a document turned out to be."""

    JSON = "json"
    TEXT = "text"
    BYTES = "bytes"
    EMPTY = "empty"


@dataclass(slots=True)
class Document:
    """A body that is no stream.

    JSON and text are UTF-8 without a byte order mark. JSON is valid, to the depth of 1024.
    `content_type` is the declared one where it agrees with `kind`, else the usual one of
    that kind; empty for nothing.
    """

    kind: DocumentKind
    content_type: str
    data: bytes


Piece: TypeAlias = NodeBegin | NodeItem | NodeEnd | NodeError | Document
