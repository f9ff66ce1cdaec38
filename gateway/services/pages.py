"""Lists by pages (AIP-158). Their tokens are opaque, and good for the one list that gave them out."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

import orjson
from protobuf import Message

from gateway.rpc.errors import InvalidArgument
from gateway.rpc.stored_json import message_of

M = TypeVar("M", bound=Message)

DEFAULT_PAGE_SIZE = 50

_MARK_BYTES = 4
_ID_BYTES = 16
_NAME = re.compile(rb"[\x21-\x7e]{1,255}")


class PageRequest(Protocol):
    """A request for a page; a size of 0 leaves that to the gateway."""

    page_size: int
    page_token: str


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


@dataclass(frozen=True, slots=True)
class Tokens:
    """How a list makes its tokens of what the next page comes after, and reads them."""

    encode: Callable[[str, str | None], str]
    decode: Callable[[str, str], str | None]


BY_ID = Tokens(encode_token, decode_token)
BY_NAME = Tokens(encode_name_token, decode_name_token)


async def list_page(
    query: Callable[..., Awaitable[str]],
    request: PageRequest,
    response_type: type[M],
    of_list: str,
    tokens: Tokens = BY_ID,
) -> M:
    """One page of a list, as the response.

    `query` calls the list's SQL function, which takes `p_after` and `p_limit` besides and answers
    `{<items>, "next": what the next page comes after or null}`. `of_list` names the list and all that
    narrows it. Raises InvalidArgument for a page token that this list did not give out.
    """
    text = await query(
        p_after=tokens.decode(of_list, request.page_token),
        p_limit=request.page_size or DEFAULT_PAGE_SIZE,
    )
    page = orjson.loads(text)
    page["next_page_token"] = tokens.encode(of_list, page.pop("next"))
    return message_of(page, response_type)


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
