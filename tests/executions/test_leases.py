"""Leases of a process that stands still, and what its own sweeper makes of them then."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, cast

import pytest

from gateway.adapters.database import Json
from gateway.adapters.n8n import N8n
from gateway.executions import sweeper as module
from gateway.executions.leases import Leases
from gateway.executions.publisher import Publisher
from gateway.executions.runner import Runner
from gateway.executions.sweeper import Sweeper
from gateway.rpc.principal import Principal
from tests.executions.accounts import PRICE, Accounts
from tests.executions.test_runner import Accepting, caller, job, n8n

__all__ = ["n8n"]

LEASE_SECONDS = 30


class LeasedAccounts(Accounts):
    """Knows which leases have run out, too; a sweep ends those runs."""

    def __init__(self) -> None:
        super().__init__()
        self.expired: set[str] = set()
        self.swept: set[str] = set()
        self.renewed = asyncio.Event()

    async def call(self, function: str, principal: Principal | None, /, **arguments: Json) -> str:
        if function == "renew_leases":
            asked: Any = arguments["p_execution_ids"]
            self.expired -= set(asked)
            self.renewed.set()
            return json.dumps({"lost": [run for run in asked if run in self.swept], "cancel": []})
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
    run.leased(time.monotonic() - 2 * LEASE_SECONDS, LEASE_SECONDS)
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
    monkeypatch.setattr(module, "_clock", clock)
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
    run.leased(time.monotonic() - LEASE_SECONDS, LEASE_SECONDS)
    leases = Leases(accounts, runner, silent)
    leases.start()
    async with asyncio.timeout(60):
        await accounts.renewed.wait()
    await leases.close()
    await runner.drain(0)
    await publisher.close(1)
