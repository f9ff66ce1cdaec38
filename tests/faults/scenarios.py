"""What goes wrong while callers run workflows, one fault each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults.callers import Caller, ExecuteCaller, SlowCaller, StreamCaller, VanishingCaller
from tests.faults.system import LEASE_SECONDS, System

Strike = Callable[[System], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """`strike` does the damage, once, and mends it; callers go on meanwhile.

    `workflows` are run in turns, by callers of each of the kinds in `callers`. `strikes` is how often it
    strikes for a hundred runs. With `cuts`, callers reach the gateways over connections that break.
    """

    name: str
    strike: Strike | None = None
    strikes: int = 0
    workflows: tuple[str, ...] = ("quick", "steps")
    callers: tuple[type[Caller], ...] = (ExecuteCaller, StreamCaller)
    cuts: bool = False


async def _kill_gateway(system: System) -> None:
    gateway = system.gateway()
    await gateway.kill()
    await asyncio.sleep(random.uniform(0, 0.3))
    await gateway.start()


async def _pause_gateway(system: System) -> None:
    """Until the leases of its runs have run out, and the other one has taken those up."""
    gateway = system.gateway()
    gateway.pause()
    await asyncio.sleep(1.5 * LEASE_SECONDS)
    gateway.resume()


async def _deploy_gateway(system: System) -> None:
    gateway = system.gateway()
    await gateway.stop()
    await gateway.start()


async def _restart_postgres(system: System) -> None:
    await system.postgres.stop()
    await asyncio.sleep(random.uniform(0, 0.5))
    await system.postgres.start()


async def _restart_valkey(system: System) -> None:
    await system.valkey.stop()
    await asyncio.sleep(random.uniform(0, 0.5))
    await system.valkey.start()


async def _restart_n8n(system: System) -> None:
    await system.n8n.stop()
    await asyncio.sleep(random.uniform(0, 0.5))
    await system.n8n.start()


async def _shift_clock(system: System) -> None:
    """One gateway comes back a minute ahead, the other a minute behind."""
    for gateway, clock in zip(system.gateways, (60.0, -60.0), strict=True):
        await gateway.stop()
        gateway.clock = clock
        await gateway.start()


FAULTS = (
    Fault("nothing"),
    Fault("gateway killed", _kill_gateway, strikes=4),
    Fault("gateway paused", _pause_gateway, strikes=1),
    Fault("gateway deployed", _deploy_gateway, strikes=2),
    Fault("Postgres restarted", _restart_postgres, strikes=2),
    Fault("Valkey restarted", _restart_valkey, strikes=2),
    Fault("n8n restarted", _restart_n8n, strikes=4),
    Fault("connections cut", cuts=True),
    Fault("clients vanish", workflows=("steps",), callers=(VanishingCaller,)),
    Fault("clients read slowly", workflows=("long",), callers=(SlowCaller,)),
    Fault("n8n hangs", workflows=("hang",)),
    Fault("n8n ends in a line", workflows=("half",)),
    Fault("n8n answers twice", workflows=("twice",)),
    Fault("n8n floods", workflows=("flood",)),
    # The last: the clocks stay as they are then.
    Fault("clocks a minute off", _shift_clock, strikes=1),
)


def strikes_of(fault: Fault, runs: int) -> list[int]:
    """After how many begun runs each strike comes: spread over the load, at random."""
    count = -(-fault.strikes * runs // 100)
    return sorted(random.sample(range(1, max(2, runs * 3 // 4)), count)) if fault.strike else []
