"""What an attack costs the gateway, and whether others are served meanwhile."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import grpc

from tests.attacks.attacks import ATTACKS, CONNECTIONS, HTTP_SECONDS, Target
from tests.conftest import RunningDev, start_dev
from tests.doors.wire import connect, request_bytes

ENVIRONMENT = {
    "HTTP_HEADER_TIMEOUT_SECONDS": str(HTTP_SECONDS),
    "HTTP_BODY_TIMEOUT_SECONDS": str(HTTP_SECONDS),
    "HTTP_MAX_CONNECTIONS": str(CONNECTIONS),
}
_LIVE = "/n8ngateway.v1.HealthService/GetLiveness"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """The answer to an attack; seconds it took, and of the gateway's CPU; MB that the gateway grew by.

    `served` are calls of others that were answered meanwhile, `slowest` is the longest of them in seconds.
    """

    answer: str
    seconds: float
    cpu: float
    grown: float
    served: int
    slowest: float


def start(directory: Path) -> RunningDev:
    """A gateway to attack."""
    return start_dev(directory, environment=ENVIRONMENT)


def target_of(dev: RunningDev) -> Target:
    """Its ports."""
    http, grpc_port = dev.ready["http_url"], dev.ready["grpc_url"]
    return Target(int(http.rpartition(":")[2]), int(grpc_port.rpartition(":")[2]))


def measure(dev: RunningDev, name: str) -> Cost:
    """Attack, from a process of its own, while somebody else calls on both ports."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as attacker:
        attacker.submit(_nothing).result()
        return asyncio.run(_measure(dev, attacker, name))


async def _measure(dev: RunningDev, attacker: ProcessPoolExecutor, name: str) -> Cost:
    target, times, done = target_of(dev), list[float](), asyncio.Event()
    async with (
        connect(target.http_port) as connection,
        grpc.aio.insecure_channel(f"127.0.0.1:{target.grpc_port}") as channel,
    ):
        live = channel.unary_unary(_LIVE)

        async def others() -> None:
            while not done.is_set():
                began = time.monotonic()
                connection.writer.write(request_bytes("GET", "/api/v1/health/live", {}))
                assert (await connection.answer()).status == 200
                await live(b"", timeout=20, wait_for_ready=True)
                times.append(time.monotonic() - began)
                await asyncio.sleep(0.02)

        await live(b"", timeout=20, wait_for_ready=True)
        memory, cpu, began = _memory(dev), _cpu(dev), time.monotonic()
        calling = asyncio.create_task(others())
        answer = await asyncio.get_running_loop().run_in_executor(attacker, _attack, name, target)
        seconds = time.monotonic() - began
        done.set()
        await calling
    return Cost(answer, seconds, _cpu(dev) - cpu, _memory(dev) - memory, len(times), max(times))


def _attack(name: str, target: Target) -> str:
    async def run() -> str:
        return await ATTACKS[name](target)

    return asyncio.run(run())


def _nothing() -> None:
    """Let the process start."""


def _memory(dev: RunningDev) -> float:
    pages = Path(f"/proc/{dev.process.pid}/statm").read_text().split()[1]
    return int(pages) * _PAGE / 1e6


def _cpu(dev: RunningDev) -> float:
    fields = Path(f"/proc/{dev.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
