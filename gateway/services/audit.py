"""The part of OrganizationService that tells who changed what."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Any

import orjson

from gateway.gen.n8ngateway.v1.organization_service_pb import (
    ExportAuditEventsRequest,
    ListAuditEventsRequest,
    ListAuditEventsResponse,
)
from gateway.gen.n8ngateway.v1.usage_pb import ExportFormat
from gateway.services.organization_of import organization_of
from gateway.services.pages import decode_token, page_size, read_page
from gateway.services.times import time_text
from gateway.transcoding.gen.google.api.httpbody_pb import HttpBody

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.rpc.call import Call

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
        text = await self._database.call(
            "list_audit_events",
            call.caller,
            **narrowed,
            p_after=decode_token(of_list, request.page_token),
            p_limit=page_size(request.page_size),
        )
        return read_page(text, ListAuditEventsResponse, of_list)

    async def export_audit_events(
        self, request: ExportAuditEventsRequest, call: Call
    ) -> AsyncGenerator[HttpBody, None]:
        """All of a time span, oldest first, a piece of the file for each page of the database."""
        as_lines = request.format is ExportFormat.NDJSON
        piece = b"" if as_lines else _csv([_COLUMNS])
        after: str | None = None
        while True:
            page = orjson.loads(
                await self._database.call(
                    "export_audit_events",
                    call.caller,
                    p_organization_id=organization_of(request.organization_id, call),
                    p_start_time=time_text(request.start_time),
                    p_end_time=time_text(request.end_time),
                    p_after=after,
                )
            )
            piece += (_lines if as_lines else _rows)(page["audit_events"])
            yield HttpBody(
                content_type="application/x-ndjson" if as_lines else "text/csv; charset=utf-8", data=piece
            )
            piece, after = b"", page["next"]
            if after is None:
                return


def _lines(events: list[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events)


def _rows(events: list[dict[str, Any]]) -> bytes:
    texts = (event | {"changes": orjson.dumps(event["changes"]).decode()} for event in events)
    return _csv([event[column] for column in _COLUMNS] for event in texts)


def _csv(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
