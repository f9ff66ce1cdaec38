"""Which n8n an organization's runs go to: one of its own, or the gateway's default one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from gateway.adapters.n8n.client import Limits, N8n
from gateway.rpc.remembered import Remembered

if TYPE_CHECKING:
    from gateway.adapters.addresses import Networks
    from gateway.adapters.database import Database
    from gateway.adapters.n8n.breaker import Circuit
    from gateway.adapters.vault import Vault

INTERNAL_SECRET = "n8n/internal_secret"  # noqa: S105 - a name in the vault
API_KEY = "n8n/api_key"

MOST_OPEN = 256
"""How many instances are kept ready; the one that was not used for longest makes room."""
_LIMITS = Limits(connections=1024)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What an organization has set. Two that are equal can share connections."""

    base_url: str
    version: str
    secrets: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Default:
    """An organization uses the gateway's default n8n; `has_left` if lately it had its own."""

    has_left: bool


class _Open:
    """An instance that runs may be using."""

    __slots__ = ("is_retired", "n8n", "users", "wanted")

    def __init__(self, wanted: _Wanted, n8n: N8n) -> None:
        self.wanted = wanted
        self.n8n = n8n
        self.users = 0
        self.is_retired = False

    async def retire(self) -> None:
        """Close it as soon as no run uses it."""
        self.is_retired = True
        if not self.users:
            await self.n8n.close()


class N8nInstances:
    """The n8n of each organization, with its connections and its breaker.

    What an organization has set is asked for at most every 5 s (see `Remembered`), and at once after
    `forget`. Runs under way stay with the n8n that they were begun with.
    """

    def __init__(self, default: N8n, database: Database, vault: Vault, networks: Networks) -> None:
        """`networks` are where an organization's own n8n may be. `default` stays the caller's to close."""
        self._default = default
        self._database = database
        self._vault = vault
        self._networks = networks
        self._wanted: Remembered[str, _Wanted | _Default] = Remembered(self._ask)
        self._open: OrderedDict[str, _Open] = OrderedDict()

    @asynccontextmanager
    async def of(self, organization_id: str, execution_id: str | None = None) -> AsyncIterator[N8n]:
        """The n8n of an organization, for one of its runs, open at least until the context is left.

        Raises FailedPrecondition for a run that was begun before its organization gave up its own n8n: what
        was meant for that must not reach one that others share. Raises what `Database.call` and `Vault.open`
        raise.
        """
        wanted = await self._wanted.get(organization_id)
        if isinstance(wanted, _Default) and wanted.has_left and execution_id is not None:
            wanted = await self._ask(organization_id, execution_id)
        if isinstance(wanted, _Default):
            yield self._default
            return
        instance = await self._opened(organization_id, wanted)
        instance.users += 1
        try:
            yield instance.n8n
        finally:
            instance.users -= 1
            if instance.is_retired:
                await instance.retire()

    def forget(self, organization_id: str | None) -> None:
        """Ask anew for what an organization has set; for all of them when None."""
        self._wanted.forget(organization_id)

    def circuits(self) -> dict[str, Circuit]:
        """The state of the breakers by organization; that of the default n8n under ""."""
        own = {organization_id: instance.n8n.circuit for organization_id, instance in self._open.items()}
        return {"": self._default.circuit, **own}

    async def close(self) -> None:
        """Close every instance but the default one."""
        await self._wanted.close()
        while self._open:
            await self._open.popitem()[1].n8n.close()

    async def _ask(self, organization_id: str, execution_id: str | None = None) -> _Wanted | _Default:
        text = await self._database.call(
            "find_n8n_instance", None, p_organization_id=organization_id, p_execution_id=execution_id
        )
        row = orjson.loads(text)
        if "base_url" not in row:
            return _Default(has_left="has_left" in row)
        return _Wanted(row["base_url"], row["version"], self._vault.open(organization_id, row["secrets"]))

    async def _opened(self, organization_id: str, wanted: _Wanted) -> _Open:
        known = self._open.get(organization_id)
        if known is not None and known.wanted == wanted:
            self._open.move_to_end(organization_id)
            return known
        made = _Open(
            wanted,
            N8n(
                wanted.base_url,
                internal_secret=wanted.secrets.get(INTERNAL_SECRET),
                api_key=wanted.secrets.get(API_KEY),
                limits=_LIMITS,
                networks=self._networks,
            ),
        )
        # In place before anything is waited for, so that nobody else makes a second one.
        self._open[organization_id] = made
        made.users += 1
        try:
            await made.n8n.open()
            if known is not None:
                await known.retire()
            if len(self._open) > MOST_OPEN:
                await self._open.popitem(last=False)[1].retire()
        finally:
            made.users -= 1
        return made
