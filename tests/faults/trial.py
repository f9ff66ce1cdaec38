"""One fault under load, and what is left of the promises after it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from tests.faults.callers import Answer, ExecuteCaller
from tests.faults.scenarios import Fault, strikes_of
from tests.faults.system import System
from tests.forked import forked

AT_ONCE = 24
RESOLVED_WITHIN_SECONDS = 60.0

_UNRESOLVED = """
select count(*) from executions where state in ('EXECUTION_STATE_PENDING', 'EXECUTION_STATE_RUNNING')
"""
_RUNS = """
select idempotency_key as key, id::text, state::text, credits_used from executions
where idempotency_key = any ($1)
"""


@dataclass
class Result:
    """`lost`, `doubled` and `unresolved` count broken promises; `problems` say which.

    `refusals` counts the reasons of those that did not succeed, and were told so.
    """

    fault: str
    runs: int
    strikes: int = 0
    attempts: int = 0
    succeeded: int = 0
    lost: int = 0
    doubled: int = 0
    unresolved: int = 0
    seconds: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether every promise was."""
        return not (self.lost or self.doubled or self.unresolved or self.problems)


async def attempt(system: System, fault: Fault, runs: int) -> Result:
    """Let callers make `runs` requests while the fault strikes, and count what should not be."""
    started = time.monotonic()
    result = Result(fault.name, runs)
    trial = _Trial(system, fault, runs)
    system.cuts = fault.cuts
    system.n8n.gate.set()
    strikes = asyncio.create_task(trial.strike())
    answers = await trial.load()
    result.strikes = await strikes
    system.cuts = False
    result.attempts = sum(answer.attempts for answer in answers)
    result.succeeded = sum(answer.success is True for answer in answers)
    result.refusals = Counter(answer.reason for answer in answers if answer.success is False)
    result.problems += unexpected(fault, result)
    await _recover(system, result)
    result.unresolved = await _unresolved(system)
    await _compare(system, answers, result, sent=1 + result.strikes if fault.retried else 1)
    _check_ledger(system, result)
    result.seconds = time.monotonic() - started
    return result


def unexpected(fault: Fault, result: Result) -> list[str]:
    """What nobody should have been told, and too few successes."""
    told = [
        f"{count} times {reason}" for reason, count in result.refusals.items() if reason not in fault.reasons
    ]
    if result.succeeded < fault.success * result.runs:
        told.append(f"{result.succeeded} of {result.runs} succeeded")
    return told


class _Trial:
    def __init__(self, system: System, fault: Fault, runs: int) -> None:
        self._system = system
        self._fault = fault
        self._runs = runs
        self._begun = 0
        self._progress = asyncio.Condition()

    async def load(self) -> list[Answer]:
        """All callers' answers, AT_ONCE of them at a time, but no more than half of them: some come later."""
        slots = asyncio.Semaphore(min(AT_ONCE, max(1, self._runs // 2)))
        kinds, workflows = cycle(self._fault.callers), cycle(self._fault.workflows)
        tenants = cycle(self._system.tenants)

        async def one() -> Answer:
            async with slots:
                caller = next(kinds)(self._system, next(tenants), next(workflows))
                async with self._progress:
                    self._begun += 1
                    self._progress.notify_all()
                return await caller.run()

        return list(await asyncio.gather(*(one() for _ in range(self._runs))))

    async def strike(self) -> int:
        """Strike at random points of the load; how often."""
        points = strikes_of(self._fault, self._runs)
        for point in points:
            async with self._progress:
                await self._progress.wait_for(lambda point=point: self._begun >= point)
            assert self._fault.strike is not None
            await self._fault.strike(self._system)
        return len(points)


async def _recover(system: System, result: Result) -> None:
    """Wait until every gateway runs workflows again: breakers are closed, Redis and Postgres are found."""
    give_up = time.monotonic() + RESOLVED_WITHIN_SECONDS
    for gateway in system.gateways:
        for tenant in system.tenants:
            caller = ExecuteCaller(system, tenant, "quick")
            while not await caller.succeeds(gateway.url):
                if time.monotonic() > give_up:
                    result.problems.append(f"no run since at {gateway.url}: {caller.answer.reason}")
                    return
                await asyncio.sleep(0.2)
                caller = ExecuteCaller(system, tenant, "quick")


async def _unresolved(system: System) -> int:
    give_up = time.monotonic() + RESOLVED_WITHIN_SECONDS
    while True:
        count = int((await system.rows(_UNRESOLVED))[0][0])
        if not count or time.monotonic() > give_up:
            return count
        await asyncio.sleep(0.2)


async def _compare(system: System, answers: list[Answer], result: Result, *, sent: int) -> None:
    """Hold what callers were told against what the database and n8n know: no run is `sent` more often."""
    rows = await system.rows(_RUNS, [answer.key for answer in answers])
    by_id = {row["id"]: row for row in rows}
    charged = Counter(row["key"] for row in rows if row["credits_used"])
    for answer in answers:
        result.problems += [f"{answer.key}: {problem}" for problem in answer.problems]
        row = by_id.get(answer.execution_id)
        completed = row is not None and row["state"] == "EXECUTION_STATE_COMPLETED"
        if answer.success is None or (answer.success and not completed):
            result.lost += 1
            result.problems.append(f"{answer.key}: {answer.success} {answer.reason}, {row and row['state']}")
        asked, charges = system.n8n.calls[answer.key], charged[answer.key]
        if asked > sent or charges > 1:
            result.doubled += 1
            result.problems.append(f"{answer.key}: sent {asked} times, charged {charges} times")
        if charged[answer.key] and not answer.success:
            result.problems.append(f"{answer.key}: charged and told {answer.reason}")


def _check_ledger(system: System, result: Result) -> None:
    environment = os.environ | {"DATABASE_URL": system.postgres.superuser_url}
    done = forked("credits", "check", directory=Path.cwd(), environment=environment)
    if done.returncode:
        result.problems.append(f"credits check: {(done.stdout + done.stderr).decode()}")
