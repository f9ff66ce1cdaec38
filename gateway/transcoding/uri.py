"""Percent-decoding of paths and query strings, once and strictly (RFC 3986, HTML form encoding)."""

from __future__ import annotations

import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

_MALFORMED = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODED_SLASH = re.compile(r"(%2[Ff])")
_ASCII = bytes(range(0x21, 0x7F))


class UriError(ValueError):
    """A path or query string that is not percent-encoded UTF-8. Never quotes the input."""


def ascii_path(raw: bytes | str) -> str:
    """The path as ASCII text; bytes outside of ASCII become percent-encoded.

    Raises UriError for a ``%`` that two hexadecimal digits do not follow.
    """
    try:
        path = raw if isinstance(raw, str) else raw.decode("ascii")
        if not path.isascii():
            path = quote_from_bytes(path.encode("utf-8", "surrogatepass"), safe=_ASCII)
    except UnicodeDecodeError:
        path = quote_from_bytes(raw if isinstance(raw, bytes) else raw.encode(), safe=_ASCII)
    if "%" in path and _MALFORMED.search(path):
        message = "the path has a malformed percent-encoding"
        raise UriError(message)
    return path


def decode_segment(raw: str) -> str:
    """The text of one path segment. Raises UriError when it is not UTF-8."""
    if "%" not in raw:
        return raw
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        message = "the path is not UTF-8"
        raise UriError(message) from None


def decode_segments(raw: str) -> str:
    """The text of several path segments: ``%2F`` stays, since it is not a separator."""
    if "%" not in raw:
        return raw
    pieces = _ENCODED_SLASH.split(raw)
    pieces[::2] = [decode_segment(piece) for piece in pieces[::2]]
    return "".join(pieces)


def comparable_segment(raw: str) -> str:
    """The form in which literals are compared: decoded, except for ``%2F``."""
    if "%" not in raw:
        return raw
    pieces = _ENCODED_SLASH.split(raw)
    pieces[::2] = [unquote_to_bytes(piece).decode("utf-8", "surrogateescape") for piece in pieces[::2]]
    pieces[1::2] = ["%2F"] * (len(pieces) // 2)
    return "".join(pieces)


def parse_query(raw: bytes) -> list[tuple[str, str]]:
    """Names and values in the order sent; ``+`` is a space.

    Raises UriError for malformed percent-encoding and for anything but UTF-8.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        message = "the query string is not UTF-8"
        raise UriError(message) from None
    if "+" in text:
        text = text.replace("+", " ")
    encoded = "%" in text
    if encoded and _MALFORMED.search(text):
        message = "the query string has a malformed percent-encoding"
        raise UriError(message)
    pairs: list[tuple[str, str]] = []
    for part in text.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((_decode(name), _decode(value)) if encoded else (name, value))
    return pairs


def _decode(text: str) -> str:
    if "%" not in text:
        return text
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        message = "the query string is not UTF-8"
        raise UriError(message) from None
