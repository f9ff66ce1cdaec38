from typing import Any

import grpc
import grpc.aio
from n8n_gateway_client.v1 import api_key_service_pb2

class ApiKeyServiceStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    CreateApiKey: grpc.UnaryUnaryMultiCallable[api_key_service_pb2.CreateApiKeyRequest, api_key_service_pb2.CreateApiKeyResponse]
    ListApiKeys: grpc.UnaryUnaryMultiCallable[api_key_service_pb2.ListApiKeysRequest, api_key_service_pb2.ListApiKeysResponse]
    GetApiKey: grpc.UnaryUnaryMultiCallable[api_key_service_pb2.GetApiKeyRequest, api_key_service_pb2.GetApiKeyResponse]
    RotateApiKey: grpc.UnaryUnaryMultiCallable[api_key_service_pb2.RotateApiKeyRequest, api_key_service_pb2.RotateApiKeyResponse]
    RevokeApiKey: grpc.UnaryUnaryMultiCallable[api_key_service_pb2.RevokeApiKeyRequest, api_key_service_pb2.RevokeApiKeyResponse]

class AsyncApiKeyServiceStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    CreateApiKey: grpc.aio.UnaryUnaryMultiCallable[api_key_service_pb2.CreateApiKeyRequest, api_key_service_pb2.CreateApiKeyResponse]
    ListApiKeys: grpc.aio.UnaryUnaryMultiCallable[api_key_service_pb2.ListApiKeysRequest, api_key_service_pb2.ListApiKeysResponse]
    GetApiKey: grpc.aio.UnaryUnaryMultiCallable[api_key_service_pb2.GetApiKeyRequest, api_key_service_pb2.GetApiKeyResponse]
    RotateApiKey: grpc.aio.UnaryUnaryMultiCallable[api_key_service_pb2.RotateApiKeyRequest, api_key_service_pb2.RotateApiKeyResponse]
    RevokeApiKey: grpc.aio.UnaryUnaryMultiCallable[api_key_service_pb2.RevokeApiKeyRequest, api_key_service_pb2.RevokeApiKeyResponse]

class ApiKeyServiceServicer:
    def CreateApiKey(self, request: api_key_service_pb2.CreateApiKeyRequest, context: Any) -> Any: ...
    def ListApiKeys(self, request: api_key_service_pb2.ListApiKeysRequest, context: Any) -> Any: ...
    def GetApiKey(self, request: api_key_service_pb2.GetApiKeyRequest, context: Any) -> Any: ...
    def RotateApiKey(self, request: api_key_service_pb2.RotateApiKeyRequest, context: Any) -> Any: ...
    def RevokeApiKey(self, request: api_key_service_pb2.RevokeApiKeyRequest, context: Any) -> Any: ...

def add_ApiKeyServiceServicer_to_server(
    servicer: ApiKeyServiceServicer, server: grpc.Server | grpc.aio.Server
) -> None: ...
