"""CreditService: what organizations have, and what they used it for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from gateway.gen.n8ngateway.v1.credit_pb import CreditBalance, CreditEntry
from gateway.gen.n8ngateway.v1.credit_service_pb import (
    AddCreditsRequest,
    AddCreditsResponse,
    ExportCreditEntriesRequest,
    ExportUsageRequest,
    GetCreditBalanceRequest,
    GetCreditBalanceResponse,
    GetUsageRequest,
    GetUsageResponse,
    ListCreditEntriesRequest,
    ListCreditEntriesResponse,
    RefundExecutionRequest,
    RefundExecutionResponse,
)
from gateway.gen.n8ngateway.v1.execution_pb import Execution
from gateway.rpc.errors import PermissionDenied
from gateway.rpc.principal import Kind
from gateway.rpc.resource_json import resource_json
from gateway.rpc.stored_json import read_message
from gateway.services.export import export
from gateway.services.organization_of import organization_of
from gateway.services.pages import BY_NAME, list_page
from gateway.services.times import time_text

if TYPE_CHECKING:
    from gateway.adapters.database import Database, Json
    from gateway.rpc.call import Call
    from gateway.transcoding.gen.google.api.httpbody_pb import HttpBody

ENTRY_COLUMNS = (
    "id",
    "created_at",
    "kind",
    "amount",
    "balance_after",
    "execution_id",
    "description",
    "created_by",
)
USAGE_COLUMNS = (
    "id",
    "created_at",
    "finished_at",
    "workflow_id",
    "workflow",
    "state",
    "credits_used",
    "execution_time_ms",
    "created_by",
    "api_key_id",
    "n8n_execution_id",
    "metadata",
    "credits_refunded",
)


class CreditService:
    """Credits of the caller's organizations, for their members; the platform adds them and reads all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_credit_balance(
        self, request: GetCreditBalanceRequest, call: Call
    ) -> GetCreditBalanceResponse:
        """The balance and what is held of it, as of one moment."""
        text = await self._database.call(
            "get_credit_balance",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
        )
        return GetCreditBalanceResponse(balance=read_message(text, CreditBalance))

    async def add_credits(self, request: AddCreditsRequest, call: Call) -> AddCreditsResponse:
        """Add credits, once for an idempotency key. Raises PermissionDenied for all but the platform."""
        _require_platform(call)
        text = await self._database.call(
            "add_credits",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_amount=request.amount,
            p_reference=request.idempotency_key,
            p_description=request.description,
        )
        return read_message(text, AddCreditsResponse)

    async def refund_execution(self, request: RefundExecutionRequest, call: Call) -> RefundExecutionResponse:
        """Give back what a run was charged, once. Raises PermissionDenied for all but the platform."""
        _require_platform(call)
        text = await self._database.call(
            "refund_execution",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_execution_id=request.execution_id,
            p_amount=request.amount if request.has_field("amount") else None,
            p_description=request.description,
        )
        return read_message(text, RefundExecutionResponse)

    async def list_credit_entries(
        self, request: ListCreditEntriesRequest, call: Call
    ) -> ListCreditEntriesResponse:
        """One page, newest first."""
        organization_id = organization_of(request.organization_id, call)
        narrowed = _given(
            kind=f"CREDIT_ENTRY_KIND_{request.kind.name}" if request.kind else None,
            start_time=time_text(request.start_time),
            end_time=time_text(request.end_time),
            execution_id=request.execution_id,
        )
        of_list = _list_name("credit entries", organization_id, narrowed)
        query = partial(
            self._database.call,
            "list_credit_entries",
            call.caller,
            p_organization_id=organization_id,
            p_filter=narrowed,
        )
        return await list_page(query, request, ListCreditEntriesResponse, of_list)

    async def export_credit_entries(
        self, request: ExportCreditEntriesRequest, call: Call
    ) -> AsyncGenerator[list[HttpBody], None]:
        """All of a time span, oldest first."""
        narrowed = _given(start_time=time_text(request.start_time), end_time=time_text(request.end_time))

        async def page_after(after: str | None) -> str:
            return await self._database.call(
                "export_credit_entries",
                call.caller,
                p_organization_id=organization_of(request.organization_id, call),
                p_filter=narrowed,
                p_after=after,
            )

        async for piece in export(request.format, ENTRY_COLUMNS, "entries", _entry, page_after):
            yield [piece]

    async def get_usage(self, request: GetUsageRequest, call: Call) -> GetUsageResponse:
        """Executions summed up, in the order of the dimensions."""
        organization_id = organization_of(request.organization_id, call)
        dimensions = [f"USAGE_DIMENSION_{dimension.name}" for dimension in request.group_by]
        narrowed = _given(
            start_time=time_text(request.start_time),
            end_time=time_text(request.end_time),
            workflow_id=request.workflow_id,
            api_key_id=request.api_key_id.lower(),
        )
        of_list = _list_name(f"usage {dimensions}", organization_id, narrowed)
        query = partial(
            self._database.call,
            "get_usage",
            call.caller,
            p_organization_id=organization_id,
            p_group_by=dimensions,
            p_filter=narrowed,
        )
        return await list_page(query, request, GetUsageResponse, of_list, BY_NAME)

    async def export_usage(
        self, request: ExportUsageRequest, call: Call
    ) -> AsyncGenerator[list[HttpBody], None]:
        """The executions of a time span, oldest first."""
        narrowed = _given(
            start_time=time_text(request.start_time),
            end_time=time_text(request.end_time),
            workflow_id=request.workflow_id,
        )

        async def page_after(after: str | None) -> str:
            return await self._database.call(
                "export_usage",
                call.caller,
                p_organization_id=organization_of(request.organization_id, call),
                p_filter=narrowed,
                p_after=after,
            )

        async for piece in export(request.format, USAGE_COLUMNS, "executions", _usage, page_after):
            yield [piece]


_entry = resource_json(CreditEntry)
_execution = resource_json(Execution)


def _usage(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of an execution and of its workflow."""
    told = _execution(row) | {"workflow": row["workflow"], "credits_refunded": row["credits_refunded"]}
    return {column: told[column] for column in USAGE_COLUMNS if column in told}


def _require_platform(call: Call) -> None:
    if call.caller.kind is not Kind.PLATFORM:
        msg = "Credits are added and given back by the platform alone."
        raise PermissionDenied(msg, reason="PLATFORM_ONLY")


def _given(**values: str | None) -> dict[str, Json]:
    return {name: value for name, value in values.items() if value}


def _list_name(what: str, organization_id: str | None, narrowed: dict[str, Json]) -> str:
    return f"{what} {organization_id} {orjson.dumps(narrowed).decode()}"
