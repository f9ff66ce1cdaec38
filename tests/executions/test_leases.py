"""Leases of a process that stands still, and what its own sweeper makes of them then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from gateway.adapters.database import Json
from gateway.adapters.n8n import N8n
from gateway.executions import sweeper as module
from gateway.executions.lease_clock import lease_clock
from gateway.executions.leases import Leases
from gateway.executions.publisher import Publisher
from gateway.executions.run import Moved
from gateway.executions.runner import Runner
from gateway.executions.sweeper import Sweeper
from gateway.rpc.errors import Cancelled, Unavailable
from gateway.rpc.principal import Principal
from tests.executions.accounts import PRICE, Accounts
from tests.executions.test_runner import Accepting, caller, job, n8n
from tests.stub_n8n import StubN8n

__all__ = ["n8n"]

LEASE_SECONDS = 30


class LeasedAccounts(Accounts):
    """Knows which leases have run out, too; a sweep ends those runs."""

    def __init__(self) -> None:
        super().__init__()
        self.expired: set[str] = set()
        self.swept: set[str] = set()
        self.to_cancel: set[str] = set()
        self.renewed = asyncio.Event()

    async def call(self, function: str, principal: Principal | None, /, **arguments: Json) -> str:
        if function == "renew_leases":
            if self.faults:
                raise self.faults.pop(0)
            asked: Any = arguments["p_execution_ids"]
            self.expired -= set(asked)
            self.renewed.set()
            lost, cancel = ([run for run in asked if run in of] for of in (self.swept, self.to_cancel))
            return json.dumps({"lost": lost, "cancel": cancel})
        if function == "sweep_executions":
            actions = [{"execution_id": run, "action": "VOIDED"} for run in self.expired]
            self.swept |= self.expired
            self.expired = set()
            return json.dumps(actions)
        return await super().call(function, principal, **arguments)


class Silent:
    """Where nobody hears of anything: whoever is told, or tells that it lives, waits."""

    async def tell(self, _execution_id: str) -> None:
        await asyncio.Event().wait()

    async def beat(self, _writer: str, _seconds: int) -> None:
        await asyncio.Event().wait()


class Told:
    """Keeps which runs' ends were told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def tell(self, execution_id: str) -> None:
        self.told.append(execution_id)


class Clock:
    """Goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_process_that_stood_still_does_not_take_its_own_runs_for_lost(n8n: N8n) -> None:
    accounts, publisher = LeasedAccounts(), Publisher(Accepting(), "this replica")
    publisher.start()
    runner = Runner(accounts, caller(n8n), publisher, replica="this replica", lease_seconds=LEASE_SECONDS)
    silent: Any = Silent()
    sweeper = Sweeper(accounts, Leases(accounts, runner, silent), silent, silent, LEASE_SECONDS)
    run = runner.start(job("echo"))
    run.leased(lease_clock() - 2 * LEASE_SECONDS, LEASE_SECONDS)
    accounts.expired = {run.job.execution_id}
    async with asyncio.timeout(60):
        await sweeper.turn()
    assert not accounts.swept
    _, settlement = await run.ended()
    assert settlement.credits_used == PRICE
    await publisher.close(1)


async def test_who_stood_still_lets_others_renew_before_it_sweeps(
    n8n: N8n, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts, publisher = LeasedAccounts(), Publisher(Accepting(), "this replica")
    runner = Runner(accounts, caller(n8n), publisher, replica="this replica", lease_seconds=LEASE_SECONDS)
    silent, endings = Silent(), Told()
    leases = Leases(accounts, runner, silent)
    sweeper = Sweeper(accounts, leases, cast("Any", silent), cast("Any", endings), LEASE_SECONDS)
    clock = Clock()
    monkeypatch.setattr(module, "lease_clock", clock)
    clock.now += await sweeper.turn() + LEASE_SECONDS
    accounts.expired = {"another replica's"}
    pause = await sweeper.turn()
    assert not accounts.swept
    # That replica is dead, and whoever is late again has to sweep nevertheless.
    clock.now += pause + LEASE_SECONDS
    await sweeper.turn()
    assert endings.told == ["another replica's"]


async def test_leases_are_renewed_while_redis_stands_still(n8n: N8n) -> None:
    accounts, publisher = LeasedAccounts(), Publisher(Accepting(), "this replica")
    publisher.start()
    runner = Runner(accounts, caller(n8n), publisher, replica="this replica", lease_seconds=LEASE_SECONDS)
    silent: Any = Silent()
    run = runner.start(job("gated"))
    run.leased(lease_clock() - LEASE_SECONDS, LEASE_SECONDS)
    leases = Leases(accounts, runner, silent)
    leases.start()
    async with asyncio.timeout(60):
        await accounts.renewed.wait()
    await leases.close()
    await runner.drain(0)
    await publisher.close(1)


@pytest.fixture
def accounts() -> LeasedAccounts:
    return LeasedAccounts()


@pytest.fixture
async def runner(accounts: LeasedAccounts, n8n: N8n) -> AsyncIterator[Runner]:
    publisher = Publisher(Accepting(), "this replica")
    publisher.start()
    running = Runner(accounts, caller(n8n), publisher, replica="this replica", lease_seconds=LEASE_SECONDS)
    yield running
    await running.drain(0)
    await publisher.close(1)


async def test_a_run_that_another_replica_has_taken_up_meanwhile_is_not_sent(
    runner: Runner, accounts: LeasedAccounts, stub_n8n: StubN8n
) -> None:
    """Whoever took it up may have told that it was never sent, or have sent it."""
    sent = stub_n8n.calls["echo"]
    accounts.swept.add(job("echo").execution_id)
    run = runner.start(job("echo"), leased_at=lease_clock() - LEASE_SECONDS)
    with pytest.raises(Moved):
        await run.ended()
    assert (stub_n8n.calls["echo"], accounts.calls) == (sent, [])


async def test_a_run_that_nobody_has_taken_up_meanwhile_is_leased_anew_and_sent(
    runner: Runner, accounts: LeasedAccounts
) -> None:
    run = runner.start(job("echo"), leased_at=lease_clock() - LEASE_SECONDS)
    _, settlement = await run.ended()
    assert accounts.renewed.is_set()
    assert run.is_surely_leased()
    assert settlement.credits_used == PRICE


async def test_a_run_that_was_cancelled_meanwhile_is_not_sent(
    runner: Runner, accounts: LeasedAccounts, stub_n8n: StubN8n
) -> None:
    sent = stub_n8n.calls["echo"]
    accounts.to_cancel.add(job("echo").execution_id)
    run = runner.start(job("echo"), leased_at=lease_clock() - LEASE_SECONDS)
    with pytest.raises(Cancelled):
        await run.ended()
    assert stub_n8n.calls["echo"] == sent


async def test_a_run_is_not_sent_while_nobody_knows_whose_it_is(
    runner: Runner, accounts: LeasedAccounts, stub_n8n: StubN8n
) -> None:
    sent = stub_n8n.calls["echo"]
    accounts.faults.append(Unavailable("The database does not answer."))
    run = runner.start(job("echo"), leased_at=lease_clock() - LEASE_SECONDS)
    with pytest.raises(Unavailable):
        await run.ended()
    assert stub_n8n.calls["echo"] == sent
    assert [call["p_state"] for call in accounts.calls] == ["EXECUTION_STATE_FAILED"]
