"""What an API key may do: the scopes that it was given, held against the method's own.

And what the platform's token may not: make keys, with which it could act as any organization.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.rpc.errors import PermissionDenied
from gateway.rpc.principal import Kind
from gateway.rpc.scopes import covers, scope_of

if TYPE_CHECKING:
    from gateway.rpc.call import Call
    from gateway.rpc.methods import MethodTable

_OF_KEYS = {"api_keys:read", "api_keys:write"}


class Authorize:
    """Refuses what a key's scopes do not cover, and keys to the platform's token.

    What a role allows is for the database to say.
    """

    def __init__(self, methods: MethodTable) -> None:
        self._needed = {method.path: scope_of(method.descriptor) for method in methods}

    async def __call__(self, call: Call) -> None:
        """Raises PermissionDenied, naming the scope where one is missing."""
        principal = call.principal
        if principal is None:
            return
        needed = self._needed[call.method.path]
        if principal.scopes is not None and (needed is None or not covers(principal.scopes, needed)):
            raise PermissionDenied(
                f"The API key lacks the scope {needed}." if needed else "This is not for API keys.",
                reason="SCOPE_MISSING",
                metadata={"required_scope": needed} if needed else {},
            )
        if principal.kind is Kind.PLATFORM and needed in _OF_KEYS:
            raise PermissionDenied(
                "API keys are made by their organization, or by `n8n-gateway keys` at the database."
            )
