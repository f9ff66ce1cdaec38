from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.faults.scenarios import FAULTS, Fault
from tests.faults.system import System
from tests.faults.trial import AT_ONCE, attempt

RUNS = 75
WITHOUT_STRIKES = 2 * AT_ONCE

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with System(tmp_path_factory.mktemp("faults")) as started:
        yield started


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
async def test_no_promise_is_broken_by(fault: Fault, system: System) -> None:
    result = await attempt(system, fault, RUNS if fault.strike else WITHOUT_STRIKES)
    print(result)  # noqa: T201 - the figures, for who reads the report of a run
    assert result.kept, result.problems
