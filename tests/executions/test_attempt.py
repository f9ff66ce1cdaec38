from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.adapters.n8n.pieces import Document, DocumentKind, Node, NodeItem
from gateway.executions.attempt import hear
from gateway.executions.log import EventLog
from gateway.executions.output import Output
from gateway.executions.settlement import Outcome

NODE = Node("id-1", "R1", 0, 0)
NUMBERS = f"[{'1,' * 5000}1]"


@pytest.mark.parametrize("content", [NUMBERS, f"{NUMBERS[:-1]},1e999]"], ids=["JSON", "looks like it"])
async def test_others_get_their_turns_while_much_is_heard(content: str) -> None:
    log, outcome, turns = EventLog("run"), Outcome(Output(1 << 20)), 0
    run: Any = SimpleNamespace(log=log)
    pieces: list[Any] = [NodeItem(NODE, content) for _ in range(20)]
    hearing = asyncio.create_task(hear(run, outcome, [*pieces, NodeItem(NODE, "end")]))
    while not hearing.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 20
    assert log.last == 21
    assert outcome.output.json() is not None


async def test_what_is_quickly_heard_is_heard_at_once() -> None:
    log, outcome, turns = EventLog("run"), Outcome(Output(1 << 20)), 0
    run: Any = SimpleNamespace(log=log)
    texts = [NodeItem(NODE, "x" * 1000) for _ in range(256)]
    hearing = asyncio.create_task(hear(run, outcome, [*texts, Document(DocumentKind.JSON, "", b'{"a": 1}')]))
    while not hearing.done():
        turns += 1
        await asyncio.sleep(0)
    assert (turns, log.last) == (1, 257)
