"""Entity tags and conditional requests (RFC 9110, 8.8.3 and 13.1.2)."""

from __future__ import annotations

import re
from hashlib import blake2b

_TAG = re.compile(rb'(?:W/)?("[^"]*")')


def entity_tag(body: bytes) -> bytes:
    """A weak tag of a response body: the same message has it in every content coding."""
    return b'W/"%b"' % blake2b(body, digest_size=12).hexdigest().encode()


def none_match(if_none_match: bytes, tag: bytes) -> bool:
    """Whether an If-None-Match header has the tag, by the weak comparison."""
    if if_none_match.strip() == b"*":
        return True
    return tag.removeprefix(b"W/") in _TAG.findall(if_none_match)
