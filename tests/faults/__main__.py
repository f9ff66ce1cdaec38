"""Faults under load, and what they break: ``make test-faults N=1000``.

Two gateways on one Postgres, one Valkey and an n8n that behaves badly. Callers retry with their
idempotency key until they have an answer; then every run must be settled, none lost, none run or
charged twice.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.scenarios import FAULTS, Fault
from tests.faults.system import System
from tests.faults.trial import Result, attempt

_WIDTH = 110


async def _run(faults: list[Fault], runs: int, console: Console) -> list[Result]:
    results = []
    with tempfile.TemporaryDirectory() as directory:
        async with System(Path(directory)) as system:
            for fault in faults:
                results.append(await attempt(system, fault, runs))
                _tell(results[-1], console)
    return results


def _tell(result: Result, console: Console) -> None:
    for problem in result.problems:
        console.print(f"[red]{result.fault}[/]: {problem}", soft_wrap=True)
    reasons = "".join(f", {count} {reason}" for reason, count in result.refusals.items())
    console.print(f"{result.fault}: {result.runs} runs in {result.seconds:.0f} s{reasons}")


def _table(results: list[Result]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = ("fault", "runs", "strikes", "attempts", "succeeded", "lost", "doubled", "unresolved", "seconds")
    for name in names:
        table.add_column(name, justify="left" if name == "fault" else "right")
    for result in results:
        values = [getattr(result, name) for name in names[1:-1]]
        table.add_row(result.fault, *map(str, values), f"{result.seconds:.0f}")
    return table


def main() -> int:
    """Run what the command line asks for; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=100, help="of each fault (100)")
    parser.add_argument("--fault", action="append", metavar="TEXT", help="faults with this in their name")
    arguments = parser.parse_args()
    faults = [f for f in FAULTS if not arguments.fault or any(part in f.name for part in arguments.fault)]
    if not faults:
        sys.stderr.write("no such fault; there are:\n" + "".join(f"  {fault.name}\n" for fault in FAULTS))
        return 2
    console = Console(width=max(_WIDTH, Console().width), highlight=False)
    results = asyncio.run(_run(faults, arguments.runs, console))
    console.print(_table(results))
    return 0 if all(result.kept for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
