from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from gateway.adapters.addresses import Networks
from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.vault import SealedVault
from gateway.adapters.webhook_sender import WebhookSender
from gateway.webhooks.deliverer import Deliverer
from gateway.webhooks.signature import new_secret
from tests.adapters.databases import Cluster, Tenant, cluster, login, new_tenant
from tests.webhooks.receiver import Receiver, receiving

__all__ = ["cluster"]

LOOPBACK = Networks(["127.0.0.0/8"])


class Outbox:
    """A database of its own, so that only this test's events are delivered, and who delivers them."""

    def __init__(self, database: PostgresDatabase, superuser: Any, sender: WebhookSender) -> None:
        self.database = database
        self.superuser = superuser
        self.sender = sender
        self.vault = SealedVault(database, [("1", os.urandom(32))])
        self.secrets: dict[str, str] = {}

    def deliverer(self, sender: WebhookSender | None = None) -> Deliverer:
        return Deliverer(self.database, self.vault, sender or self.sender)

    def sealed(self, tenant: Tenant) -> tuple[str, str, Any]:
        secret, secret_id = new_secret(), str(uuid.uuid4())
        return secret, secret_id, self.vault.seal(tenant.organization_id, f"webhook/{secret_id}", secret)

    async def webhook(self, tenant: Tenant, url: str, *event_types: str) -> str:
        """Add an endpoint; `secrets` has its secret."""
        secret, secret_id, envelope = self.sealed(tenant)
        made = await tenant.call(
            "create_webhook",
            p_organization_id=tenant.organization_id,
            p_webhook={"url": url, "event_types": list(event_types)},
            p_secret_id=secret_id,
            p_secret=envelope,
        )
        self.secrets[made["id"]] = secret
        return str(made["id"])

    async def tenant(self) -> Tenant:
        return await new_tenant(self.database, balance=100)

    async def emit(self, tenant: Tenant, event_type: str = "execution.finished", payload: str = "{}") -> None:
        await self.superuser.execute(
            "select gateway.emit($1::uuid, $2, $3::jsonb)", tenant.organization_id, event_type, payload
        )

    async def deliver(self, deliverer: Deliverer | None = None) -> int:
        """Deliver all that is due, and wait until it is noted."""
        deliverer = deliverer or self.deliverer()
        begun = 0
        while done := await deliverer.deliver_due():
            begun += done
        await deliverer.close(30)
        return begun

    async def make_due(self) -> None:
        """As if time had passed."""
        await self.superuser.execute(
            "update webhook_deliveries set next_attempt_at = now(), leased_until = null"
            " where state = 'WEBHOOK_DELIVERY_STATE_PENDING'"
        )

    async def deliveries(self, tenant: Tenant, webhook_id: str, state: str | None = None) -> Any:
        page = await tenant.call(
            "list_webhook_deliveries",
            p_organization_id=tenant.organization_id,
            p_webhook_id=webhook_id,
            p_state=state and f"WEBHOOK_DELIVERY_STATE_{state}",
        )
        return page["deliveries"]


@pytest.fixture
async def outbox(cluster: Cluster) -> AsyncIterator[Outbox]:
    url = await cluster.create("migrated")
    database = PostgresDatabase(login(url))
    superuser = await asyncpg.connect(str(url))
    yield Outbox(database, superuser, WebhookSender(LOOPBACK))
    await superuser.close()
    await database.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running
