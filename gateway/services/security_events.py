"""The part of OrganizationService that tells what was noticed about callers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import orjson

from gateway.gen.n8ngateway.v1.organization_service_pb import (
    ListSecurityEventsRequest,
    ListSecurityEventsResponse,
)
from gateway.services.organization_of import organization_of
from gateway.services.pages import list_page
from gateway.services.times import time_text

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.rpc.call import Call


class SecurityEvents:
    """Sessions and keys of an organization: how they began, and what was suspicious later."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_security_events(
        self, request: ListSecurityEventsRequest, call: Call
    ) -> ListSecurityEventsResponse:
        """One page, newest first."""
        status = f"SECURITY_EVENT_STATUS_{request.status.name}" if request.status else None
        narrowed = {
            "p_organization_id": organization_of(request.organization_id, call),
            "p_status": status,
            "p_subject_id": request.subject_id or None,
            "p_start_time": time_text(request.start_time),
            "p_end_time": time_text(request.end_time),
        }
        of_list = f"security events {orjson.dumps(narrowed).decode()}"
        query = partial(self._database.call, "list_security_events", call.caller, **narrowed)
        return await list_page(query, request, ListSecurityEventsResponse, of_list)
