"""Notes a user at first sight: its profile, and what its token says about its organization."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from gateway.rpc.principal import Kind

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.rpc.call import Call

REMEMBERED = 10_000


class FirstSight:
    """Introduces each token's user to the database, once for each token while it is remembered."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, call: Call) -> None:
        """Raises what the database raises; nothing else can be done without it either."""
        principal = call.principal
        if principal is None or principal.kind is not Kind.USER:
            return
        if principal.claims in self._known:
            self._known.move_to_end(principal.claims)
            return
        await self._database.call("meet_caller", principal)
        self._known[principal.claims] = None
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
