"""Which organization a call acts for, and what that asks of its callers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import orjson

from gateway.rpc.errors import FailedPrecondition, NotFound
from gateway.rpc.policy import Policy
from gateway.rpc.principal import Kind
from gateway.rpc.remembered import Remembered
from gateway.rpc.standing import EVERY_SECONDS

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.rpc.call import Call
    from gateway.rpc.principal import Principal

_REMEMBERED = 4096


class Policies:
    """Sets the call's policy: that of the organization which its user acts for.

    This is the one that X-Tenant-ID names, else the token's, else the user's only one. An organization
    that the user does not belong to sets none, whether it exists or not: to refuse it is for those who are
    asked for what it has. The principal is marked with whose policy it was, so that the database lets the
    call reach no other organization that has rules of its own. (An API key brings the policy of its
    organization with it.)
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._found: Remembered[tuple[str, str | None], Policy | None] = Remembered(
            self._ask, keep=lambda policy: policy is not None, clock=clock
        )

    async def __call__(self, call: Call) -> None:
        """Set the call's policy. Raises Unavailable when it is not known and the database is away."""
        principal = call.principal
        if principal is not None and principal.kind is Kind.USER:
            call.policy = policy = await self._found.get((principal.claims, principal.tenant))
            call.principal = _held(principal, policy.organization_id if policy else "")

    async def still(self, call: Call) -> None:
        """Check again that the user of a stream belongs to the organization that it tells of.

        Until that is known it is the one that the call acts for. Raises NotFound, FailedPrecondition when it
        is not active, as the database would, and Unavailable.
        """
        principal = call.principal
        organization_id = call.organization_id or (call.policy.organization_id if call.policy else "")
        if not organization_id or principal is None or principal.kind is not Kind.USER:
            return
        policy = await self._found.get((principal.claims, organization_id), ahead=EVERY_SECONDS)
        if policy is None:
            raise NotFound("There is no such organization.", reason="ORGANIZATION_NOT_FOUND")
        if not policy.is_active:
            raise FailedPrecondition("The organization is not active.", reason="ORGANIZATION_INACTIVE")

    def forget(self, organization_id: str | None) -> None:
        """Ask anew for the policy of an organization at its next use; of every one when None."""
        if organization_id is None:
            self._found.forget()
        else:
            self._found.forget_where(
                lambda _, policy: policy is not None and policy.organization_id == organization_id
            )

    async def close(self) -> None:
        """Wait for what is still being asked."""
        await self._found.close()

    async def _ask(self, key: tuple[str, str | None]) -> Policy | None:
        claims, tenant = key
        text = await self._database.call("find_policy", None, p_claims=claims, p_organization_id=tenant)
        row = orjson.loads(text)
        return Policy.of(row) if row else None


# The same callers come again and again, and to copy a principal takes ten times as long as to find the copy.
@lru_cache(_REMEMBERED)
def _held(principal: Principal, organization_id: str) -> Principal:
    return replace(principal, held_to=organization_id)
