"""Which organizations an n8n speaks for that is not the gateway's default one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson

from gateway.rpc.remembered import Remembered

if TYPE_CHECKING:
    from gateway.adapters.database import Database


class OwnN8nSecrets:
    """Finds the organizations whose own n8n has an internal secret, by the secret's digest."""

    def __init__(self, database: Database, digest: Callable[[str], str]) -> None:
        self._database = database
        self._digest = digest
        self._found: Remembered[str, frozenset[str]] = Remembered(self._ask, keep=bool)

    async def __call__(self, secret: str) -> frozenset[str]:
        """The organizations; none for a secret that nobody has. Raises Unavailable."""
        return await self._found.get(self._digest(secret))

    def forget(self, organization_id: str | None) -> None:
        """Ask anew for the secret of an organization's n8n at its next use; for every one when None."""
        if organization_id is None:
            self._found.forget()
        else:
            self._found.forget_where(lambda _, organizations: organization_id in organizations)

    async def close(self) -> None:
        """Wait for what is still being asked."""
        await self._found.close()

    async def _ask(self, digest: str) -> frozenset[str]:
        text = await self._database.call("find_n8n_organizations", None, p_secret_digest=digest)
        return frozenset(orjson.loads(text)["organization_ids"])
