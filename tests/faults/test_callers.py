"""What a reader of a stream takes for a missing event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.callers import StreamCaller
from tests.faults.system import System, Tenant

CHUNK: dict[str, Any] = {"chunk": {"text": "all of it"}}
FAILED: dict[str, Any] = {"failed": {"status": {}}}
STARTED, COMPLETED = {"started": {}}, {"completed": {}}


@pytest.mark.parametrize(
    ("events", "problems"),
    [
        ([(1, STARTED), (2, CHUNK), (3, CHUNK), (4, COMPLETED)], []),
        ([(8, CHUNK), (9, COMPLETED)], []),
        ([(1, STARTED), (8, CHUNK), (9, COMPLETED)], []),
        ([(2, FAILED)], []),
        ([(1, STARTED), (9, FAILED)], []),
        ([(1, STARTED), (3, CHUNK), (4, CHUNK), (5, COMPLETED)], ["the result as event 3, the end as 5"]),
        (
            [(1, STARTED), (3, CHUNK), (5, COMPLETED)],
            ["event 5 after 3", "the result as event 3, the end as 5"],
        ),
        ([(1, STARTED), (2, CHUNK), (4, CHUNK), (5, COMPLETED)], ["event 4 after 2"]),
        ([(1, STARTED), (3, COMPLETED)], ["event 3 after 1"]),
        ([(1, STARTED), (2, CHUNK), (4, FAILED)], ["event 4 after 2"]),
    ],
)
def test_a_missing_event_is_a_problem_but_where_the_outcome_is_told(
    tmp_path: Path, events: list[tuple[int, dict[str, Any]]], problems: list[str]
) -> None:
    caller = StreamCaller(System(tmp_path), Tenant("", "", {"quick": ""}), "quick")
    for sequence, event in events:
        caller._take({"execution_id": "run", "sequence": sequence} | event)
    assert caller.answer.problems == problems
