from typing import Any

import grpc
import grpc.aio
from n8n_gateway_client.v1 import execution_event_pb2
from n8n_gateway_client.v1 import execution_service_pb2

class ExecutionServiceStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    Execute: grpc.UnaryUnaryMultiCallable[execution_service_pb2.ExecuteRequest, execution_service_pb2.ExecuteResponse]
    ExecuteStream: grpc.UnaryStreamMultiCallable[execution_service_pb2.ExecuteStreamRequest, execution_event_pb2.ExecutionEvent]
    StartExecution: grpc.UnaryUnaryMultiCallable[execution_service_pb2.StartExecutionRequest, execution_service_pb2.StartExecutionResponse]
    GetExecution: grpc.UnaryUnaryMultiCallable[execution_service_pb2.GetExecutionRequest, execution_service_pb2.GetExecutionResponse]
    ListExecutions: grpc.UnaryUnaryMultiCallable[execution_service_pb2.ListExecutionsRequest, execution_service_pb2.ListExecutionsResponse]
    CancelExecution: grpc.UnaryUnaryMultiCallable[execution_service_pb2.CancelExecutionRequest, execution_service_pb2.CancelExecutionResponse]
    WatchExecution: grpc.UnaryStreamMultiCallable[execution_service_pb2.WatchExecutionRequest, execution_event_pb2.ExecutionEvent]

class AsyncExecutionServiceStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    Execute: grpc.aio.UnaryUnaryMultiCallable[execution_service_pb2.ExecuteRequest, execution_service_pb2.ExecuteResponse]
    ExecuteStream: grpc.aio.UnaryStreamMultiCallable[execution_service_pb2.ExecuteStreamRequest, execution_event_pb2.ExecutionEvent]
    StartExecution: grpc.aio.UnaryUnaryMultiCallable[execution_service_pb2.StartExecutionRequest, execution_service_pb2.StartExecutionResponse]
    GetExecution: grpc.aio.UnaryUnaryMultiCallable[execution_service_pb2.GetExecutionRequest, execution_service_pb2.GetExecutionResponse]
    ListExecutions: grpc.aio.UnaryUnaryMultiCallable[execution_service_pb2.ListExecutionsRequest, execution_service_pb2.ListExecutionsResponse]
    CancelExecution: grpc.aio.UnaryUnaryMultiCallable[execution_service_pb2.CancelExecutionRequest, execution_service_pb2.CancelExecutionResponse]
    WatchExecution: grpc.aio.UnaryStreamMultiCallable[execution_service_pb2.WatchExecutionRequest, execution_event_pb2.ExecutionEvent]

class ExecutionServiceServicer:
    def Execute(self, request: execution_service_pb2.ExecuteRequest, context: Any) -> Any: ...
    def ExecuteStream(self, request: execution_service_pb2.ExecuteStreamRequest, context: Any) -> Any: ...
    def StartExecution(self, request: execution_service_pb2.StartExecutionRequest, context: Any) -> Any: ...
    def GetExecution(self, request: execution_service_pb2.GetExecutionRequest, context: Any) -> Any: ...
    def ListExecutions(self, request: execution_service_pb2.ListExecutionsRequest, context: Any) -> Any: ...
    def CancelExecution(self, request: execution_service_pb2.CancelExecutionRequest, context: Any) -> Any: ...
    def WatchExecution(self, request: execution_service_pb2.WatchExecutionRequest, context: Any) -> Any: ...

def add_ExecutionServiceServicer_to_server(
    servicer: ExecutionServiceServicer, server: grpc.Server | grpc.aio.Server
) -> None: ...
