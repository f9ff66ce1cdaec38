"""The part of OrganizationService that is about credentials: stored, listed by name, never told."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gateway.executions.credentials import PREFIX
from gateway.gen.n8ngateway.v1.organization_service_pb import (
    DeleteCredentialsRequest,
    DeleteCredentialsResponse,
    ListCredentialsRequest,
    ListCredentialsResponse,
    StoreCredentialsRequest,
    StoreCredentialsResponse,
)
from gateway.rpc.stored_json import read_message
from gateway.services.organization_of import organization_of
from gateway.services.pages import BY_NAME, list_page

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.adapters.vault import Vault
    from gateway.rpc.call import Call


class Credentials:
    """Secrets that an organization's workflows are given."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def store_credentials(
        self, request: StoreCredentialsRequest, call: Call
    ) -> StoreCredentialsResponse:
        """Store values under their names, all or none."""
        text = await self._database.call(
            "store_credentials",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_credentials={
                name: self._vault.seal(request.organization_id, f"{PREFIX}{name}", value)
                for name, value in request.credentials.items()
            },
        )
        return read_message(text, StoreCredentialsResponse)

    async def list_credentials(self, request: ListCredentialsRequest, call: Call) -> ListCredentialsResponse:
        """One page of names, in alphabetical order."""
        organization_id = organization_of(request.organization_id, call)
        of_list = f"credentials {organization_id}"
        query = partial(
            self._database.call, "list_credentials", call.caller, p_organization_id=organization_id
        )
        return await list_page(query, request, ListCredentialsResponse, of_list, BY_NAME)

    async def delete_credentials(
        self, request: DeleteCredentialsRequest, call: Call
    ) -> DeleteCredentialsResponse:
        """Forget the named ones, or all when none is named."""
        text = await self._database.call(
            "delete_credentials",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_names=list(request.names),
        )
        return read_message(text, DeleteCredentialsResponse)
