"""Runs the rows: each one checked once, warmed up, and then measured in every round."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import held, latency, load, session_token
from tests.bench.processes import BenchError, Servers, cpu_seconds
from tests.bench.report import Sample
from tests.bench.rows import Row, holds

_WARM_UP_SECONDS = 0.3


@dataclass(frozen=True)
class Plan:
    """How often and how long every row runs, and by which load generator."""

    rounds: int
    seconds: float
    tool: str


class Bench:
    """One run of some rows on servers that are started for it."""

    def __init__(self, plan: Plan, generated: Path, scratch: Path) -> None:
        self._plan = plan
        self._sizes: dict[str, int] = {}
        self.streams = held.allowed()
        self._scratch = scratch
        keys = scratch / "jwks.json"
        self._token = session_token.issue(keys)
        self.servers = Servers(generated, keys, scratch / "parts")

    def check(self, row: Row) -> None:
        """Make one call. Raises BenchError when the answer is not what the row is measured for."""
        port = self.servers.get(row.server).ports[row.port]
        answer = load.once(row, port, self._tokens(row)[0])
        if not holds(row, answer):
            raise BenchError(f"{row.key} answers something else: {answer[-300:]!r}")
        self._sizes[row.key] = len(answer)

    def warm_up(self, row: Row) -> None:
        """Run a row for a moment."""
        (self.time if row.is_timed else self.measure)(row, _WARM_UP_SECONDS)

    def measure(self, row: Row, seconds: float) -> Sample:
        """Load the row's server for that long. Raises BenchError when calls fail."""
        server = self.servers.get(row.server)
        tokens = self._tokens(row)
        before = cpu_seconds(server.pids)
        seconds = max(seconds, row.seconds)
        result = load.run(row, server.ports[row.port], tokens, seconds, self._plan.tool, self._scratch)
        after = cpu_seconds(server.pids)
        spent = None if before is None or after is None else after - before
        calls = result.bytes / self._sizes[row.key] if row.seconds else result.calls
        return Sample(calls / result.seconds, None if spent is None else spent / calls * 1e6)

    def time(self, row: Row, seconds: float) -> Sample:
        """Time the calls of a row, at its share of what the server can do. Raises BenchError."""
        port, tokens = self.servers.get(row.server).ports[row.port], self._tokens(row)
        per_second = None
        if row.share:
            most = load.run(row, port, tokens, seconds, self._plan.tool, self._scratch)
            per_second = row.share * most.calls / most.seconds
        return Sample(latency=latency.measure(row, port, tokens, seconds, per_second))

    def hold(self, row: Row) -> Sample:
        """Open streams that do not end. Raises BenchError when one does not begin."""
        server = self.servers.new(row.server)
        return Sample(held=held.measure(row, server, self._tokens(row), self.streams))

    def _tokens(self, row: Row) -> list[str]:
        return self.servers.parts().tokens[row.tenants] if row.tenants else [self._token]


def run(
    rows: Sequence[Row], plan: Plan, generated: Path, progress: Callable[[str], None]
) -> dict[str, list[Sample]]:
    """The samples of every row by its key. Raises BenchError."""
    samples: dict[str, list[Sample]] = {row.key: [] for row in rows}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        bench = Bench(plan, generated, Path(scratch))
        with bench.servers:
            for row in rows:
                if row.is_held:
                    fewer = "" if bench.streams == held.MANY else " (what the limit of open files allows)"
                    progress(f"opening {bench.streams:,} streams{fewer}: {row.key}")
                    samples[row.key].append(bench.hold(row))
                    continue
                progress(f"warming up: {row.key}")
                bench.check(row)
                bench.warm_up(row)
            for number in range(1, plan.rounds + 1):
                for row in rows:
                    if row.is_held:
                        continue
                    progress(f"round {number} of {plan.rounds}: {row.key}")
                    take = bench.time if row.is_timed else bench.measure
                    samples[row.key].append(take(row, plan.seconds))
    return samples
