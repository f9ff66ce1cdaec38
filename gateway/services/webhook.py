"""WebhookService: endpoints of organizations, and what was sent to them."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING

from gateway.gen.n8ngateway.v1.webhook_pb import Webhook, WebhookDelivery, WebhookDeliveryState
from gateway.gen.n8ngateway.v1.webhook_service_pb import (
    CreateWebhookRequest,
    CreateWebhookResponse,
    DeleteWebhookRequest,
    DeleteWebhookResponse,
    GetWebhookRequest,
    GetWebhookResponse,
    ListWebhookDeliveriesRequest,
    ListWebhookDeliveriesResponse,
    ListWebhooksRequest,
    ListWebhooksResponse,
    RedeliverWebhookRequest,
    RedeliverWebhookResponse,
    RotateWebhookSecretRequest,
    RotateWebhookSecretResponse,
    UpdateWebhookRequest,
    UpdateWebhookResponse,
)
from gateway.rpc.errors import InvalidArgument
from gateway.rpc.stored_json import read_message
from gateway.services.organization_of import organization_of
from gateway.services.pages import list_page
from gateway.services.update_mask import changes, masked_fields
from gateway.webhooks.signature import new_secret

if TYPE_CHECKING:
    from gateway.adapters.addresses import Networks
    from gateway.adapters.database import Database
    from gateway.adapters.vault import Envelope, Vault
    from gateway.rpc.call import Call

DEFAULT_OVERLAP_SECONDS = 86_400

_URL = "webhook.url"


class WebhookService:
    """Endpoints of the caller's organizations, for their admins. `networks` are where receivers may be."""

    def __init__(self, database: Database, vault: Vault, networks: Networks) -> None:
        self._database = database
        self._vault = vault
        self._networks = networks

    async def create_webhook(self, request: CreateWebhookRequest, call: Call) -> CreateWebhookResponse:
        """Add an endpoint, and show its secret this once."""
        wanted = request.webhook or Webhook()
        organization_id = organization_of(request.organization_id, call) or ""
        await self._networks.check(wanted.url, _URL)
        secret = new_secret()
        secret_id, envelope = self._sealed(organization_id, secret)
        text = await self._database.call(
            "create_webhook",
            call.caller,
            p_organization_id=organization_id,
            p_webhook=wanted.to_json(use_proto_field_name=True),
            p_secret_id=secret_id,
            p_secret=envelope,
        )
        return CreateWebhookResponse(webhook=read_message(text, Webhook), secret=secret)

    async def list_webhooks(self, request: ListWebhooksRequest, call: Call) -> ListWebhooksResponse:
        """One page, oldest first."""
        organization_id = organization_of(request.organization_id, call)
        of_list = f"webhooks {organization_id}"
        query = partial(self._database.call, "list_webhooks", call.caller, p_organization_id=organization_id)
        return await list_page(query, request, ListWebhooksResponse, of_list)

    async def get_webhook(self, request: GetWebhookRequest, call: Call) -> GetWebhookResponse:
        """One endpoint, without its secret."""
        text = await self._database.call(
            "get_webhook",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_id=request.id,
        )
        return GetWebhookResponse(webhook=read_message(text, Webhook))

    async def update_webhook(self, request: UpdateWebhookRequest, call: Call) -> UpdateWebhookResponse:
        """Change the fields of the mask, all or none. Enabled again, it is given another chance of days."""
        webhook = request.webhook or Webhook()
        names = masked_fields(webhook, request.update_mask)
        if "url" in names:
            if not webhook.url:
                problem = "is required and cannot be cleared"
                raise InvalidArgument(f"{_URL} {problem}.", reason="INVALID_FIELD", fields={_URL: problem})
            await self._networks.check(webhook.url, _URL)
        text = await self._database.call(
            "update_webhook",
            call.caller,
            p_organization_id=organization_of(webhook.organization_id, call, "webhook.organization_id"),
            p_id=webhook.id,
            p_changes=changes(webhook, names),
        )
        return UpdateWebhookResponse(webhook=read_message(text, Webhook))

    async def delete_webhook(self, request: DeleteWebhookRequest, call: Call) -> DeleteWebhookResponse:
        """Remove it with its deliveries. One that is under way may still arrive."""
        await self._database.call(
            "delete_webhook",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_id=request.id,
        )
        return DeleteWebhookResponse()

    async def rotate_webhook_secret(
        self, request: RotateWebhookSecretRequest, call: Call
    ) -> RotateWebhookSecretResponse:
        """Give it another secret, shown this once; the old one signs, too, until the overlap ends."""
        organization_id = organization_of(request.organization_id, call) or ""
        secret = new_secret()
        secret_id, envelope = self._sealed(organization_id, secret)
        text = await self._database.call(
            "rotate_webhook_secret",
            call.caller,
            p_organization_id=organization_id,
            p_id=request.id,
            p_secret_id=secret_id,
            p_secret=envelope,
            p_overlap_seconds=(
                request.overlap_seconds if request.has_field("overlap_seconds") else DEFAULT_OVERLAP_SECONDS
            ),
        )
        return RotateWebhookSecretResponse(webhook=read_message(text, Webhook), secret=secret)

    async def list_webhook_deliveries(
        self, request: ListWebhookDeliveriesRequest, call: Call
    ) -> ListWebhookDeliveriesResponse:
        """One page, newest first, of all states unless one is asked for."""
        organization_id = organization_of(request.organization_id, call)
        state = request.state if request.state is not WebhookDeliveryState.UNSPECIFIED else None
        of_list = f"webhook deliveries {request.webhook_id} {state}"
        query = partial(
            self._database.call,
            "list_webhook_deliveries",
            call.caller,
            p_organization_id=organization_id,
            p_webhook_id=request.webhook_id,
            p_state=f"WEBHOOK_DELIVERY_STATE_{state.name}" if state is not None else None,
        )
        return await list_page(query, request, ListWebhookDeliveriesResponse, of_list)

    async def redeliver_webhook(
        self, request: RedeliverWebhookRequest, call: Call
    ) -> RedeliverWebhookResponse:
        """Queue a delivery again; it keeps its id, by which the receiver knows it."""
        text = await self._database.call(
            "redeliver_webhook",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_webhook_id=request.webhook_id,
            p_delivery_id=request.delivery_id,
        )
        return RedeliverWebhookResponse(delivery=read_message(text, WebhookDelivery))

    def _sealed(self, organization_id: str, secret: str) -> tuple[str, Envelope]:
        secret_id = str(uuid.uuid4())
        return secret_id, self._vault.seal(organization_id, f"webhook/{secret_id}", secret)
