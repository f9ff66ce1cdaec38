"""Where a call stands in the bigger picture: its request id and its trace."""

from __future__ import annotations

import re
from random import getrandbits
from typing import TYPE_CHECKING

import uuid_utils

from gateway.rpc.call import current_request_id

if TYPE_CHECKING:
    from gateway.rpc.call import Call

REQUEST_ID_HEADER = "x-request-id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
# Version 00 ends with its flags; one that is newer may go on.
_TRACEPARENT = re.compile(
    r"(?:00(?=.{53}\Z)|(?!00|ff)[0-9a-f]{2})"
    r"-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?"
)
_KNOWN_FLAGS = 0b11


async def establish_context(call: Call) -> None:
    """Take the caller's request id and trace when they are well-formed, else start new ones.

    Traces are those of W3C Trace Context, section 3.2; flags that are not known are not
    passed on (sampled and random-trace-id are).
    """
    given = call.metadata.get(REQUEST_ID_HEADER)
    request_id = given if given and _REQUEST_ID.fullmatch(given) else str(uuid_utils.uuid7())
    call.request_id = request_id
    current_request_id.set(request_id)
    call.response_metadata.append((REQUEST_ID_HEADER, request_id))
    call.traceparent = _continued(call.metadata.get("traceparent"))


def _continued(traceparent: str | None) -> str:
    """The trace with a new parent id. Such ids are unique and not secret: no need to ask the kernel."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None:
        return f"00-{getrandbits(128) or 1:032x}-{getrandbits(64) or 1:016x}-00"
    return f"00-{match[1]}-{getrandbits(64) or 1:016x}-{int(match[2], 16) & _KNOWN_FLAGS:02x}"
