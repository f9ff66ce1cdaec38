"""What is measured, all in one place: counters of this process, in Prometheus' form.

No label holds an organization, a user, a key, a workflow or an address: their numbers have no bound, and
what they do is nobody's business who reads metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

_PREFIX = "n8n_gateway"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, namespace=_PREFIX, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, namespace=_PREFIX, registry=REGISTRY)


def _histogram(name: str, text: str, *labels: str) -> Histogram:
    return Histogram(name, text, labels, namespace=_PREFIX, registry=REGISTRY, buckets=_SECONDS)


CALLS = _counter("calls", "Calls that have ended, by their gRPC code.", "method", "code", "door")
CALL_SECONDS = _histogram("call_seconds", "How long calls took, streams to their end.", "method", "door")
CALLS_RUNNING = _gauge("calls_running", "Calls under way, streams among them.", "door")
STREAMS_OPEN = _gauge("streams_open", "Streams that are open.", "door")
AUTHENTICATIONS = _counter(
    "authentications",
    "Callers by kind, and how it ended: ok, or the reason of the refusal.",
    "kind",
    "outcome",
)
RATE_LIMIT = _counter(
    "rate_limit_decisions",
    "Calls held against a quota, by all replicas together (shared) or by this one (local).",
    "policy",
    "outcome",
    "mode",
)
TURNED_AWAY = _counter("turned_away", "Calls refused by their address before authentication.", "limit")
DATABASE_SECONDS = _histogram("database_seconds", "How long SQL functions took, and the way.", "function")
DATABASE_FAILURES = _counter("database_failures", "Calls that the database did not answer.", "function")
DATABASE_CONNECTIONS = _gauge("database_connections", "Connections by state, and who waits for one.", "state")
N8N_SECONDS = _histogram("n8n_seconds", "How long n8n took to begin its answer to a run.", "outcome")
N8N_CIRCUITS_OPEN = _gauge("n8n_circuits_open", "n8n instances that are away, so that no run is sent.")
EXECUTIONS = _counter("executions", "Executions that have ended and are settled, by state.", "state")
EVENTS_BYTES = _gauge("events_bytes", "What the events of runs take of Redis, as it told last.")
EVENTS_DROPPED = _counter("events_dropped", "Runs whose events in Redis were dropped early, to make room.")
PART_AWAY = _gauge("part_away", "1 while a part of the gateway's surroundings is away.", "part", "mode")
REPLICAS = _gauge("replicas", "Replicas that share the Redis, as it told last.")


def watch(gauge: Gauge, counts: Callable[[], Mapping[str, int]]) -> None:
    """Let a gauge of one label ask for its values when somebody wants to see them."""

    def count(label: str) -> float:
        return counts()[label]

    for label in counts():
        gauge.labels(label).set_function(partial(count, label))
