from typing import Any

import grpc
import grpc.aio
from n8n_gateway_client.v1 import workflow_service_pb2

class WorkflowServiceStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    RegisterWorkflow: grpc.UnaryUnaryMultiCallable[workflow_service_pb2.RegisterWorkflowRequest, workflow_service_pb2.RegisterWorkflowResponse]
    ListWorkflows: grpc.UnaryUnaryMultiCallable[workflow_service_pb2.ListWorkflowsRequest, workflow_service_pb2.ListWorkflowsResponse]
    GetWorkflow: grpc.UnaryUnaryMultiCallable[workflow_service_pb2.GetWorkflowRequest, workflow_service_pb2.GetWorkflowResponse]
    UpdateWorkflow: grpc.UnaryUnaryMultiCallable[workflow_service_pb2.UpdateWorkflowRequest, workflow_service_pb2.UpdateWorkflowResponse]
    DeleteWorkflow: grpc.UnaryUnaryMultiCallable[workflow_service_pb2.DeleteWorkflowRequest, workflow_service_pb2.DeleteWorkflowResponse]
    ActivateWorkflow: grpc.UnaryUnaryMultiCallable[workflow_service_pb2.ActivateWorkflowRequest, workflow_service_pb2.ActivateWorkflowResponse]
    DeactivateWorkflow: grpc.UnaryUnaryMultiCallable[workflow_service_pb2.DeactivateWorkflowRequest, workflow_service_pb2.DeactivateWorkflowResponse]

class AsyncWorkflowServiceStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    RegisterWorkflow: grpc.aio.UnaryUnaryMultiCallable[workflow_service_pb2.RegisterWorkflowRequest, workflow_service_pb2.RegisterWorkflowResponse]
    ListWorkflows: grpc.aio.UnaryUnaryMultiCallable[workflow_service_pb2.ListWorkflowsRequest, workflow_service_pb2.ListWorkflowsResponse]
    GetWorkflow: grpc.aio.UnaryUnaryMultiCallable[workflow_service_pb2.GetWorkflowRequest, workflow_service_pb2.GetWorkflowResponse]
    UpdateWorkflow: grpc.aio.UnaryUnaryMultiCallable[workflow_service_pb2.UpdateWorkflowRequest, workflow_service_pb2.UpdateWorkflowResponse]
    DeleteWorkflow: grpc.aio.UnaryUnaryMultiCallable[workflow_service_pb2.DeleteWorkflowRequest, workflow_service_pb2.DeleteWorkflowResponse]
    ActivateWorkflow: grpc.aio.UnaryUnaryMultiCallable[workflow_service_pb2.ActivateWorkflowRequest, workflow_service_pb2.ActivateWorkflowResponse]
    DeactivateWorkflow: grpc.aio.UnaryUnaryMultiCallable[workflow_service_pb2.DeactivateWorkflowRequest, workflow_service_pb2.DeactivateWorkflowResponse]

class WorkflowServiceServicer:
    def RegisterWorkflow(self, request: workflow_service_pb2.RegisterWorkflowRequest, context: Any) -> Any: ...
    def ListWorkflows(self, request: workflow_service_pb2.ListWorkflowsRequest, context: Any) -> Any: ...
    def GetWorkflow(self, request: workflow_service_pb2.GetWorkflowRequest, context: Any) -> Any: ...
    def UpdateWorkflow(self, request: workflow_service_pb2.UpdateWorkflowRequest, context: Any) -> Any: ...
    def DeleteWorkflow(self, request: workflow_service_pb2.DeleteWorkflowRequest, context: Any) -> Any: ...
    def ActivateWorkflow(self, request: workflow_service_pb2.ActivateWorkflowRequest, context: Any) -> Any: ...
    def DeactivateWorkflow(self, request: workflow_service_pb2.DeactivateWorkflowRequest, context: Any) -> Any: ...

def add_WorkflowServiceServicer_to_server(
    servicer: WorkflowServiceServicer, server: grpc.Server | grpc.aio.Server
) -> None: ...
