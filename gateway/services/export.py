"""Files of rows, streamed: CSV (RFC 4180) or one JSON object a line, in the words of the API."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from gateway.gen.n8ngateway.v1.usage_pb import ExportFormat
from gateway.transcoding.gen.google.api.httpbody_pb import HttpBody

Row = Mapping[str, Any]

_AT_ONCE = 100
"""Rows that are put into words before others get their turn."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that spreadsheets would compute (OWASP, CSV injection)."""


async def export(
    export_format: ExportFormat,
    columns: Sequence[str],
    rows: str,
    shown: Callable[[Row], Row],
    page_after: Callable[[str | None], Awaitable[str]],
) -> AsyncGenerator[HttpBody, None]:
    """A piece of the file for each page of the database, which is asked for when the one before is gone.

    `page_after` answers `{<rows>: [row], "next": what the next page comes after, or null}`; None asks for
    the first page. `shown` is how the API shows a row; what it leaves out is an empty cell.
    """
    as_lines = export_format is ExportFormat.NDJSON
    content_type = "application/x-ndjson" if as_lines else "text/csv; charset=utf-8"
    piece = b"" if as_lines else _csv([columns])
    after: str | None = None
    while True:
        page = orjson.loads(await page_after(after))
        found = page[rows]
        for start in range(0, len(found), _AT_ONCE):
            some = [shown(row) for row in found[start : start + _AT_ONCE]]
            piece += _lines(some) if as_lines else _table(some, columns)
            await asyncio.sleep(0)
        yield HttpBody(content_type=content_type, data=piece)
        piece, after = b"", page["next"]
        if after is None:
            return


def _lines(rows: Iterable[Row]) -> bytes:
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _table(rows: Iterable[Row], columns: Sequence[str]) -> bytes:
    return _csv([_cell(row.get(column)) for column in columns] for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else value


def _csv(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
