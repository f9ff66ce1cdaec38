"""The part of OrganizationService that tells what n8n reported of failures."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import orjson

from gateway.gen.n8ngateway.v1.organization_service_pb import ListErrorLogsRequest, ListErrorLogsResponse
from gateway.services.organization_of import organization_of
from gateway.services.pages import list_page
from gateway.services.times import time_text

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.rpc.call import Call


class ErrorLogs:
    """Failures of an organization's workflows, as their error workflows told them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_error_logs(self, request: ListErrorLogsRequest, call: Call) -> ListErrorLogsResponse:
        """One page, newest first."""
        narrowed = {
            "p_organization_id": organization_of(request.organization_id, call),
            "p_execution_id": request.execution_id or None,
            "p_start_time": time_text(request.start_time),
            "p_end_time": time_text(request.end_time),
        }
        of_list = f"error logs {orjson.dumps(narrowed).decode()}"
        query = partial(self._database.call, "list_error_logs", call.caller, **narrowed)
        return await list_page(query, request, ListErrorLogsResponse, of_list)
