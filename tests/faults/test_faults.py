from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.scenarios import FAULTS, Fault
from tests.faults.system import System
from tests.faults.trial import Result, attempt, unexpected

RUNS = 70
WITHOUT_STRIKES = 50


def runs_of(fault: Fault) -> int:
    """How many runs it is tried with."""
    return RUNS if fault.strike else WITHOUT_STRIKES


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with System(tmp_path_factory.mktemp("faults")) as started:
        yield started


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
async def test_no_promise_is_broken_by(fault: Fault, system: System) -> None:
    result = await attempt(system, fault, runs_of(fault))
    print(result)  # noqa: T201 - the figures, for who reads the report of a run
    assert result.kept, result.problems


def test_a_thousand_runs_are_made() -> None:
    assert sum(runs_of(fault) for fault in FAULTS) >= 1000


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_gateway_that_refuses_everybody_keeps_no_promise(fault: Fault) -> None:
    refusing = Result(fault.name, 10, refusals=Counter({"TOKEN_INVALID": 10}))
    assert "10 times TOKEN_INVALID" in unexpected(fault, refusing)
