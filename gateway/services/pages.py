"""Page tokens (AIP-158): opaque, and good for the one list that gave them out."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import orjson
from protobuf import Message, message_from_json_value

from gateway.rpc.errors import InvalidArgument
from gateway.rpc.status import DETAIL_TYPES

M = TypeVar("M", bound=Message)

DEFAULT_PAGE_SIZE = 50

_MARK_BYTES = 4
_ID_BYTES = 16
_NAME = re.compile(rb"[\x21-\x7e]{1,255}")


def page_size(requested: int) -> int:
    """The number of items on a page; 0 leaves it to the gateway."""
    return requested or DEFAULT_PAGE_SIZE


def encode_token(of_list: str, last_id: str | None) -> str:
    """The token of the page after `last_id`; empty when there is none."""
    return _encode(of_list, UUID(last_id).bytes) if last_id else ""


def decode_token(of_list: str, token: str) -> str | None:
    """The id that the page comes after; None for the first page.

    `of_list` names the list and all that narrows it. Raises InvalidArgument for a
    token that this list did not give out.
    """
    if not token:
        return None
    last = _decode(of_list, token)
    if len(last) != _ID_BYTES:
        raise _foreign()
    return str(UUID(bytes=last))


def encode_name_token(of_list: str, last_name: str | None) -> str:
    """As `encode_token`, for a list that goes by names."""
    return _encode(of_list, last_name.encode()) if last_name else ""


def decode_name_token(of_list: str, token: str) -> str | None:
    """As `decode_token`, for a list that goes by names."""
    if not token:
        return None
    last = _decode(of_list, token)
    if not _NAME.fullmatch(last):
        raise _foreign()
    return last.decode()


def read_message(text: str, message_type: type[M]) -> M:
    """The database's ProtoJSON as a message; fields that a newer schema has are passed over."""
    return message_type.from_json(text, ignore_unknown_fields=True)


def read_page(
    text: str, message_type: type[M], of_list: str, encode: Callable[[str, str | None], str] = encode_token
) -> M:
    """The database's page, `{<items>, "next": what the next one comes after or null}`, as the response.

    Fields of items that the type does not have are passed over.
    """
    page = orjson.loads(text)
    page["next_page_token"] = encode(of_list, page.pop("next"))
    return message_from_json_value(message_type, page, ignore_unknown_fields=True, registry=DETAIL_TYPES)


def _encode(of_list: str, last: bytes) -> str:
    return base64.urlsafe_b64encode(_mark(of_list) + last).rstrip(b"=").decode()


def _decode(of_list: str, token: str) -> bytes:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _foreign() from None
    if raw[:_MARK_BYTES] != _mark(of_list):
        raise _foreign()
    return raw[_MARK_BYTES:]


def _foreign() -> InvalidArgument:
    problem = "is not a token that this list gave out"
    msg = f"page_token {problem}: start again without one."
    return InvalidArgument(msg, reason="INVALID_PAGE_TOKEN", fields={"page_token": problem})


def _mark(of_list: str) -> bytes:
    return hashlib.sha256(of_list.encode()).digest()[:_MARK_BYTES]
