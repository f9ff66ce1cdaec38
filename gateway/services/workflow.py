"""WorkflowService: what an organization can run."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.gen.n8ngateway.v1.workflow_service_pb import (
    ActivateWorkflowRequest,
    ActivateWorkflowResponse,
    DeactivateWorkflowRequest,
    DeactivateWorkflowResponse,
    DeleteWorkflowRequest,
    DeleteWorkflowResponse,
    GetWorkflowRequest,
    GetWorkflowResponse,
    ListWorkflowsRequest,
    ListWorkflowsResponse,
    RegisterWorkflowRequest,
    RegisterWorkflowResponse,
    UpdateWorkflowRequest,
    UpdateWorkflowResponse,
)
from gateway.rpc.stored_json import read_message
from gateway.services.organization_of import organization_of
from gateway.services.pages import list_page
from gateway.services.update_mask import changes, masked_fields

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.rpc.call import Call


class WorkflowService:
    """Workflows of the caller's organizations; another tenant's are NOT_FOUND like none at all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register_workflow(
        self, request: RegisterWorkflowRequest, call: Call
    ) -> RegisterWorkflowResponse:
        """Register it, active unless it says otherwise. n8n is not asked."""
        workflow = request.workflow or Workflow()
        workflow.organization_id = (
            organization_of(workflow.organization_id, call, "workflow.organization_id") or ""
        )
        text = await self._database.call(
            "register_workflow",
            call.caller,
            p_workflow=workflow.to_json(use_proto_field_name=True),
        )
        return RegisterWorkflowResponse(workflow=read_message(text, Workflow))

    async def list_workflows(self, request: ListWorkflowsRequest, call: Call) -> ListWorkflowsResponse:
        """One page, newest first."""
        organization_id = organization_of(request.organization_id, call)
        is_active = request.is_active if request.has_field("is_active") else None
        of_list = f"workflows {organization_id} {is_active} {request.show_archived}"
        query = partial(
            self._database.call,
            "list_workflows",
            call.caller,
            p_organization_id=organization_id,
            p_active=is_active,
            p_archived=request.show_archived,
        )
        return await list_page(query, request, ListWorkflowsResponse, of_list)

    async def get_workflow(self, request: GetWorkflowRequest, call: Call) -> GetWorkflowResponse:
        """One workflow, by its id."""
        text = await self._database.call("get_workflow", call.caller, p_id=request.id)
        return GetWorkflowResponse(workflow=read_message(text, Workflow))

    async def update_workflow(self, request: UpdateWorkflowRequest, call: Call) -> UpdateWorkflowResponse:
        """Change the fields of the mask, all or none. Runs under way keep what they began with."""
        workflow = request.workflow or Workflow()
        names = masked_fields(workflow, request.update_mask)
        text = await self._database.call(
            "update_workflow", call.caller, p_id=workflow.id, p_changes=changes(workflow, names)
        )
        return UpdateWorkflowResponse(workflow=read_message(text, Workflow))

    async def delete_workflow(self, request: DeleteWorkflowRequest, call: Call) -> DeleteWorkflowResponse:
        """Archive it: its executions stay, and it runs no more."""
        await self._database.call("delete_workflow", call.caller, p_id=request.id)
        return DeleteWorkflowResponse()

    async def activate_workflow(
        self, request: ActivateWorkflowRequest, call: Call
    ) -> ActivateWorkflowResponse:
        """Let it be run."""
        return ActivateWorkflowResponse(workflow=await self._move(request.id, call, active=True))

    async def deactivate_workflow(
        self, request: DeactivateWorkflowRequest, call: Call
    ) -> DeactivateWorkflowResponse:
        """Let it be run no more; runs under way go on."""
        return DeactivateWorkflowResponse(workflow=await self._move(request.id, call, active=False))

    async def _move(self, workflow_id: str, call: Call, *, active: bool) -> Workflow:
        text = await self._database.call(
            "set_workflow_active", call.caller, p_id=workflow_id, p_active=active
        )
        return read_message(text, Workflow)
