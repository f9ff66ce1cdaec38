"""What goes wrong while callers run workflows, one fault each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.adapters.n8n.pool import KEPT_SECONDS
from gateway.adapters.postgres import Timeouts
from gateway.adapters.redis.event_streams import CALL_SECONDS
from tests.faults.callers import Caller, ExecuteCaller, SlowCaller, StreamCaller, VanishingCaller
from tests.faults.system import LEASE_SECONDS, System

Strike = Callable[[System], Awaitable[None]]

_POSTGRES_SECONDS = 1.2 * Timeouts().wait

_CUT_OFF = ("OUTCOME_UNKNOWN", "SHUTTING_DOWN")
_N8N_AWAY = ("N8N_CONNECTION_LOST", "N8N_UNREACHABLE", "N8N_CIRCUIT_OPEN")

_WAITING = "select pid from pg_stat_activity where usename = 'authenticator' and wait_event_type = 'Lock'"
_END_WAITING = f"select pg_terminate_backend(pid) from ({_WAITING}) as waiting"


@dataclass(frozen=True)
class Fault:
    """`strike` does the damage, once, and mends it; callers go on meanwhile.

    `workflows` are run in turns, by callers of each of the kinds in `callers`. `strikes` is how often it
    strikes for a hundred runs. With `cuts`, callers reach the gateways over connections that break.

    Of all runs at least the share `success` must succeed, and the callers of others be told one of `reasons`.
    With `retried` the workflows are idempotent: runs whose outcome a strike has hidden are sent again.
    """

    name: str
    strike: Strike | None = None
    strikes: int = 0
    workflows: tuple[str, ...] = ("quick", "steps")
    callers: tuple[type[Caller], ...] = (ExecuteCaller, StreamCaller)
    cuts: bool = False
    success: float = 1.0
    reasons: tuple[str, ...] = ()
    retried: bool = False


async def _kill_gateway(system: System) -> None:
    gateway = system.gateway()
    await gateway.kill()
    try:
        await asyncio.sleep(random.uniform(0, 0.3))
    finally:
        await gateway.start()


async def _pause_gateway(system: System) -> None:
    """Until the leases of its runs have run out, and the other one has taken those up."""
    gateway = system.gateway()
    gateway.pause()
    try:
        await asyncio.sleep(1.5 * LEASE_SECONDS)
    finally:
        gateway.resume()


async def _deploy_gateway(system: System) -> None:
    gateway = system.gateway()
    await gateway.stop()
    await gateway.start()


async def _restart_postgres(system: System) -> None:
    await system.postgres.stop()
    try:
        await asyncio.sleep(random.uniform(0, 0.5))
    finally:
        await system.postgres.start()


async def _restart_valkey(system: System) -> None:
    await system.valkey.stop()
    try:
        await asyncio.sleep(random.uniform(0, 0.5))
    finally:
        await system.valkey.start()


async def _pause_valkey(system: System) -> None:
    """For longer than anybody waits for it, as one whose disk does not keep up: what it was sent stays."""
    os.kill(system.valkey.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(1.25 * CALL_SECONDS)
    finally:
        os.kill(system.valkey.pid, signal.SIGCONT)


async def _pause_postgres(system: System) -> None:
    """For longer than anybody waits for a connection, as one whose disk does not keep up."""
    pids = [system.postgres.pid, *(row[0] for row in await system.rows("select pid from pg_stat_activity"))]
    for pid in pids:
        _send(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(_POSTGRES_SECONDS)
    finally:
        for pid in pids:
            _send(pid, signal.SIGCONT)


def _send(pid: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # a connection that has ended
        os.kill(pid, what)


async def _pause_everything(system: System) -> None:
    """For longer than a lease, as a machine that is moved: no gateway is there to take up another's runs."""
    for gateway in system.gateways:
        gateway.pause()
    try:
        await asyncio.sleep(1.1 * LEASE_SECONDS)
    finally:
        for gateway in system.gateways:
            gateway.resume()


async def _restart_n8n(system: System) -> None:
    await system.n8n.stop()
    try:
        await asyncio.sleep(random.uniform(0, 0.5))
    finally:
        await system.n8n.start()


async def _pause_n8n(system: System) -> None:
    """For longer than an idle connection to it is kept."""
    system.n8n.awake.clear()
    try:
        await asyncio.sleep(1.1 * KEPT_SECONDS)
    finally:
        system.n8n.awake.set()


async def _shift_clock(system: System) -> None:
    """One gateway comes back a minute ahead, the other a minute behind."""
    for gateway, clock in zip(system.gateways, (60.0, -60.0), strict=True):
        await gateway.stop()
        gateway.clock = clock
        await gateway.start()


async def _kill_before_sending(system: System) -> None:
    """Kill the gateways while runs that were begun wait for their handles, and so are not sent."""
    async with system.transaction() as held:
        await held.execute("lock table credential_handles in access exclusive mode")
        await _kill_waiting(system)
    await _start_again(system)


async def _kill_before_settling(system: System) -> None:
    """Kill the gateways when n8n has answered, and before the database knows of it."""
    system.n8n.gate.clear()
    system.n8n.asked.clear()
    try:
        await system.n8n.asked.wait()
        async with system.transaction() as held:
            await held.fetch("select from reservations where state = 'HELD' for update")
            system.n8n.gate.set()
            await _kill_waiting(system)
    finally:
        system.n8n.gate.set()
    await _start_again(system)


async def _kill_waiting(system: System) -> None:
    """Kill all gateways as soon as one waits for a lock; what they have asked for is not done."""
    while not await system.rows(_WAITING):  # noqa: ASYNC110 - another process's
        await asyncio.sleep(0.01)
    await asyncio.gather(*(gateway.kill() for gateway in system.gateways))
    while await system.rows(_END_WAITING):  # noqa: ASYNC110 - another process's
        await asyncio.sleep(0.01)


async def _start_again(system: System) -> None:
    await asyncio.gather(*(gateway.start() for gateway in system.gateways))


FAULTS = (
    Fault("nothing"),
    Fault("gateway killed", _kill_gateway, strikes=4, success=0.4, reasons=_CUT_OFF),
    Fault(
        "gateways killed before sending",
        _kill_before_sending,
        strikes=1,
        workflows=("handled",),
        retried=True,
        success=0.3,
        # Of a run that was not queued, what is to be sent is kept in Redis a moment after it was begun.
        reasons=("PAYLOAD_LOST",),
    ),
    Fault(
        "gateways killed before settling",
        _kill_before_settling,
        strikes=1,
        workflows=("gated",),
        success=0.3,
        reasons=_CUT_OFF,
    ),
    Fault("gateway paused", _pause_gateway, strikes=1, success=0.6, reasons=_CUT_OFF),
    Fault("gateways paused", _pause_everything, strikes=1, success=0.6, reasons=_CUT_OFF),
    Fault("gateway deployed", _deploy_gateway, strikes=2, success=0.9, reasons=_CUT_OFF),
    Fault("Postgres restarted", _restart_postgres, strikes=2, success=0.9, reasons=_CUT_OFF),
    # Leases that are old already may run out meanwhile: those of all runs in hand on a slow machine.
    Fault("Postgres paused", _pause_postgres, strikes=1, success=0.6, reasons=_CUT_OFF),
    Fault("Valkey restarted", _restart_valkey, strikes=2, success=0.9, reasons=_CUT_OFF),
    Fault(
        "Valkey paused",
        _pause_valkey,
        strikes=3,
        callers=(ExecuteCaller, StreamCaller, VanishingCaller),
        workflows=("steps",),
    ),
    # While n8n is away callers are told so at once: all of them may be before it is back.
    Fault("n8n restarted", _restart_n8n, strikes=4, success=0, reasons=_N8N_AWAY),
    Fault("n8n paused", _pause_n8n, strikes=1),
    Fault("connections cut", cuts=True),
    Fault("clients vanish", workflows=("steps",), callers=(VanishingCaller,)),
    Fault("clients read slowly", workflows=("long",), callers=(SlowCaller,)),
    Fault("n8n hangs", workflows=("hang",), success=0, reasons=("N8N_TIMEOUT",)),
    Fault("n8n ends in a line", workflows=("half",), success=0, reasons=("N8N_CONNECTION_LOST",)),
    Fault("n8n answers twice", workflows=("twice",)),
    Fault("n8n floods", workflows=("flood",), success=0, reasons=("N8N_RESPONSE_TOO_LARGE",)),
    # The last: the clocks stay as they are then.
    Fault("clocks a minute off", _shift_clock, strikes=1, success=0.9, reasons=_CUT_OFF),
)


def strikes_of(fault: Fault, runs: int) -> list[int]:
    """After how many begun runs each strike comes: spread over the load, at random."""
    count = -(-fault.strikes * runs // 100)
    return sorted(random.sample(range(1, max(2, runs * 3 // 4)), count)) if fault.strike else []
