from typing import Any

import grpc
import grpc.aio
from google.api import httpbody_pb2
from n8n_gateway_client.v1 import credit_service_pb2

class CreditServiceStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    GetCreditBalance: grpc.UnaryUnaryMultiCallable[credit_service_pb2.GetCreditBalanceRequest, credit_service_pb2.GetCreditBalanceResponse]
    AddCredits: grpc.UnaryUnaryMultiCallable[credit_service_pb2.AddCreditsRequest, credit_service_pb2.AddCreditsResponse]
    RefundExecution: grpc.UnaryUnaryMultiCallable[credit_service_pb2.RefundExecutionRequest, credit_service_pb2.RefundExecutionResponse]
    ListCreditEntries: grpc.UnaryUnaryMultiCallable[credit_service_pb2.ListCreditEntriesRequest, credit_service_pb2.ListCreditEntriesResponse]
    ExportCreditEntries: grpc.UnaryStreamMultiCallable[credit_service_pb2.ExportCreditEntriesRequest, httpbody_pb2.HttpBody]
    GetUsage: grpc.UnaryUnaryMultiCallable[credit_service_pb2.GetUsageRequest, credit_service_pb2.GetUsageResponse]
    ExportUsage: grpc.UnaryStreamMultiCallable[credit_service_pb2.ExportUsageRequest, httpbody_pb2.HttpBody]

class AsyncCreditServiceStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    GetCreditBalance: grpc.aio.UnaryUnaryMultiCallable[credit_service_pb2.GetCreditBalanceRequest, credit_service_pb2.GetCreditBalanceResponse]
    AddCredits: grpc.aio.UnaryUnaryMultiCallable[credit_service_pb2.AddCreditsRequest, credit_service_pb2.AddCreditsResponse]
    RefundExecution: grpc.aio.UnaryUnaryMultiCallable[credit_service_pb2.RefundExecutionRequest, credit_service_pb2.RefundExecutionResponse]
    ListCreditEntries: grpc.aio.UnaryUnaryMultiCallable[credit_service_pb2.ListCreditEntriesRequest, credit_service_pb2.ListCreditEntriesResponse]
    ExportCreditEntries: grpc.aio.UnaryStreamMultiCallable[credit_service_pb2.ExportCreditEntriesRequest, httpbody_pb2.HttpBody]
    GetUsage: grpc.aio.UnaryUnaryMultiCallable[credit_service_pb2.GetUsageRequest, credit_service_pb2.GetUsageResponse]
    ExportUsage: grpc.aio.UnaryStreamMultiCallable[credit_service_pb2.ExportUsageRequest, httpbody_pb2.HttpBody]

class CreditServiceServicer:
    def GetCreditBalance(self, request: credit_service_pb2.GetCreditBalanceRequest, context: Any) -> Any: ...
    def AddCredits(self, request: credit_service_pb2.AddCreditsRequest, context: Any) -> Any: ...
    def RefundExecution(self, request: credit_service_pb2.RefundExecutionRequest, context: Any) -> Any: ...
    def ListCreditEntries(self, request: credit_service_pb2.ListCreditEntriesRequest, context: Any) -> Any: ...
    def ExportCreditEntries(self, request: credit_service_pb2.ExportCreditEntriesRequest, context: Any) -> Any: ...
    def GetUsage(self, request: credit_service_pb2.GetUsageRequest, context: Any) -> Any: ...
    def ExportUsage(self, request: credit_service_pb2.ExportUsageRequest, context: Any) -> Any: ...

def add_CreditServiceServicer_to_server(
    servicer: CreditServiceServicer, server: grpc.Server | grpc.aio.Server
) -> None: ...
