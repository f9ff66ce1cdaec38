"""A run's own token: what n8n shows to prove which run a call of its is about.

    token  = execution id "." organization id "." mac
    mac    = hex of HMAC-SHA256(key, execution id LF organization id)
    key    = HKDF-SHA256 (RFC 5869) of N8N_INTERNAL_AUTH_SECRET

Every replica makes the same token and none is stored. It says which run, and nothing may be done with it but
what n8n does about a run that is its own.
"""

from __future__ import annotations

import hmac
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HEADER = "x-gateway-execution-token"

_KEY_BYTES = 32


class TokenOwner(NamedTuple):
    """The run that a token is of."""

    execution_id: str
    organization_id: str


class ExecutionTokens:
    """Makes and reads the tokens of runs, and knows n8n's secrets by their digest; from the gateway's own."""

    def __init__(self, secret: str) -> None:
        self._key = _derived(secret, b"n8n-gateway execution token")
        self._digest_key = _derived(secret, b"n8n-gateway internal secret digest")

    def of(self, execution_id: str, organization_id: str) -> str:
        """The token of a run."""
        return f"{execution_id}.{organization_id}.{self._mac(execution_id, organization_id)}"

    def read(self, token: str) -> TokenOwner | None:
        """The run that a token is of; None for what is no token of this gateway."""
        execution_id, _, rest = token.partition(".")
        organization_id, _, mac = rest.partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(execution_id, organization_id).encode()):
            return None
        return TokenOwner(execution_id, organization_id)

    def digest(self, internal_secret: str) -> str:
        """What the secret of an organization's own n8n is found by: hex, and of no use to guess it from."""
        return hmac.digest(self._digest_key, internal_secret.encode(), "sha256").hex()

    def _mac(self, execution_id: str, organization_id: str) -> str:
        bound = f"{execution_id}\n{organization_id}".encode()
        return hmac.digest(self._key, bound, "sha256").hex()


def _derived(secret: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=_KEY_BYTES, salt=None, info=purpose).derive(secret.encode())
