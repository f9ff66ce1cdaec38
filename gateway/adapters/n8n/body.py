"""Reads the body of n8n's answer to a webhook call, without any I/O.

A workflow answers with a stream of lines or with one document, and the header does not
tell which: both say ``application/json``. So the body is sniffed. It is a stream when its
first line is a stream line, and a document otherwise (or when one is all that is expected)::

    body     = stream / document
    stream   = 1*( line LF )
    line     = JSON object, {"type": "begin" / "item" / "end" / "error",
                             "content": string, only with "item",
                             "metadata": {"nodeId", "nodeName": string,
                                          "runIndex", "itemIndex": integer, …}}
    document = JSON / text / bytes / nothing

Blank lines are skipped, and so are lines of a type that is not known (a newer n8n).
Only the end of the HTTP body ends a stream, so its last line must have its newline.
A stream that holds an error line has failed, though it ends as one that has not.

::

    BodyError                 .pieces: what was complete before the fault
    ├── MalformedBody         it is not what it says, or it was cut off
    │   ├── MalformedStream   a line is not a stream line, or the last one was cut
    │   └── TruncatedJson     a document declared as JSON ends before its end
    └── BodyTooLarge
        ├── LineTooLong       a line of a stream is over line_limit
        ├── NameTooLong       the id or the name of a line's node is over NAME_CHARACTERS
        └── DocumentTooLarge  a document is over document_limit
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import islice
from typing import Any

import orjson
from msgspec import DecodeError, ValidationError, convert
from msgspec.json import Decoder

from gateway.adapters.n8n.pieces import (
    NAME_CHARACTERS,
    Document,
    DocumentKind,
    NodeBegin,
    NodeEnd,
    NodeError,
    NodeItem,
    Piece,
)

MOST_LINES = 256
"""Read at one time: one that is not as n8n writes them takes ten microseconds, and the loop waits for all."""

_LINE_START = b'{"type":"'
# A backslash and what it escapes; group 1 is half of a surrogate pair without its other half.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|[\s\S])"
)
_TEXT_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_JSON_TYPE = re.compile(r"application/json|text/json|.+\+json")
_TEXT_TYPE = re.compile(
    r"text/.+|.+\+xml|application/(xml|javascript|yaml|x-yaml|x-ndjson|x-www-form-urlencoded)"
)


class BodyError(Exception):
    """The body cannot be read on. `pieces` were complete before the fault."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.pieces: list[Piece] = []


class MalformedBody(BodyError):
    """The body is not what it says, or it was cut off."""


class MalformedStream(MalformedBody):
    """A line of a stream is not a stream line, or the last one was cut."""


class TruncatedJson(MalformedBody):
    """A document declared as JSON ends before its end."""


class BodyTooLarge(BodyError):
    """The body is over a limit."""


class LineTooLong(BodyTooLarge):
    """A line of a stream is over the limit for lines."""


class NameTooLong(BodyTooLarge):
    """The id or the name of a line's node is over NAME_CHARACTERS."""


class DocumentTooLarge(BodyTooLarge):
    """A document is over the limit for documents."""


class Expected(Enum):
    """What a body may be."""

    ANY = "any"
    """Whichever it turns out to be."""
    DOCUMENT = "document"
    """One document, also when its lines look like those of a stream."""
    STREAM = "stream"
    """A stream, of no lines at least; a document is not acceptable."""


class BodyReader:
    """Turns the bytes of one body, cut anywhere, into pieces as soon as they are complete.

    `content_type` is the header as it came; the body is sniffed unless `is_document` says what it is.
    A document may have `document_limit` bytes, a line of a stream `line_limit` bytes, and a stream
    any number of lines. Memory is bounded by the
    larger of the limits and the longest `data` fed. After an error the reader is spent.
    """

    __slots__ = ("_content_type", "_document_limit", "_is_stream", "_left", "_line_limit", "_pending")

    def __init__(
        self, content_type: str | None, *, document_limit: int, line_limit: int, is_document: bool = False
    ) -> None:
        self._content_type = content_type
        self._document_limit = document_limit
        self._line_limit = line_limit
        self._pending = bytearray()
        self._left: Iterator[bytes] | None = None
        self._is_stream: bool | None = False if is_document else None

    @property
    def has_more(self) -> bool:
        """Whether `more` is to be called before the next bytes, or the end."""
        return self._left is not None

    def feed(self, data: bytes) -> list[Piece]:
        """Take the next bytes; give the pieces that they complete, of MOST_LINES lines at once.

        Raises MalformedStream, LineTooLong, NameTooLong, DocumentTooLarge.
        """
        if self._is_stream is None:
            return self._sniff(data)
        return self._lines(data) if self._is_stream else self._gather(data)

    def more(self) -> list[Piece]:
        """Give the pieces of the next MOST_LINES lines.

        Raises MalformedStream, LineTooLong, NameTooLong.
        """
        lines = [*islice(self._left or (), MOST_LINES)]
        if len(lines) < MOST_LINES:
            self._left = None
        return self._pieces(lines)

    def finish(self) -> list[Piece]:
        """Take the end of the body; give its document, if it was one.

        Raises MalformedStream, TruncatedJson, DocumentTooLarge.
        """
        rest = bytes(self._pending)
        self._pending.clear()
        if self._is_stream:
            if rest.strip():
                raise MalformedStream("the stream ends inside a line")
            return []
        if self._is_stream is None and rest.startswith(_LINE_START) and _is_stream_line(rest):
            raise MalformedStream("the stream ends inside its first line")
        self._check_document(len(rest), self._document_limit)
        return [_document(rest, self._content_type)]

    def _sniff(self, data: bytes) -> list[Piece]:
        end = data.find(b"\n")
        if end < 0:
            self._pending += data
            # Still either one: held to the larger limit, so that the cuts make no difference.
            self._check_document(len(self._pending), max(self._document_limit, self._line_limit))
            return []
        first = bytes(self._pending + data[:end]).removeprefix(BOM_UTF8)
        if len(first) > self._line_limit or not _is_stream_line(first):
            self._is_stream = False
            return self._gather(data)
        self._pending.clear()
        self._is_stream = True
        return self._lines(first + data[end:])

    def _gather(self, data: bytes) -> list[Piece]:
        self._pending += data
        self._check_document(len(self._pending), self._document_limit)
        return []

    def _lines(self, data: bytes) -> list[Piece]:
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._pending:
            self._pending += lines[0]
            lines[0] = bytes(self._pending)
            self._pending.clear()
        self._pending += rest
        if len(lines) > MOST_LINES:
            self._left = filter(None, lines)
            return self.more()
        return self._pieces(lines)

    def _pieces(self, lines: list[bytes]) -> list[Piece]:
        pieces: list[Piece] = []
        limit = self._line_limit
        try:
            for line in filter(None, lines):
                if len(line) > limit:
                    raise LineTooLong(f"a line of the stream is over {limit} bytes")
                if line.isspace():
                    continue
                piece = _piece(line)
                if piece is not None:
                    pieces.append(piece)
            if self._left is None and len(self._pending) > limit:
                raise LineTooLong(f"a line of the stream is over {limit} bytes")
        except BodyError as error:
            error.pieces = pieces
            raise
        return pieces

    def _check_document(self, length: int, limit: int) -> None:
        if length > limit:
            raise DocumentTooLarge(f"the document is over {self._document_limit} bytes")


def _is_stream_line(line: bytes) -> bool:
    try:
        return _piece(line) is not None
    except MalformedStream:
        return False


def _piece(line: bytes) -> Piece | None:
    """Read one line; None for a type that is not known."""
    try:
        return _decode(line)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return _unusual(line)


def _unusual(line: bytes) -> Piece | None:
    """Read a line that is not one as n8n nearly always writes them."""
    try:
        value, _ = _loads(line)
    except orjson.JSONDecodeError as error:
        raise MalformedStream("a line of the stream is not JSON") from error
    if type(value) is not dict or type(value.get("type")) is not str:
        raise MalformedStream("a line of the stream has no type")
    if value["type"] not in _TYPES:
        return None
    content = value.get("content", "")
    if type(content) is not str:
        value["content"] = orjson.dumps(content).decode()
    try:
        piece: Piece = convert(value, NodeBegin | NodeItem | NodeEnd | NodeError)
    except ValidationError as error:
        if _has_long_name(value.get("metadata")):
            raise NameTooLong(f"the id or the name of a node is over {NAME_CHARACTERS} characters") from error
        raise MalformedStream("a line of the stream has not the fields of one") from error
    return piece


def _has_long_name(node: Any) -> bool:
    names = (node.get("nodeId"), node.get("nodeName")) if isinstance(node, dict) else ()
    return any(isinstance(name, str) and len(name) > NAME_CHARACTERS for name in names)


_TYPES = {"begin", "item", "end", "error"}
_decode: Callable[[bytes], Piece] = Decoder(NodeBegin | NodeItem | NodeEnd | NodeError).decode


def _loads(data: bytes) -> tuple[Any, bytes]:
    r"""Parse JSON; give its value and its text.

    JavaScript writes half of a surrogate pair as ``\ud83d``, for example when it cuts a
    string inside an emoji. That is no Unicode text; each half is read as U+FFFD.
    """
    try:
        return orjson.loads(data), data
    except orjson.JSONDecodeError:
        repaired = _ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], data)
        if repaired == data:
            raise
    return orjson.loads(repaired), repaired


def _document(data: bytes, content_type: str | None) -> Document:
    """Tell what a whole document is.

    An object or array is JSON whatever text type is declared (n8n sends JSON as text/html);
    other JSON values are JSON only when declared so. What is declared as neither JSON nor
    text stays bytes.
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    says_json = bool(_JSON_TYPE.fullmatch(media_type))
    plain = data.removeprefix(BOM_UTF8)
    if not data or (says_json and not plain.strip()):
        return Document(DocumentKind.EMPTY, "", b"")
    if media_type and not says_json and not _TEXT_TYPE.fullmatch(media_type):
        return Document(DocumentKind.BYTES, content_type or "", data)
    if says_json or plain.lstrip()[:1] in (b"{", b"["):
        try:
            return Document(
                DocumentKind.JSON,
                content_type if content_type and says_json else "application/json",
                _loads(plain)[1],
            )
        except orjson.JSONDecodeError as error:
            if says_json and _is_cut(plain, error):
                raise TruncatedJson("the JSON document ends before its end") from error
    if _is_text(plain):
        kept = content_type if content_type and not says_json else "text/plain; charset=utf-8"
        return Document(DocumentKind.TEXT, kept, plain)
    kept = content_type if content_type and not says_json else "application/octet-stream"
    return Document(DocumentKind.BYTES, kept, data)


def _is_cut(data: bytes, error: orjson.JSONDecodeError) -> bool:
    """Whether JSON went wrong because it ends too early. `hello` did not, `{"a":` did."""
    if data.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        data.decode()
    except UnicodeDecodeError as fault:
        return fault.reason == "unexpected end of data"
    return error.msg == "unexpected end of data"


def _is_text(data: bytes) -> bool:
    try:
        return not _TEXT_CONTROLS.search(data.decode())
    except UnicodeDecodeError:
        return False
