from typing import Any

import grpc
import grpc.aio
from n8n_gateway_client.v1 import webhook_service_pb2

class WebhookServiceStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    CreateWebhook: grpc.UnaryUnaryMultiCallable[webhook_service_pb2.CreateWebhookRequest, webhook_service_pb2.CreateWebhookResponse]
    ListWebhooks: grpc.UnaryUnaryMultiCallable[webhook_service_pb2.ListWebhooksRequest, webhook_service_pb2.ListWebhooksResponse]
    GetWebhook: grpc.UnaryUnaryMultiCallable[webhook_service_pb2.GetWebhookRequest, webhook_service_pb2.GetWebhookResponse]
    UpdateWebhook: grpc.UnaryUnaryMultiCallable[webhook_service_pb2.UpdateWebhookRequest, webhook_service_pb2.UpdateWebhookResponse]
    DeleteWebhook: grpc.UnaryUnaryMultiCallable[webhook_service_pb2.DeleteWebhookRequest, webhook_service_pb2.DeleteWebhookResponse]
    RotateWebhookSecret: grpc.UnaryUnaryMultiCallable[webhook_service_pb2.RotateWebhookSecretRequest, webhook_service_pb2.RotateWebhookSecretResponse]
    ListWebhookDeliveries: grpc.UnaryUnaryMultiCallable[webhook_service_pb2.ListWebhookDeliveriesRequest, webhook_service_pb2.ListWebhookDeliveriesResponse]
    RedeliverWebhook: grpc.UnaryUnaryMultiCallable[webhook_service_pb2.RedeliverWebhookRequest, webhook_service_pb2.RedeliverWebhookResponse]

class AsyncWebhookServiceStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    CreateWebhook: grpc.aio.UnaryUnaryMultiCallable[webhook_service_pb2.CreateWebhookRequest, webhook_service_pb2.CreateWebhookResponse]
    ListWebhooks: grpc.aio.UnaryUnaryMultiCallable[webhook_service_pb2.ListWebhooksRequest, webhook_service_pb2.ListWebhooksResponse]
    GetWebhook: grpc.aio.UnaryUnaryMultiCallable[webhook_service_pb2.GetWebhookRequest, webhook_service_pb2.GetWebhookResponse]
    UpdateWebhook: grpc.aio.UnaryUnaryMultiCallable[webhook_service_pb2.UpdateWebhookRequest, webhook_service_pb2.UpdateWebhookResponse]
    DeleteWebhook: grpc.aio.UnaryUnaryMultiCallable[webhook_service_pb2.DeleteWebhookRequest, webhook_service_pb2.DeleteWebhookResponse]
    RotateWebhookSecret: grpc.aio.UnaryUnaryMultiCallable[webhook_service_pb2.RotateWebhookSecretRequest, webhook_service_pb2.RotateWebhookSecretResponse]
    ListWebhookDeliveries: grpc.aio.UnaryUnaryMultiCallable[webhook_service_pb2.ListWebhookDeliveriesRequest, webhook_service_pb2.ListWebhookDeliveriesResponse]
    RedeliverWebhook: grpc.aio.UnaryUnaryMultiCallable[webhook_service_pb2.RedeliverWebhookRequest, webhook_service_pb2.RedeliverWebhookResponse]

class WebhookServiceServicer:
    def CreateWebhook(self, request: webhook_service_pb2.CreateWebhookRequest, context: Any) -> Any: ...
    def ListWebhooks(self, request: webhook_service_pb2.ListWebhooksRequest, context: Any) -> Any: ...
    def GetWebhook(self, request: webhook_service_pb2.GetWebhookRequest, context: Any) -> Any: ...
    def UpdateWebhook(self, request: webhook_service_pb2.UpdateWebhookRequest, context: Any) -> Any: ...
    def DeleteWebhook(self, request: webhook_service_pb2.DeleteWebhookRequest, context: Any) -> Any: ...
    def RotateWebhookSecret(self, request: webhook_service_pb2.RotateWebhookSecretRequest, context: Any) -> Any: ...
    def ListWebhookDeliveries(self, request: webhook_service_pb2.ListWebhookDeliveriesRequest, context: Any) -> Any: ...
    def RedeliverWebhook(self, request: webhook_service_pb2.RedeliverWebhookRequest, context: Any) -> Any: ...

def add_WebhookServiceServicer_to_server(
    servicer: WebhookServiceServicer, server: grpc.Server | grpc.aio.Server
) -> None: ...
