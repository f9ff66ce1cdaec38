"""The answer of n8n to a run, as its pieces come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

from gateway.adapters.n8n import faults
from gateway.adapters.n8n.body import BodyError, BodyReader, BodyTooLarge, Expected
from gateway.adapters.n8n.exchange import Answer
from gateway.adapters.n8n.faults import N8nFault
from gateway.adapters.n8n.pieces import Document, Piece
from gateway.adapters.n8n.redaction import StreamRedactor


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a run: its HTTP status (2xx), n8n's execution id if the workflow gives it, its pieces.

    `pieces` gives lists of what arrived together, each as soon as it is complete, and ends
    when the answer does. It raises N8nFault; pieces that were complete come before.
    A NodeError piece is a workflow that failed: n8n then ends the answer as if it had not.
    """

    status: int
    n8n_execution_id: str | None
    pieces: AsyncIterator[list[Piece]]


class Pieces:
    """The pieces of one answer. Not a generator: one is closed late when its reader is cancelled."""

    __slots__ = ("_answer", "_ended", "_expected", "_fault", "_reader", "_redactor")

    def __init__(
        self, answer: Answer, reader: BodyReader, redactor: StreamRedactor, expected: Expected
    ) -> None:
        self._answer = answer
        self._expected = expected
        self._reader = reader
        self._redactor = redactor
        self._ended = False
        self._fault: N8nFault | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Piece]:
        while not self._ended:
            pieces = await self._redactor.clean(await self._next())
            if self._ended:
                pieces += self._redactor.finish(is_cut=self._fault is not None)
            if pieces:
                return pieces
        fault, self._fault = self._fault, None
        raise fault or StopAsyncIteration

    async def _next(self) -> list[Piece]:
        try:
            if self._reader.has_more:
                await asyncio.sleep(0)  # a turn for others
                return self._reader.more()
            if data := await self._answer.read():
                return self._reader.feed(data)
            self._ended = True
            return self._last(self._reader.finish())
        except BodyError as error:
            self._ended = True
            self._fault = (
                faults.too_large(str(error))
                if isinstance(error, BodyTooLarge)
                else faults.malformed(str(error))
            )
            return error.pieces
        except N8nFault as fault:
            self._ended, self._fault = True, fault
            return []

    def _last(self, pieces: list[Piece]) -> list[Piece]:
        for piece in pieces:
            if isinstance(piece, Document):
                self._fault = self._judge(piece)
        return [] if self._fault else pieces

    def _judge(self, document: Document) -> N8nFault | None:
        if faults.is_starting_page(self._answer.headers, document.data):
            return faults.starting()
        if self._expected is Expected.STREAM and document.data:
            return faults.not_a_stream(self._answer.status)
        return None
