"""Traces of W3C Trace Context, level 1: a caller's goes on, and a new one begins where there is none."""

from __future__ import annotations

import re
from random import getrandbits

# Version 00 ends with its flags; one that is newer may go on.
_TRACEPARENT = re.compile(
    r"(?:00(?=.{53}\Z)|(?!00|ff)[0-9a-f]{2})"
    r"-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?"
)
_KNOWN_FLAGS = 0b11


def continued(traceparent: str | None) -> str:
    """The trace with a new parent id. Such ids are unique and not secret: no need to ask the kernel.

    Flags that are not known are not passed on (sampled and random-trace-id are; section 3.2).
    """
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None:
        return f"00-{getrandbits(128) or 1:032x}-{getrandbits(64) or 1:016x}-00"
    return f"00-{match[1]}-{getrandbits(64) or 1:016x}-{int(match[2], 16) & _KNOWN_FLAGS:02x}"
