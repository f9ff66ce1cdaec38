"""The port through which everything reaches the database: call one SQL function as one principal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from gateway.rpc.call import current_request_id

if TYPE_CHECKING:
    from gateway.rpc.principal import Principal

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


class Database(Protocol):
    """SQL owns the data rules: each operation is one function of supabase/migrations, one round trip a call.

    How it fails, whatever the implementation:

    - What a function refuses comes as the `RpcError` that it names, with its reason, metadata and fields.
    - `PermissionDenied`: the principal's role may not call the function at all.
    - `InvalidArgument`: an argument is not of its parameter's type, or breaks a rule of the table.
    - `Aborted`: rolled back against a concurrent call (deadlock, serialization).
    - `Unavailable` with `retry_after`: the database cannot be reached, is shutting down, has no connection
      free in time or took too long. Whether the function took effect is then unknown, as it is when a call
      is cancelled: call functions that can be repeated, or ask what became of it.
    - `Internal`, without any text of the database: everything else. It is logged, without values.
    """

    async def call(self, function: str, principal: Principal | None, /, **arguments: Json) -> str:
        """Call a function of the schema public and return its answer, a JSON text.

        `principal` is who calls: row-level security and the functions see its role and claims. None is the
        gateway itself (service_role). `arguments` go by the names of the SQL parameters: UUIDs and times as
        text, objects and arrays as such; a str for a jsonb parameter is JSON text, not a JSON string.
        """
        ...

    async def ping(self) -> None:
        """Return if the database answers and has the schema, else raise `Unavailable`.

        Without the schema its reason is SCHEMA_MISSING.
        """
        ...

    async def close(self) -> None:
        """Let go of all connections; calls under way fail with `Unavailable`."""
        ...


def request_headers(principal: Principal | None) -> dict[str, str]:
    """What SQL reads of a call beside who calls, by gateway.request_header(): request, tenant, and policy."""
    headers = {"x-gateway-request-id": current_request_id.get()}
    if principal is not None and principal.tenant is not None:
        headers["x-gateway-tenant"] = principal.tenant
    if principal is not None and principal.held_to is not None:
        headers["x-gateway-policy"] = principal.held_to or "none"
    return headers
