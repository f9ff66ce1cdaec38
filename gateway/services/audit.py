"""The part of OrganizationService that tells who changed what."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import TYPE_CHECKING

import orjson

from gateway.gen.n8ngateway.v1.audit_event_pb import AuditEvent
from gateway.gen.n8ngateway.v1.organization_service_pb import (
    ExportAuditEventsRequest,
    ListAuditEventsRequest,
    ListAuditEventsResponse,
)
from gateway.rpc.resource_json import resource_json
from gateway.services.export import export
from gateway.services.organization_of import organization_of
from gateway.services.pages import list_page
from gateway.services.times import time_text

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.rpc.call import Call
    from gateway.transcoding.gen.google.api.httpbody_pb import HttpBody

_shown = resource_json(AuditEvent)
_COLUMNS = (
    "id",
    "created_at",
    "actor_type",
    "actor_id",
    "impersonator_id",
    "action",
    "resource_type",
    "resource_id",
    "changes",
    "request_id",
)


class AuditEvents:
    """What members, keys and the platform did to an organization and what belongs to it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_audit_events(self, request: ListAuditEventsRequest, call: Call) -> ListAuditEventsResponse:
        """One page, newest first."""
        narrowed = {
            "p_organization_id": organization_of(request.organization_id, call),
            "p_actor_id": request.actor_id or None,
            "p_action": request.action or None,
            "p_resource_id": request.resource_id or None,
            "p_start_time": time_text(request.start_time),
            "p_end_time": time_text(request.end_time),
        }
        of_list = f"audit events {orjson.dumps(narrowed).decode()}"
        query = partial(self._database.call, "list_audit_events", call.caller, **narrowed)
        return await list_page(query, request, ListAuditEventsResponse, of_list)

    async def export_audit_events(
        self, request: ExportAuditEventsRequest, call: Call
    ) -> AsyncGenerator[list[HttpBody], None]:
        """All of a time span, oldest first, a piece of the file for each page of the database."""

        async def page_after(after: str | None) -> str:
            return await self._database.call(
                "export_audit_events",
                call.caller,
                p_organization_id=organization_of(request.organization_id, call),
                p_start_time=time_text(request.start_time),
                p_end_time=time_text(request.end_time),
                p_after=after,
            )

        async for piece in export(request.format, _COLUMNS, "audit_events", _shown, page_after):
            yield [piece]
