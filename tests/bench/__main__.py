"""Measures the doors, the chain and the transcoder beside their peers: ``make bench``.

Every row runs in every round, one after the other, its server on one core and the
load generator on the other, so what else happens on the machine meets all alike.
The numbers are medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

from rich.console import Console

from tests.bench.generated import generate
from tests.bench.load import tools
from tests.bench.processes import BenchError, pinned

_ROUNDS, _SECONDS = 5, 1.0
_QUICK_ROUNDS, _QUICK_SECONDS = 3, 0.3
_WIDTH = 120


def main() -> int:
    """Run what the command line asks for and return the exit code."""
    arguments = _arguments()
    generated = generate()
    sys.path.insert(0, str(generated))
    from tests.bench import report  # noqa: PLC0415 - needs the generated code
    from tests.bench.rows import ROWS  # noqa: PLC0415
    from tests.bench.run import Plan, run  # noqa: PLC0415

    rows = [row for row in ROWS if not arguments.only or any(part in row.key for part in arguments.only)]
    if not rows:
        sys.stderr.write("no such row; there are:\n" + "".join(f"  {row.key}\n" for row in ROWS))
        return 2
    plan = Plan(
        rounds=arguments.rounds or (_QUICK_ROUNDS if arguments.quick else _ROUNDS),
        seconds=arguments.seconds or (_QUICK_SECONDS if arguments.quick else _SECONDS),
        tool=arguments.loader or tools(),
    )
    console = Console(width=max(_WIDTH, Console().width), highlight=False)
    samples = run(rows, plan, generated, lambda text: _progress(console, text))
    _progress(console, "")
    cores = "one core for the server, one for the load" if pinned() else "cores not pinned"
    rounds = f"{plan.rounds} rounds of {plan.seconds:g} s"
    title = f"Python {platform.python_version()}, {plan.tool}, {rounds}, {cores}"
    console.print(f"{title}; medians\n")
    report.show(rows, samples, console)
    if arguments.json:
        found = report.as_json(rows, samples, {"about": title})
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    if arguments.chart:
        arguments.chart.write_text(report.chart(rows, samples, f"Calls a second. {title}"))
    return 0


def _progress(console: Console, text: str) -> None:
    if console.is_terminal:
        console.out(f"\r{text}\033[K", end="")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="short rounds: under a minute")
    parser.add_argument("--only", action="append", metavar="TEXT", help="rows with this in their name")
    parser.add_argument("--rounds", type=int, help="how often every row runs")
    parser.add_argument("--seconds", type=float, help="how long each time")
    parser.add_argument("--loader", choices=["bundled"], help="the bundled load generator, whatever is found")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write a chart (SVG)")
    return parser.parse_args()


if __name__ == "__main__":
    started = time.monotonic()
    try:
        code = main()
    except BenchError as error:
        sys.stderr.write(f"bench: {error}\n")
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.stderr.write(f"\n{time.monotonic() - started:.0f} s\n")
    sys.exit(code)
