"""The part of OrganizationService that is about an n8n of the organization's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gateway.adapters.n8n import API_KEY, INTERNAL_SECRET, check_base_url
from gateway.gen.n8ngateway.v1.n8n_instance_pb import N8nInstance
from gateway.gen.n8ngateway.v1.organization_service_pb import (
    DeleteN8nInstanceRequest,
    DeleteN8nInstanceResponse,
    GetN8nInstanceRequest,
    GetN8nInstanceResponse,
    SetN8nInstanceRequest,
    SetN8nInstanceResponse,
)
from gateway.rpc.errors import InvalidArgument
from gateway.rpc.stored_json import read_message
from gateway.services.organization_of import organization_of

if TYPE_CHECKING:
    from gateway.adapters.addresses import Networks
    from gateway.adapters.database import Database
    from gateway.adapters.vault import Vault
    from gateway.executions.token import ExecutionTokens
    from gateway.rpc.call import Call

    Changed = Callable[[str], Awaitable[None]]

_FIELD = "n8n_instance.base_url"


class N8nInstanceSettings:
    """What Get, Set and DeleteN8nInstance are served with.

    `changed` is told the id of each organization whose n8n is another one; `networks` are where it may be.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        tokens: ExecutionTokens,
        networks: Networks,
        changed: Changed,
    ) -> None:
        self._database = database
        self._vault = vault
        self._tokens = tokens
        self._networks = networks
        self._n8n_changed = changed

    async def get_n8n_instance(self, request: GetN8nInstanceRequest, call: Call) -> GetN8nInstanceResponse:
        """The own n8n, without its secrets."""
        text = await self._database.call(
            "get_n8n_instance", call.caller, p_organization_id=organization_of(request.organization_id, call)
        )
        return GetN8nInstanceResponse(n8n_instance=read_message(text, N8nInstance))

    async def set_n8n_instance(self, request: SetN8nInstanceRequest, call: Call) -> SetN8nInstanceResponse:
        """Set it for the runs that begin from now on, on other replicas within 5 s at the latest."""
        wanted = request.n8n_instance or N8nInstance()
        organization_id = (organization_of(request.organization_id, call) or "").lower()
        organization_of(wanted.organization_id or organization_id, call, "n8n_instance.organization_id")
        try:
            base_url = check_base_url(wanted.base_url)
        except ValueError as error:
            problem = str(error)
            raise InvalidArgument(
                f"{_FIELD}: {problem}.", reason="INVALID_FIELD", fields={_FIELD: problem}
            ) from None
        await self._networks.check(base_url, _FIELD)
        given = {INTERNAL_SECRET: wanted.internal_secret, API_KEY: wanted.api_key}
        text = await self._database.call(
            "set_n8n_instance",
            call.caller,
            p_organization_id=organization_id,
            p_base_url=base_url,
            p_secrets={
                name: self._vault.seal(organization_id, name, value) for name, value in given.items() if value
            },
            p_secret_digest=(self._tokens.digest(wanted.internal_secret) if wanted.internal_secret else None),
        )
        await self._n8n_changed(organization_id)
        return SetN8nInstanceResponse(n8n_instance=read_message(text, N8nInstance))

    async def delete_n8n_instance(
        self, request: DeleteN8nInstanceRequest, call: Call
    ) -> DeleteN8nInstanceResponse:
        """Return to the default n8n. Runs under way end where they began."""
        organization_id = (organization_of(request.organization_id, call) or "").lower()
        await self._database.call("delete_n8n_instance", call.caller, p_organization_id=organization_id)
        await self._n8n_changed(organization_id)
        return DeleteN8nInstanceResponse()
