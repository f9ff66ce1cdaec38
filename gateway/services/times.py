"""Times of requests, as SQL takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from protobuf.wkt import Timestamp


def time_text(time: Timestamp | None) -> str | None:
    """RFC 3339; None for none."""
    return None if time is None else orjson.loads(time.to_json())
