"""Request headers in the one form that the chain reads."""

from __future__ import annotations

from collections.abc import Iterable


def joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by name, with several values of one name joined by commas (RFC 9110, 5.3)."""
    pairs = list(pairs)
    metadata = dict(pairs)
    if len(metadata) == len(pairs):
        return metadata
    metadata = {}
    for name, value in pairs:
        metadata[name] = f"{metadata[name]}, {value}" if name in metadata else value
    return metadata
