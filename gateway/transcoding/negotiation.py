"""Content negotiation (RFC 9110, 8.3 and 12.5): which form is sent, and which forms are taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
EVENT_STREAM: Final = "text/event-stream"

_CACHED = 256
"""Headers up to this length are remembered; longer ones are read each time."""


def negotiate(accept: bytes, offers: tuple[str, ...]) -> str | None:
    """The best of `offers` for an Accept header, or None when it refuses all of them.

    The highest quality wins; among equals the more specific range, then the one
    that the header names first, then the first offer. An empty header accepts
    everything.
    """
    if not accept or accept == b"*/*":
        return offers[0]
    return (_negotiate_cached if len(accept) <= _CACHED else _negotiate)(accept, offers)


def accepts_gzip(accept_encoding: bytes) -> bool:
    """Whether an Accept-Encoding header prefers gzip, or takes it as well as anything."""
    if b"gzip" not in accept_encoding and b"*" not in accept_encoding:
        return False
    qualities = {name: quality for name, quality, _ in _elements(accept_encoding)}
    gzip = qualities.get("gzip", qualities.get("*", 0.0))
    return gzip > 0.0 and gzip >= qualities.get("identity", 0.0)


def is_json(content_type: bytes) -> bool:
    """Whether a request body of this type is read as JSON; UTF-8 is the only charset."""
    return content_type == b"application/json" or _is_json(content_type[:_CACHED])


def is_ndjson(content_type: bytes) -> bool:
    """Whether a request body of this type is one JSON value a line."""
    return content_type.partition(b";")[0].strip().lower() == NDJSON.encode()


@lru_cache(maxsize=256)
def _is_json(content_type: bytes) -> bool:
    media_type, *parameters = content_type.decode("latin-1").lower().split(";")
    if media_type.strip() != JSON:
        return False
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8"):
            return False
    return True


def _negotiate(accept: bytes, offers: tuple[str, ...]) -> str | None:
    elements = list(_elements(accept))
    best: tuple[float, int, int, int] | None = None
    chosen: str | None = None
    for index, offer in enumerate(offers):
        rank = _rank(offer, elements)
        if rank is not None:
            quality, specificity, position = rank
            key = (quality, specificity, -position, -index)
            if quality > 0.0 and (best is None or key > best):
                best, chosen = key, offer
    return chosen


_negotiate_cached = lru_cache(maxsize=256)(_negotiate)


def _rank(offer: str, elements: Sequence[tuple[str, float, int]]) -> tuple[float, int, int] | None:
    """Quality, specificity and position of the most specific range that covers the offer."""
    ranges = {offer: 2, f"{offer.partition('/')[0]}/*": 1, "*/*": 0}
    covering = [(ranges[name], quality, position) for name, quality, position in elements if name in ranges]
    if not covering:
        return None
    specificity, quality, position = max(covering, key=lambda element: (element[0], -element[2]))
    return quality, specificity, position


def _elements(header: bytes) -> Iterator[tuple[str, float, int]]:
    """Name, quality and position of each element; other parameters than q are ignored."""
    for position, element in enumerate(header.decode("latin-1").lower().split(",")):
        name, *parameters = element.split(";")
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                quality = _quality(value.strip())
        if name.strip():
            yield name.strip(), quality, position


def _quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0.0 <= value <= 1.0 else 0.0
