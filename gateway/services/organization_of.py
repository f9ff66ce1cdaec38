"""Which organization a request is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.rpc.errors import InvalidArgument

if TYPE_CHECKING:
    from gateway.rpc.call import Call


def organization_of(named: str, call: Call, field: str = "organization_id") -> str | None:
    """The organization that a caller names, in the request's `field` or by X-Tenant-ID; None when by neither.

    Raises InvalidArgument when the two differ.
    """
    tenant = call.caller.tenant
    if named and tenant and named.lower() != tenant:
        problem = "is another organization than X-Tenant-ID names"
        raise InvalidArgument(f"{field} {problem}.", reason="TENANT_MISMATCH", fields={field: problem})
    return named or tenant
