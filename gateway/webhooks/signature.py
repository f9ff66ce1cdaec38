"""Signatures of the Standard Webhooks specification (symmetric, "v1").

    webhook-id          the delivery's id, the same in every attempt
    webhook-timestamp   seconds since 1970, of the attempt
    webhook-signature   "v1," base64 of HMAC-SHA256(secret, id "." timestamp "." body); one or more, with
                        spaces between

A secret is written "whsec_" and its bytes in base64.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

_PREFIX = "whsec_"
_SECRET_BYTES = 32


def new_secret() -> str:
    """A new secret, of 32 random bytes."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


class SecretError(Exception):
    """Nothing can be signed with the secrets; the text says why, and nothing of what they are."""


def signed_headers(signing: Iterable[str], delivery_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that sign a body, with each secret. Raises SecretError for none, and a malformed one."""
    keys = [_key(secret) for secret in signing]
    if not keys:
        msg = "it has none"
        raise SecretError(msg)
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_mac(key, signed)}" for key in keys),
    }


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:
        msg = "it is malformed"
        raise SecretError(msg) from None


def _mac(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
