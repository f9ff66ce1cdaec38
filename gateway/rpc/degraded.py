"""What is done while a part of the gateway's surroundings is away: the one table of it.

Readiness, the metrics and the header `Gateway-Degraded` tell of it in these words.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import structlog

from gateway import metrics

log = structlog.get_logger("gateway")

HEADER = "gateway-degraded"


class Part(StrEnum):
    """What the gateway needs and does not have within itself."""

    DATABASE = "database"
    IDENTITY = "identity"
    N8N = "n8n"
    REDIS = "redis"


class Loss(NamedTuple):
    """What it means that a part is away: `mode` for machines, `effect` for people.

    Without a part that `stops_calls` none can be served.
    """

    mode: str
    effect: str
    stops_calls: bool = False


WITHOUT: dict[Part, Loss] = {
    Part.DATABASE: Loss(
        "unavailable",
        "Calls are UNAVAILABLE and say when to come back. Nothing runs that could not be charged;"
        " runs that have ended wait to be settled.",
        stops_calls=True,
    ),
    Part.IDENTITY: Loss(
        "cached_keys",
        "Keys that are known go on serving for a bounded time; tokens of others are UNAUTHENTICATED.",
    ),
    Part.N8N: Loss("unavailable", "Runs are UNAVAILABLE, and their credits are given back."),
    Part.REDIS: Loss(
        "local_fallback",
        "Each replica keeps callers to its share of the rate limits. Fingerprints are compared only for"
        " organizations that refuse by them, with the database's record. What all replicas must know at once"
        " is UNAVAILABLE; streams go on.",
    ),
}


class Parts:
    """Which parts are away, as those find out who use them; `changes` counts goings and comings."""

    def __init__(self) -> None:
        self._away: set[Part] = set()
        self.header = ""
        self.changes = 0
        for part in Part:
            self._measure(part)

    def report(self, part: Part, *, is_there: bool) -> None:
        """Tell how a part was found just now."""
        if is_there is (part not in self._away):
            return
        if is_there:
            self._away.discard(part)
            log.info("part is back", part=part.value)
        else:
            self._away.add(part)
            log.warning("part is away", part=part.value, effect=WITHOUT[part].effect)
        self.changes += 1
        self.header = ", ".join(f"{away.value}={WITHOUT[away].mode}" for away in sorted(self._away))
        self._measure(part)

    def _measure(self, part: Part) -> None:
        metrics.PART_AWAY.labels(part.value, WITHOUT[part].mode).set(part in self._away)
