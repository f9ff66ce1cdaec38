"""OrganizationService: tenants and who belongs to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from gateway.gen.n8ngateway.v1.organization_pb import Organization
from gateway.gen.n8ngateway.v1.organization_service_pb import (
    CreateOrganizationRequest,
    CreateOrganizationResponse,
    GetOrganizationRequest,
    GetOrganizationResponse,
    ListOrganizationsRequest,
    ListOrganizationsResponse,
    UpdateOrganizationRequest,
    UpdateOrganizationResponse,
)
from gateway.rpc.errors import PermissionDenied
from gateway.rpc.stored_json import read_message
from gateway.services.audit import AuditEvents
from gateway.services.credentials import Credentials
from gateway.services.error_logs import ErrorLogs
from gateway.services.members import Members
from gateway.services.n8n_instance import N8nInstanceSettings
from gateway.services.organization_of import organization_of
from gateway.services.pages import list_page
from gateway.services.security_events import SecurityEvents
from gateway.services.update_mask import changes, masked_fields

if TYPE_CHECKING:
    from gateway.adapters.addresses import Networks
    from gateway.adapters.database import Database
    from gateway.adapters.vault import Vault
    from gateway.executions.token import ExecutionTokens
    from gateway.rpc.call import Call

    Changed = Callable[[str], Awaitable[None]]

_LIST = "organizations"
_PLATFORM_ONLY = ("rate_limit", "max_concurrent_executions", "max_open_streams")


class OrganizationService(Members, Credentials, AuditEvents, SecurityEvents, ErrorLogs, N8nInstanceSettings):
    """Organizations of the caller; what is not the caller's does not exist for it.

    `changed` is told the id of each organization that is no longer as it was, `n8n_changed` of each whose
    n8n is another one; `n8n_networks` are where that may be.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        changed: Changed,
        *,
        tokens: ExecutionTokens,
        n8n_networks: Networks,
        n8n_changed: Changed,
    ) -> None:
        Members.__init__(self, database)
        Credentials.__init__(self, database, vault)
        N8nInstanceSettings.__init__(self, database, vault, tokens, n8n_networks, n8n_changed)
        self._changed = changed

    async def create_organization(
        self,
        request: CreateOrganizationRequest,
        call: Call,
    ) -> CreateOrganizationResponse:
        """Create it, with the caller as its owner and no credits."""
        organization = request.organization or Organization()
        _refuse_platform_only(name for name in _PLATFORM_ONLY if getattr(organization, name))
        text = await self._database.call(
            "create_organization",
            call.caller,
            p_organization=organization.to_json(use_proto_field_name=True),
        )
        return CreateOrganizationResponse(organization=read_message(text, Organization))

    async def list_organizations(
        self,
        request: ListOrganizationsRequest,
        call: Call,
    ) -> ListOrganizationsResponse:
        """One page, oldest first."""
        query = partial(self._database.call, "list_organizations", call.caller)
        return await list_page(query, request, ListOrganizationsResponse, _LIST)

    async def get_organization(self, request: GetOrganizationRequest, call: Call) -> GetOrganizationResponse:
        """One organization, by its id."""
        text = await self._database.call(
            "get_organization", call.caller, p_id=organization_of(request.id, call, "id")
        )
        return GetOrganizationResponse(organization=read_message(text, Organization))

    async def update_organization(
        self, request: UpdateOrganizationRequest, call: Call
    ) -> UpdateOrganizationResponse:
        """Change the fields of the mask, all or none."""
        organization = request.organization or Organization()
        names = masked_fields(organization, request.update_mask)
        _refuse_platform_only(name for name in _PLATFORM_ONLY if name in names)
        text = await self._database.call(
            "update_organization",
            call.caller,
            p_id=organization_of(organization.id, call, "organization.id"),
            p_changes=changes(organization, names),
        )
        updated = read_message(text, Organization)
        await self._changed(updated.id)
        return UpdateOrganizationResponse(organization=updated)


def _refuse_platform_only(names: Iterable[str]) -> None:
    """Raises PermissionDenied when there are any: who is limited does not set the limit."""
    fields = {f"organization.{name}": "is set by the platform" for name in names}
    if fields:
        msg = f"{', '.join(fields)} can be set by the platform only."
        raise PermissionDenied(msg, reason="PLATFORM_ONLY", fields=fields)
