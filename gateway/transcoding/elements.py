"""The JSON values of a client stream, cut out of its bytes as they come.

Three forms are read: one JSON array whose elements are the messages, JSON
values one after the other with or without white space between them, and one
value a line (NDJSON). Only the ends of the values are found here; each value
is checked by the JSON decoder afterwards.
"""

from __future__ import annotations

import re
from typing import Protocol

from gateway.transcoding.body import too_large
from gateway.transcoding.errors import Code, StatusError

_SPACE = b" \t\r\n"
_IN_ARRAY = re.compile(rb'["\[\]{},]')
_IN_SEQUENCE = re.compile(rb'["\[\]{} \t\r\n]')
_NESTED = re.compile(rb'["\[\]{}]')
_IN_STRING = re.compile(rb'["\\]')


class Splitter(Protocol):
    """Cuts a stream of bytes into JSON texts."""

    def feed(self, data: bytes) -> list[bytes]:
        """The values that `data` completes. Raises StatusError, 413 for a value over the limit."""

    def finish(self) -> list[bytes]:
        """The values that the end of the stream completes. Raises StatusError for an open end."""


class LineSplitter:
    """One value a line; empty lines are skipped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """See Splitter."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self._limit or any(len(line) > self._limit for line in lines):
            raise too_large(self._limit)
        return [line for line in lines if line.strip(_SPACE)]

    def finish(self) -> list[bytes]:
        """See Splitter."""
        return [self._rest] if self._rest.strip(_SPACE) else []


class ValueSplitter:
    """The elements of one array, or values one after the other: the first byte tells."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._scanned = 0
        self._depth = 0
        self._in_string = False
        self._array: bool | None = None
        self._closed = False
        self._elements = 0

    def feed(self, data: bytes) -> list[bytes]:
        """See Splitter."""
        self._buffer += data
        if self._array is None and not self._begin():
            return []
        values: list[bytes] = []
        while not self._closed and self._scan(values):
            pass
        if self._closed and self._buffer.strip(_SPACE):
            raise _malformed("the JSON array is followed by something else")
        if len(self._buffer) > self._limit:
            raise too_large(self._limit)
        return values

    def finish(self) -> list[bytes]:
        """See Splitter."""
        if self._array and not self._closed:
            raise _malformed("the JSON array does not end")
        rest = bytes(self._buffer).strip(_SPACE)
        return [rest] if rest else []

    def _begin(self) -> bool:
        start = self._buffer.lstrip(_SPACE)
        self._buffer = start
        if not start:
            return False
        self._array = start[:1] == b"["
        if self._array:
            del self._buffer[:1]
        return True

    def _scan(self, values: list[bytes]) -> bool:
        """Go to the next byte that matters; False when more bytes are needed."""
        pattern = _IN_STRING if self._in_string else self._outside()
        match = pattern.search(self._buffer, self._scanned)
        if match is None:
            self._scanned = len(self._buffer)
            return False
        position, byte = match.start(), match.group()
        if self._in_string:
            return self._scan_string(position, byte, values)
        self._scanned = position + 1
        if byte == b'"':
            self._in_string = True
        elif byte in (b"[", b"{"):
            self._depth += 1
        elif byte in (b"]", b"}") and self._depth:
            self._depth -= 1
            self._end_of_value(position + 1, values)
        elif byte == b"]" and self._array:
            self._end_of_array(position, values)
        elif byte == b",":
            self._take(position, values, skip=1)
        elif byte in _SPACE:
            self._end_of_word(position, values)
        else:
            raise _malformed("the JSON has a closing bracket too many")
        return True

    def _outside(self) -> re.Pattern[bytes]:
        if self._depth:
            return _NESTED
        return _IN_ARRAY if self._array else _IN_SEQUENCE

    def _scan_string(self, position: int, byte: bytes, values: list[bytes]) -> bool:
        if byte == b'"':
            self._in_string = False
            self._scanned = position + 1
            self._end_of_value(position + 1, values)
        elif position + 1 == len(self._buffer):
            self._scanned = position
            return False
        else:
            self._scanned = position + 2
        return True

    def _end_of_value(self, end: int, values: list[bytes]) -> None:
        if not self._array and self._depth == 0:
            self._take(end, values)

    def _end_of_word(self, position: int, values: list[bytes]) -> None:
        """White space between values: the end of a number or name, or nothing."""
        if position:
            self._take(position, values, skip=1)
        else:
            self._drop(1)

    def _end_of_array(self, position: int, values: list[bytes]) -> None:
        if self._elements or self._buffer[:position].strip(_SPACE):
            self._take(position, values, skip=1)
        else:
            self._drop(position + 1)
        self._closed = True

    def _take(self, end: int, values: list[bytes], *, skip: int = 0) -> None:
        """Cut off one value, and the byte after it that says so."""
        if end > self._limit:
            raise too_large(self._limit)
        value = bytes(self._buffer[:end])
        if not value.strip(_SPACE):
            raise _malformed("the JSON array has an empty element")
        values.append(value)
        self._elements += 1
        self._drop(end + skip)

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._scanned = 0


def _malformed(problem: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, problem)
