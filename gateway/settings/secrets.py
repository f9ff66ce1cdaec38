"""Secrets: how long they must be, and the keys that seal others. No fault tells of one."""

from __future__ import annotations

import base64
import re
from typing import Annotated

from pydantic import AfterValidator, SecretStr

MAKE_SECRET = "`openssl rand -hex 32` makes one"  # noqa: S105

_VAULT_KEY_BYTES = 32
_VAULT_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")


def plain(secret: SecretStr | None) -> str:
    """The secret itself; empty for one that is not set."""
    return "" if secret is None else secret.get_secret_value()


def least_bytes(least: int, why: str) -> AfterValidator:
    """What holds a secret to a length in bytes, once it is encoded as UTF-8."""

    def check(value: SecretStr) -> SecretStr:
        if len(value.get_secret_value().encode()) < least:
            msg = f"needs at least {least} bytes{why}"
            raise ValueError(msg)
        return value

    return AfterValidator(check)


def least_characters(least: int) -> AfterValidator:
    """What holds a secret to a length in characters."""

    def check(value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < least:
            msg = f"needs at least {least} characters; {MAKE_SECRET}"
            raise ValueError(msg)
        return value

    return AfterValidator(check)


def parse_vault_keys(text: str) -> list[tuple[str, bytes]]:
    """`[id:]base64` of 32 bytes, several joined by commas; the id is 1 when none is given.

    Raises ValueError.
    """
    keys: dict[str, bytes] = {}
    for part in text.split(","):
        key_id, _, encoded = part.strip().rpartition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        key_id = key_id or "1"
        if len(key) != _VAULT_KEY_BYTES or not _VAULT_KEY_ID.fullmatch(key_id) or key_id in keys:
            msg = (
                "must be 32 bytes in base64 (`openssl rand -base64 32`); to change it, NEW_ID:NEW,OLD_ID:OLD"
            )
            raise ValueError(msg)
        keys[key_id] = key
    return list(keys.items())


def _not_empty(value: SecretStr) -> SecretStr:
    if not value.get_secret_value():
        msg = "must not be empty"
        raise ValueError(msg)
    return value


def _of_the_vault(value: SecretStr) -> SecretStr:
    parse_vault_keys(value.get_secret_value())
    return value


NonEmptySecret = Annotated[SecretStr, AfterValidator(_not_empty)]
JwtSecret = Annotated[SecretStr, least_bytes(32, " (RFC 7518, section 3.2)")]
MacKey = Annotated[SecretStr, least_bytes(32, f"; {MAKE_SECRET}")]
BearerToken = Annotated[SecretStr, least_characters(32)]
VaultKeys = Annotated[SecretStr, AfterValidator(_of_the_vault)]
