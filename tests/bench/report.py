"""What a run found: a table for people, JSON for machines, a chart (SVG)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.rows import AIMS, Aim, Row

_BAR_HEIGHT, _LABEL_WIDTH, _BAR_WIDTH, _NUMBER_WIDTH = 22, 270, 420, 90


@dataclass(frozen=True)
class Held:
    """Streams that were open at one time, and KiB of their server's memory for each."""

    streams: int
    kib_each: float


@dataclass(frozen=True)
class Latency:
    """How long callers wait, in milliseconds: half of them at most `p50_ms`, all but a hundredth `p99_ms`."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Sample:
    """One run of one row: calls a second, and CPU microseconds of its server for each call.

    Or what was found of streams that are held open, or of calls that were timed.
    """

    rate: float = 0.0
    cpu_us: float | None = None
    held: Held | None = None
    latency: Latency | None = None


Samples = Mapping[str, Sequence[Sample]]
"""The runs of each row by its key, in the order of the rounds."""


def rate(samples: Sequence[Sample]) -> float:
    """The median of a row's rates."""
    return median(sample.rate for sample in samples)


def cpu_us(samples: Sequence[Sample]) -> float | None:
    """The median of a row's CPU microseconds a call."""
    known = [sample.cpu_us for sample in samples if sample.cpu_us is not None]
    return median(known) if known else None


def ratio(ours: Sequence[Sample], peers: Sequence[Sample]) -> float:
    """The median of the rounds' ratios: both rows of a round ran within the same minute."""
    return median(one.rate / other.rate for one, other in zip(ours, peers, strict=True))


def cpu_ratio(ours: Sequence[Sample], peers: Sequence[Sample]) -> float | None:
    """The same by CPU time a call, which other work on the machine disturbs less."""
    mine, theirs = cpu_us(ours), cpu_us(peers)
    return theirs / mine if mine and theirs else None


def groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each group that are under load, the gateway's own first."""
    loaded = [row for row in rows if row.is_loaded]
    for group, members in groupby(loaded, key=lambda row: row.group):
        yield group, list(members)


def as_json(rows: Sequence[Row], samples: Samples, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        **about,
        "rows": [
            {
                "group": row.group,
                "name": row.name,
                "calls_per_second": round(rate(samples[row.key]), 1),
                "cpu_us_per_call": _rounded(cpu_us(samples[row.key])),
                "runs": [[round(sample.rate, 1), _rounded(sample.cpu_us)] for sample in samples[row.key]],
            }
            for row in rows
            if row.is_loaded
        ],
        "open_streams": [
            {"name": name, "streams": held.streams, "kib_each": round(held.kib_each, 1)}
            for name, held in _held(rows, samples)
        ],
        "latencies": [
            {"row": row.key, "p50_ms": round(found.p50_ms, 3), "p99_ms": round(found.p99_ms, 3)}
            for row, found in _latencies(rows, samples)
        ],
        "ratios": [
            {
                "row": first.key,
                "peer": row.key,
                "ratio": round(ratio(samples[first.key], samples[row.key]), 3),
                "cpu_ratio": _rounded(cpu_ratio(samples[first.key], samples[row.key]), 3),
            }
            for _, (first, *others) in groups(rows)
            for row in others
        ],
        "aims": [
            {
                "row": aim.row,
                "peer": aim.peer,
                "aim": aim.ratio,
                "ratio": round(found, 3),
                "cpu_ratio": _rounded(by_cpu, 3),
            }
            for aim, found, by_cpu in _aims(samples)
        ],
    }


def show(rows: Sequence[Row], samples: Samples, console: Console) -> None:
    """The table and the aims."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "calls/s", "CPU us/call", "first row / this", "by CPU"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for group, (first, *others) in groups(rows):
        table.add_row(f"[bold]{group}[/]")
        for row in (first, *others):
            found = samples[row.key]
            cpu = cpu_us(found)
            times = "" if row is first else f"{ratio(samples[first.key], found):.2f}"
            by_cpu = None if row is first else cpu_ratio(samples[first.key], found)
            table.add_row(
                f"  {row.name}", f"{rate(found):,.0f}", _shown(cpu, ",.0f"), times, _shown(by_cpu, ".2f")
            )
    if table.row_count:
        console.print(table)
    _show_latencies(_latencies(rows, samples), console)
    _show_held(_held(rows, samples), console)
    aims = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("aim", "", "at least", "found", "by CPU", ""):
        aims.add_column(name, justify="left" if name in ("aim", "") else "right", no_wrap=True)
    for aim, found, by_cpu in _aims(samples):
        verdict = "[green]yes[/]" if found >= aim.ratio else "[red]no[/]"
        shown = f"{aim.ratio:.2f}", f"{found:.2f}", _shown(by_cpu, ".2f"), verdict
        aims.add_row(aim.row, f"/ {aim.peer}", *shown)
    if aims.row_count:
        console.print()
        console.print(aims)


def _latencies(rows: Sequence[Row], samples: Samples) -> list[tuple[Row, Latency]]:
    """The medians of each row's rounds."""
    found = []
    for row in rows:
        known = [sample.latency for sample in samples[row.key] if sample.latency is not None]
        if known:
            p50, p99 = (
                median(each) for each in zip(*((one.p50_ms, one.p99_ms) for one in known), strict=True)
            )
            found.append((row, Latency(p50, p99)))
    return found


def _show_latencies(found: Sequence[tuple[Row, Latency]], console: Console) -> None:
    if not found:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for group, members in groupby(found, key=lambda each: each[0].group):
        table.add_row(f"[bold]{group}[/]")
        for row, latency in members:
            table.add_row(f"  {row.name}", f"{latency.p50_ms:,.2f}", f"{latency.p99_ms:,.2f}")
    console.print()
    console.print(table)


def _held(rows: Sequence[Row], samples: Samples) -> list[tuple[str, Held]]:
    """What was found of each row whose streams are held open, by its name."""
    found = ((row.name, samples[row.key][0].held) for row in rows if row.is_held)
    return [(name, held) for name, held in found if held is not None]


def _show_held(found: Sequence[tuple[str, Held]], console: Console) -> None:
    if not found:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "open streams", "KiB each"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, held in found:
        table.add_row(f"  {name}", f"{held.streams:,}", f"{held.kib_each:,.1f}")
    console.print()
    console.print(table)


def chart(rows: Sequence[Row], samples: Samples, title: str) -> str:
    """Bars of calls a second, each group on its own scale."""
    parts: list[str] = []
    y = 40
    for group, members in groups(rows):
        y += 14
        parts.append(f'<text x="10" y="{y}" class="group">{escape(group)}</text>')
        y += 8
        longest = max(rate(samples[row.key]) for row in members)
        for index, row in enumerate(members):
            value = rate(samples[row.key])
            width = _BAR_WIDTH * value / longest
            middle = y + _BAR_HEIGHT - 7
            box = f'x="{_LABEL_WIDTH}" y="{y + 3}" height="{_BAR_HEIGHT - 6}"'
            parts += [
                f'<text x="20" y="{middle}">{escape(row.name)}</text>',
                f'<rect class="{"peer" if index else "ours"}" {box} width="{width:.1f}"/>',
                f'<text x="{_LABEL_WIDTH + width + 6:.1f}" y="{middle}">{value:,.0f}</text>',
            ]
            y += _BAR_HEIGHT
        y += 12
    size = f'width="{_LABEL_WIDTH + _BAR_WIDTH + _NUMBER_WIDTH}" height="{y}"'
    style = (
        "text{font:13px sans-serif;fill:#222}.group{font-weight:bold}.title{font-size:15px;font-weight:bold}"
        ".ours{fill:#e4572e}.peer{fill:#9aa5b1}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
            f'<style>{style}</style><rect {size} fill="#fff"/>',
            f'<text x="10" y="24" class="title">{escape(title)}</text>',
            *parts,
            "</svg>\n",
        ]
    )


def _aims(samples: Samples) -> Iterator[tuple[Aim, float, float | None]]:
    for aim in AIMS:
        if aim.row in samples and aim.peer in samples:
            ours, peers = samples[aim.row], samples[aim.peer]
            yield aim, ratio(ours, peers), cpu_ratio(ours, peers)


def _rounded(number: float | None, digits: int = 1) -> float | None:
    return None if number is None else round(number, digits)


def _shown(number: float | None, form: str) -> str:
    return "" if number is None else f"{number:{form}}"
