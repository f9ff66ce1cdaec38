"""The port through which tenants' secrets are kept, and its two implementations.

A secret reaches the database within the one statement that needs it kept (a credential, a key with its client
secret), in an envelope that the vault makes; see supabase/migrations/*_secrets.sql.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import orjson
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.rpc.errors import FailedPrecondition

if TYPE_CHECKING:
    from gateway.adapters.database import Database

Envelope = Mapping[str, str]

log = structlog.get_logger("gateway.vault")

_NONCE_BYTES = 12
_SAMPLE = "organization_id", "name", "sealed"
_MEND = "VAULT_KEY must hold the key that sealed the secret, the same on every replica"


class Vault(Protocol):
    """Tenants' secrets by organization and name; a value is text of 1 to 65536 bytes in UTF-8.

    How it fails, whatever the implementation:

    - `FailedPrecondition` VAULT_MISSING, when an envelope is kept: there is nothing to keep it in.
    - `FailedPrecondition` SECRET_UNREADABLE, when opened: it was kept by the other vault, with a key that
      is no longer known, or it has been tampered with. One such secret fails the whole reveal.
    - What `Database` raises. No value is ever in an error or a log.
    """

    mode: str
    """What readiness says about it."""

    def seal(self, organization_id: str, name: str, value: str) -> Envelope:
        """The envelope in which the database keeps a value, under this name of this organization alone."""
        ...

    def open(self, organization_id: str, envelopes: Mapping[str, Envelope]) -> dict[str, str]:
        """The values in envelopes that the database gave back, by name."""
        ...

    async def reveal(
        self, organization_id: str, *, names: Sequence[str] = (), prefix: str | None = None
    ) -> dict[str, str]:
        """The values of these names and of all names that begin so; those that do not exist are left out."""
        ...

    async def check(self) -> None:
        """Try some stored secrets of each key that has sealed any.

        Raises FailedPrecondition VAULT_KEY_WRONG when those of one do not open: nobody who has the right keys
        would see that. Its message is for whoever sets them.
        """
        ...


class SupabaseVault:
    """Supabase Vault: the database encrypts, its key is outside of the database's files."""

    mode = "supabase"

    def __init__(self, database: Database) -> None:
        self._database = database

    def seal(self, organization_id: str, name: str, value: str) -> Envelope:  # noqa: ARG002 - as the port says
        """See `Vault.seal`."""
        return {"plain": value}

    def open(self, organization_id: str, envelopes: Mapping[str, Envelope]) -> dict[str, str]:
        """See `Vault.open`."""
        for name, envelope in envelopes.items():
            if envelope.get("plain") is None:
                raise _unreadable(organization_id, name, "sealed by the gateway, which has no VAULT_KEY now")
        return {name: envelope["plain"] for name, envelope in envelopes.items()}

    async def reveal(
        self, organization_id: str, *, names: Sequence[str] = (), prefix: str | None = None
    ) -> dict[str, str]:
        """See `Vault.reveal`."""
        return self.open(organization_id, await _envelopes(self._database, organization_id, names, prefix))

    async def check(self) -> None:
        """See `Vault.check`. Nothing may be sealed; what is not, the database opens."""
        for key_id in await _samples(self._database):
            raise _wrong(f"VAULT_KEY is missing: secrets are stored that its key {key_id!r} has sealed")


class SealedVault:
    """AES-256-GCM in the gateway (NIST SP 800-38D): the database holds ciphertext and never the key.

    The first of `keys` (id and 32 bytes) seals, every one opens. Organization and name are the associated
    data, so a ciphertext that is moved to another row does not open.
    """

    mode = "sealed"

    def __init__(self, database: Database, keys: Sequence[tuple[str, bytes]]) -> None:
        self._database = database
        self._keys = {key_id: AESGCM(key) for key_id, key in keys}
        self._sealing = keys[0][0]

    def seal(self, organization_id: str, name: str, value: str) -> Envelope:
        """See `Vault.seal`."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys[self._sealing].encrypt(nonce, value.encode(), _bound(organization_id, name))
        return {"sealed": base64.b64encode(nonce + sealed).decode(), "key_id": self._sealing}

    async def reveal(
        self, organization_id: str, *, names: Sequence[str] = (), prefix: str | None = None
    ) -> dict[str, str]:
        """See `Vault.reveal`."""
        return self.open(organization_id, await _envelopes(self._database, organization_id, names, prefix))

    def open(self, organization_id: str, envelopes: Mapping[str, Envelope]) -> dict[str, str]:
        """See `Vault.open`."""
        return {name: self._opened(organization_id, name, envelope) for name, envelope in envelopes.items()}

    def _opened(self, organization_id: str, name: str, envelope: Envelope) -> str:
        key = self._keys.get(envelope.get("key_id", ""))
        if key is None:
            raise _unreadable(organization_id, name, "no key of its id is known")
        value = _decrypted(key, organization_id, name, envelope["sealed"])
        if value is None:
            raise _unreadable(organization_id, name, "it does not open")
        return value

    async def check(self) -> None:
        """See `Vault.check`. One that opens is proof enough: another may have been tampered with."""
        for key_id, samples in (await _samples(self._database)).items():
            key = self._keys.get(key_id)
            if key is None:
                raise _wrong(f"VAULT_KEY lacks the key {key_id!r}, and secrets are stored that it has sealed")
            if not any(_decrypted(key, *(s[part] for part in _SAMPLE)) is not None for s in samples):
                raise _wrong(f"The key {key_id!r} in VAULT_KEY is not the one that has sealed stored secrets")


def _decrypted(key: AESGCM, organization_id: str, name: str, sealed: str) -> str | None:
    try:
        raw = base64.b64decode(sealed, validate=True)
        return key.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _bound(organization_id, name)).decode()
    except (InvalidTag, ValueError, binascii.Error):
        return None


def _bound(organization_id: str, name: str) -> bytes:
    return f"{UUID(organization_id)}\n{name}".encode()


async def _envelopes(
    database: Database, organization_id: str, names: Sequence[str], prefix: str | None
) -> dict[str, dict[str, str]]:
    text = await database.call(
        "reveal_secrets", None, p_organization_id=organization_id, p_names=names, p_prefix=prefix
    )
    found: dict[str, dict[str, str]] = orjson.loads(text)
    return found


async def _samples(database: Database) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = orjson.loads(await database.call("sample_secrets", None))
    return found


def _wrong(what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{what}: give every replica the keys that have sealed them (for one that is lost, see"
        " docs/credentials.md)",
        reason="VAULT_KEY_WRONG",
    )


def _unreadable(organization_id: str, name: str, why: str) -> FailedPrecondition:
    log.error("secret unreadable", organization_id=organization_id, name=name, why=why, mend=_MEND)
    return FailedPrecondition(
        "A stored secret cannot be read with the keys that the gateway has.", reason="SECRET_UNREADABLE"
    )
