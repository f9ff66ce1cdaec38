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


def signed_headers(signing: Iterable[str], delivery_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that sign a body, with each of the secrets."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_mac(secret, signed)}" for secret in signing),
    }


def _mac(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
