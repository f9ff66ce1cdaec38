"""The form of API keys: `gw_live_<public id>_<secret>`, in lower-case base32 (RFC 4648, section 6).

The prefix with the public id (80 random bits) names the key and is no secret; the secret has 256 random bits.
Only a hash of the secret is stored: with that much chance in it, no salt and no slow hash would add to it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import Literal

Environment = Literal["live", "test"]

_KEY = re.compile(r"(gw_(?:live|test)_[a-z2-7]{16})_([a-z2-7]{52})")
_PUBLIC_BYTES = 10
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key and its client secret, which are shown once; only `public_id` and `secret_hash` are stored."""

    key: str = field(repr=False)
    public_id: str
    secret_hash: str
    client_secret: str = field(repr=False)

    @property
    def client_secret_name(self) -> str:
        """The name of the client secret in the vault."""
        return client_secret_name(self.secret_hash)


def new_key(environment: Environment = "live") -> NewKey:
    """Make a key with a public id of its own."""
    return new_secret(f"gw_{environment}_{_random(_PUBLIC_BYTES)}")


def new_secret(public_id: str) -> NewKey:
    """Make another secret and client secret for a key."""
    secret = _random(_SECRET_BYTES)
    return NewKey(f"{public_id}_{secret}", public_id, _hash(secret), f"gw_secret_{_random(_SECRET_BYTES)}")


def client_secret_name(secret_hash: str) -> str:
    """The name in the vault of the client secret that goes with a key's secret."""
    return f"api_key/{secret_hash}"


def parse_key(key: str) -> tuple[str, str] | None:
    """The public id of a key and the hash of its secret; None for what has not the form of a key."""
    match = _KEY.fullmatch(key)
    return (match[1], _hash(match[2])) if match else None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _random(count: int) -> str:
    return base64.b32encode(secrets.token_bytes(count)).rstrip(b"=").decode().lower()
