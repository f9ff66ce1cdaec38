"""Page tokens (AIP-158): opaque, and good for the one list that gave them out."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TypeVar
from uuid import UUID

import orjson
from protobuf import Message, message_from_json_value

from gateway.rpc.errors import InvalidArgument

M = TypeVar("M", bound=Message)

DEFAULT_PAGE_SIZE = 50

_MARK_BYTES = 4


def page_size(requested: int) -> int:
    """The number of items on a page; 0 leaves it to the gateway."""
    return requested or DEFAULT_PAGE_SIZE


def encode_token(of_list: str, last_id: str | None) -> str:
    """The token of the page after `last_id`; empty when there is none."""
    if not last_id:
        return ""
    return base64.urlsafe_b64encode(_mark(of_list) + UUID(last_id).bytes).rstrip(b"=").decode()


def decode_token(of_list: str, token: str) -> str | None:
    """The id that the page comes after; None for the first page.

    `of_list` names the list and all that narrows it. Raises InvalidArgument for a
    token that this list did not give out.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _MARK_BYTES + 16 or raw[:_MARK_BYTES] != _mark(of_list):
        problem = "is not a token that this list gave out"
        msg = f"page_token {problem}: start again without one."
        raise InvalidArgument(msg, reason="INVALID_PAGE_TOKEN", fields={"page_token": problem})
    return str(UUID(bytes=raw[_MARK_BYTES:]))


def read_page(text: str, message_type: type[M], of_list: str) -> M:
    """The database's page, `{<items>, "next": last id or null}`, as the list's response."""
    page = orjson.loads(text)
    page["next_page_token"] = encode_token(of_list, page.pop("next"))
    return message_from_json_value(message_type, page)


def _mark(of_list: str) -> bytes:
    return hashlib.sha256(of_list.encode()).digest()[:_MARK_BYTES]
