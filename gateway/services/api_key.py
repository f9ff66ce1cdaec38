"""ApiKeyService: machines' ways in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from gateway.gen.n8ngateway.v1.api_key_pb import ApiKey, ApiKeyEnvironment, ApiKeyState
from gateway.gen.n8ngateway.v1.api_key_service_pb import (
    CreateApiKeyRequest,
    CreateApiKeyResponse,
    GetApiKeyRequest,
    GetApiKeyResponse,
    ListApiKeysRequest,
    ListApiKeysResponse,
    RevokeApiKeyRequest,
    RevokeApiKeyResponse,
    RotateApiKeyRequest,
    RotateApiKeyResponse,
)
from gateway.rpc.api_keys import NewKey, new_key, new_secret
from gateway.rpc.errors import InvalidArgument
from gateway.rpc.scopes import DEFAULT_SCOPES, GRANTABLE, is_grantable
from gateway.rpc.stored_json import read_message
from gateway.services.organization_of import organization_of
from gateway.services.pages import list_page

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.adapters.vault import Envelope, Vault
    from gateway.rpc.call import Call

    Changed = Callable[[str], Awaitable[None]]

DEFAULT_OVERLAP_SECONDS = 86_400


class ApiKeyService:
    """Keys of an organization. `changed` is told the public id of each key that is no longer as it was."""

    def __init__(self, database: Database, vault: Vault, changed: Changed) -> None:
        self._database = database
        self._vault = vault
        self._changed = changed

    async def create_api_key(self, request: CreateApiKeyRequest, call: Call) -> CreateApiKeyResponse:
        """Create a key with its client secret, and show both this once."""
        wanted = request.api_key or ApiKey()
        wanted.scopes = _checked_scopes(wanted)
        made = new_key("test" if wanted.environment is ApiKeyEnvironment.TEST else "live")
        text = await self._database.call(
            "create_api_key",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_api_key=wanted.to_json(use_proto_field_name=True),
            p_public_id=made.public_id,
            p_secret_hash=made.secret_hash,
            p_client_secret=self._sealed(request.organization_id, made),
        )
        return CreateApiKeyResponse(
            api_key=read_message(text, ApiKey),
            key=made.key,
            client_secret=made.client_secret,
        )

    async def list_api_keys(self, request: ListApiKeysRequest, call: Call) -> ListApiKeysResponse:
        """One page, newest first, of all states unless one is asked for."""
        organization_id = organization_of(request.organization_id, call)
        state = request.state if request.state is not ApiKeyState.UNSPECIFIED else None
        of_list = f"api keys {organization_id} {state}"
        query = partial(
            self._database.call,
            "list_api_keys",
            call.caller,
            p_organization_id=organization_id,
            p_state=f"API_KEY_STATE_{state.name}" if state is not None else None,
        )
        return await list_page(query, request, ListApiKeysResponse, of_list)

    async def get_api_key(self, request: GetApiKeyRequest, call: Call) -> GetApiKeyResponse:
        """One key, without its secrets."""
        return GetApiKeyResponse(api_key=await self._on_key("get_api_key", request, call))

    async def rotate_api_key(self, request: RotateApiKeyRequest, call: Call) -> RotateApiKeyResponse:
        """Give it another secret and client secret, shown this once; the old pair ends with the overlap."""
        old = await self._on_key("get_api_key", request, call)
        made = new_secret(old.public_id)
        text = await self._database.call(
            "rotate_api_key",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_id=request.id,
            p_secret_hash=made.secret_hash,
            p_client_secret=self._sealed(request.organization_id, made),
            p_overlap_seconds=(
                request.overlap_seconds if request.has_field("overlap_seconds") else DEFAULT_OVERLAP_SECONDS
            ),
        )
        await self._changed(old.public_id)
        return RotateApiKeyResponse(
            api_key=read_message(text, ApiKey),
            key=made.key,
            client_secret=made.client_secret,
        )

    async def revoke_api_key(self, request: RevokeApiKeyRequest, call: Call) -> RevokeApiKeyResponse:
        """End it, here at once and on every replica within five seconds."""
        revoked = await self._on_key("revoke_api_key", request, call)
        await self._changed(revoked.public_id)
        return RevokeApiKeyResponse(api_key=revoked)

    async def _on_key(
        self, function: str, request: GetApiKeyRequest | RotateApiKeyRequest | RevokeApiKeyRequest, call: Call
    ) -> ApiKey:
        text = await self._database.call(
            function,
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_id=request.id,
        )
        return read_message(text, ApiKey)

    def _sealed(self, organization_id: str, made: NewKey) -> Envelope:
        return self._vault.seal(organization_id, made.client_secret_name, made.client_secret)


def _checked_scopes(wanted: ApiKey) -> list[str]:
    for index, scope in enumerate(wanted.scopes):
        if not is_grantable(scope):
            problem = f"is none of {', '.join(sorted(GRANTABLE))}, or of these with *"
            path = f"api_key.scopes[{index}]"
            raise InvalidArgument(f"{path} {problem}.", reason="INVALID_FIELD", fields={path: problem})
    return list(wanted.scopes or DEFAULT_SCOPES)
