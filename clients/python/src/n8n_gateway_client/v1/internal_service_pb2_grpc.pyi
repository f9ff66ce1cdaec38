from typing import Any

import grpc
import grpc.aio
from n8n_gateway_client.v1 import internal_service_pb2

class InternalServiceStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    LogError: grpc.UnaryUnaryMultiCallable[internal_service_pb2.LogErrorRequest, internal_service_pb2.LogErrorResponse]
    RedeemCredentials: grpc.UnaryUnaryMultiCallable[internal_service_pb2.RedeemCredentialsRequest, internal_service_pb2.RedeemCredentialsResponse]
    ReportProgress: grpc.UnaryUnaryMultiCallable[internal_service_pb2.ReportProgressRequest, internal_service_pb2.ReportProgressResponse]

class AsyncInternalServiceStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    LogError: grpc.aio.UnaryUnaryMultiCallable[internal_service_pb2.LogErrorRequest, internal_service_pb2.LogErrorResponse]
    RedeemCredentials: grpc.aio.UnaryUnaryMultiCallable[internal_service_pb2.RedeemCredentialsRequest, internal_service_pb2.RedeemCredentialsResponse]
    ReportProgress: grpc.aio.UnaryUnaryMultiCallable[internal_service_pb2.ReportProgressRequest, internal_service_pb2.ReportProgressResponse]

class InternalServiceServicer:
    def LogError(self, request: internal_service_pb2.LogErrorRequest, context: Any) -> Any: ...
    def RedeemCredentials(self, request: internal_service_pb2.RedeemCredentialsRequest, context: Any) -> Any: ...
    def ReportProgress(self, request: internal_service_pb2.ReportProgressRequest, context: Any) -> Any: ...

def add_InternalServiceServicer_to_server(
    servicer: InternalServiceServicer, server: grpc.Server | grpc.aio.Server
) -> None: ...
