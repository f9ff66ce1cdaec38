"""Attacks a gateway of its own, and prints what each cost: `python -m tests.attacks`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.attacks.attacks import ATTACKS
from tests.attacks.measure import measure, start
from tests.conftest import stop_dev

_ROW = "| {} | {} | {:.1f} s | {:.1f} s | {:+.0f} MB | {:.0f} ms |\n"


def _attack_all(directory: Path) -> None:
    dev = start(directory)
    sys.stdout.write("| attack | answer | time | CPU | memory | slowest call of others |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    try:
        for name in ATTACKS:
            cost = measure(dev, name)
            row = name, cost.answer, cost.seconds, cost.cpu, cost.grown, cost.slowest * 1000
            sys.stdout.write(_ROW.format(*row))
            sys.stdout.flush()
    finally:
        stop_dev(dev)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        _attack_all(Path(scratch))
