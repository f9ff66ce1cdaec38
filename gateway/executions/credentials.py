"""How a run gets at its organization's credentials."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import orjson

from gateway.gen.n8ngateway.v1.workflow_pb import CredentialMode

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.adapters.vault import Vault
    from gateway.executions.run import Job

PREFIX = "credential/"
"""How the names of credentials begin in the vault."""
KEY = "credentials"
"""The key of the payload under which a workflow finds them."""
HANDLE_HEADER = "x-gateway-credential-handle"
"""The header in which a workflow finds its handle."""

_HANDLE_BYTES = 32


class Credentials(Protocol):
    """Where runs' credentials come from."""

    async def of(self, organization_id: str) -> Mapping[str, str]:
        """An organization's credentials by name. Raises what `Vault.reveal` raises."""
        ...

    async def handle(self, execution_id: str) -> str:
        """A new handle, by which this execution can redeem its credentials once within 5 minutes.

        The one before opens nothing any more. Raises FailedPrecondition where another replica has the run.
        """
        ...


class StoredCredentials:
    """Credentials in the vault, for the runs of one replica; see `Credentials`."""

    def __init__(self, database: Database, vault: Vault, replica: str) -> None:
        self._database = database
        self._vault = vault
        self._replica = replica

    async def of(self, organization_id: str) -> dict[str, str]:
        """See `Credentials.of`."""
        found = await self._vault.reveal(organization_id, prefix=PREFIX)
        return {name.removeprefix(PREFIX): value for name, value in found.items()}

    async def handle(self, execution_id: str) -> str:
        """See `Credentials.handle`."""
        text = base64.b32encode(secrets.token_bytes(_HANDLE_BYTES)).rstrip(b"=").decode().lower()
        handle = f"gw_handle_{text}"
        await self._database.call(
            "create_credential_handle",
            None,
            p_execution_id=execution_id,
            p_handle_hash=hash_of(handle),
            p_runner=self._replica,
        )
        return handle


@dataclass(frozen=True, slots=True)
class Grant:
    """What n8n is sent for a run, and what of it must not come back."""

    payload: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: Collection[str] = ()


async def grant(credentials: Credentials, job: Job) -> Grant:
    """Give a run its credentials in the way that its workflow asks for."""
    mode = job.workflow.credential_mode
    if mode is CredentialMode.INLINE:
        return inject(job.payload, await credentials.of(job.organization_id))
    if mode is CredentialMode.HANDLE:
        values = await credentials.of(job.organization_id)
        handle = await credentials.handle(job.execution_id)
        return Grant(job.payload, {HANDLE_HEADER: handle}, [handle, *values.values()])
    return Grant(job.payload)


def inject(payload: bytes, credentials: Mapping[str, str]) -> Grant:
    """Put credentials into a payload (a JSON object), in place of what the caller may have sent there."""
    data = orjson.loads(payload)
    data[KEY] = dict(credentials)
    return Grant(orjson.dumps(data), secrets=credentials.values())


def hash_of(handle: str) -> str:
    """What is stored of a handle: SHA-256, as hex."""
    return hashlib.sha256(handle.encode()).hexdigest()
