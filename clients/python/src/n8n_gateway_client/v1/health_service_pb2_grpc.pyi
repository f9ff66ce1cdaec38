from typing import Any

import grpc
import grpc.aio
from n8n_gateway_client.v1 import health_service_pb2

class HealthServiceStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    GetHealth: grpc.UnaryUnaryMultiCallable[health_service_pb2.GetHealthRequest, health_service_pb2.GetHealthResponse]
    GetReadiness: grpc.UnaryUnaryMultiCallable[health_service_pb2.GetReadinessRequest, health_service_pb2.GetReadinessResponse]
    GetLiveness: grpc.UnaryUnaryMultiCallable[health_service_pb2.GetLivenessRequest, health_service_pb2.GetLivenessResponse]

class AsyncHealthServiceStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    GetHealth: grpc.aio.UnaryUnaryMultiCallable[health_service_pb2.GetHealthRequest, health_service_pb2.GetHealthResponse]
    GetReadiness: grpc.aio.UnaryUnaryMultiCallable[health_service_pb2.GetReadinessRequest, health_service_pb2.GetReadinessResponse]
    GetLiveness: grpc.aio.UnaryUnaryMultiCallable[health_service_pb2.GetLivenessRequest, health_service_pb2.GetLivenessResponse]

class HealthServiceServicer:
    def GetHealth(self, request: health_service_pb2.GetHealthRequest, context: Any) -> Any: ...
    def GetReadiness(self, request: health_service_pb2.GetReadinessRequest, context: Any) -> Any: ...
    def GetLiveness(self, request: health_service_pb2.GetLivenessRequest, context: Any) -> Any: ...

def add_HealthServiceServicer_to_server(
    servicer: HealthServiceServicer, server: grpc.Server | grpc.aio.Server
) -> None: ...
