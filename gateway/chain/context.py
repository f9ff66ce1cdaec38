"""Where a call stands in the bigger picture: its request id."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import uuid_utils

from gateway.rpc.call import current_request_id

if TYPE_CHECKING:
    from gateway.rpc.call import Call

REQUEST_ID_HEADER = "x-request-id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")


async def establish_context(call: Call) -> None:
    """Take the caller's request id when it is well-formed, else make one."""
    given = call.metadata.get(REQUEST_ID_HEADER)
    request_id = given if given and _REQUEST_ID.fullmatch(given) else str(uuid_utils.uuid7())
    call.request_id = request_id
    current_request_id.set(request_id)
    call.response_metadata.append((REQUEST_ID_HEADER, request_id))
