"""How a run gets at its organization's credentials."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from gateway.adapters.vault import Vault

    CredentialsOf = Callable[[str], Awaitable[Mapping[str, str]]]

PREFIX = "credential/"
"""How the names of credentials begin in the vault."""
KEY = "credentials"
"""The key of the payload under which a workflow finds them."""


class StoredCredentials:
    """An organization's credentials by name, from the vault."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def __call__(self, organization_id: str) -> dict[str, str]:
        """Raises what `Vault.reveal` raises."""
        found = await self._vault.reveal(organization_id, prefix=PREFIX)
        return {name.removeprefix(PREFIX): value for name, value in found.items()}


def inject(payload: bytes, credentials: Mapping[str, str]) -> tuple[bytes, Collection[str]]:
    """Put credentials into a payload (a JSON object), in place of what the caller may have sent there.

    Returns the payload, and the values that must not come back.
    """
    data = orjson.loads(payload)
    data[KEY] = dict(credentials)
    return orjson.dumps(data), credentials.values()
