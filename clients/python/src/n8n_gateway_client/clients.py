"""The gateway's services on one channel, for threads and for asyncio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import grpc
import grpc.aio

from n8n_gateway_client.bytes_channel import AsyncBytesChannel, BytesChannel
from n8n_gateway_client.identity import (
    AsyncStreamInterceptor,
    AsyncTokenProvider,
    AsyncUnaryInterceptor,
    Identity,
    IdentityInterceptor,
    TokenProvider,
)
from n8n_gateway_client.retries import AsyncRetryInterceptor, RetryInterceptor, RetryPolicy
from n8n_gateway_client.signing import (
    AsyncStreamSigningInterceptor,
    AsyncUnarySigningInterceptor,
    RequestSigner,
    SigningInterceptor,
)
from n8n_gateway_client.v1.api_key_service_pb2_grpc import ApiKeyServiceStub
from n8n_gateway_client.v1.credit_service_pb2_grpc import CreditServiceStub
from n8n_gateway_client.v1.execution_service_pb2_grpc import ExecutionServiceStub
from n8n_gateway_client.v1.health_service_pb2_grpc import HealthServiceStub
from n8n_gateway_client.v1.internal_service_pb2_grpc import InternalServiceStub
from n8n_gateway_client.v1.organization_service_pb2_grpc import OrganizationServiceStub
from n8n_gateway_client.v1.webhook_service_pb2_grpc import WebhookServiceStub
from n8n_gateway_client.v1.workflow_service_pb2_grpc import WorkflowServiceStub

if TYPE_CHECKING:
    from n8n_gateway_client.v1.api_key_service_pb2_grpc import AsyncApiKeyServiceStub
    from n8n_gateway_client.v1.credit_service_pb2_grpc import AsyncCreditServiceStub
    from n8n_gateway_client.v1.execution_service_pb2_grpc import AsyncExecutionServiceStub
    from n8n_gateway_client.v1.health_service_pb2_grpc import AsyncHealthServiceStub
    from n8n_gateway_client.v1.internal_service_pb2_grpc import AsyncInternalServiceStub
    from n8n_gateway_client.v1.organization_service_pb2_grpc import AsyncOrganizationServiceStub
    from n8n_gateway_client.v1.webhook_service_pb2_grpc import AsyncWebhookServiceStub
    from n8n_gateway_client.v1.workflow_service_pb2_grpc import AsyncWorkflowServiceStub

Options: TypeAlias = Sequence[tuple[str, Any]]

# The gateway takes up to 16 MiB of an n8n answer, which is more than grpcio's own limit of 4 MiB.
_DEFAULT_OPTIONS: Options = (("grpc.max_receive_message_length", 32 * 1024 * 1024),)
_DEFAULT_RETRY = RetryPolicy()


class Client:
    """The services for threads; a context manager that closes its channel.

    `target` is "host:port". Of the identities give what the organization's policy asks for: `token`, a
    session token, or `token_provider`, called once a call because such tokens live for a minute; `api_key`,
    with the `client_secret` that signs its calls; and `tenant`, the organization's id. `secure` says whether
    the channel is encrypted, verified against `root_certificates` (PEM; the system's when absent). `retry`
    says how calls that are safe to repeat are repeated. `options` are grpcio's channel arguments.
    """

    def __init__(  # noqa: PLR0913 (all but the first are named)
        self,
        target: str,
        *,
        token: str | None = None,
        token_provider: TokenProvider | None = None,
        api_key: str | None = None,
        client_secret: str | None = None,
        tenant: str | None = None,
        secure: bool = True,
        root_certificates: bytes | None = None,
        retry: RetryPolicy = _DEFAULT_RETRY,
        options: Options = (),
    ) -> None:
        identity = Identity(_provider(token, token_provider), api_key, tenant)
        arguments = [*_DEFAULT_OPTIONS, *options]
        credentials = _credentials(secure=secure, root_certificates=root_certificates)
        channel = (
            grpc.insecure_channel(target, options=arguments)
            if credentials is None
            else grpc.secure_channel(target, credentials, options=arguments)
        )
        # Retries come first, so that each attempt has a token and a signature of its own.
        interceptors = [RetryInterceptor(retry), IdentityInterceptor(identity)]
        signer = _signer(api_key, client_secret)
        if signer is not None:
            channel = BytesChannel(channel)
            interceptors.append(SigningInterceptor(signer))
        self.channel = grpc.intercept_channel(channel, *interceptors)
        self.organizations = OrganizationServiceStub(self.channel)
        self.api_keys = ApiKeyServiceStub(self.channel)
        self.credits = CreditServiceStub(self.channel)
        self.workflows = WorkflowServiceStub(self.channel)
        self.executions = ExecutionServiceStub(self.channel)
        self.webhooks = WebhookServiceStub(self.channel)
        self.internal = InternalServiceStub(self.channel)
        self.health = HealthServiceStub(self.channel)

    def close(self) -> None:
        """Close the channel; calls under way end with CANCELLED."""
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """The services for asyncio; an asynchronous context manager that closes its channel.

    As Client, but `token_provider` may also return an awaitable. Make it in the event loop that uses it.
    """

    def __init__(  # noqa: PLR0913 (all but the first are named)
        self,
        target: str,
        *,
        token: str | None = None,
        token_provider: AsyncTokenProvider | None = None,
        api_key: str | None = None,
        client_secret: str | None = None,
        tenant: str | None = None,
        secure: bool = True,
        root_certificates: bytes | None = None,
        retry: RetryPolicy = _DEFAULT_RETRY,
        options: Options = (),
    ) -> None:
        identity = Identity(_provider(token, token_provider), api_key, tenant)
        arguments = [*_DEFAULT_OPTIONS, *options]
        interceptors = [
            AsyncRetryInterceptor(retry),
            AsyncUnaryInterceptor(identity),
            AsyncStreamInterceptor(identity),
        ]
        signer = _signer(api_key, client_secret)
        if signer is not None:
            interceptors += [AsyncUnarySigningInterceptor(signer), AsyncStreamSigningInterceptor(signer)]
        credentials = _credentials(secure=secure, root_certificates=root_certificates)
        channel = (
            grpc.aio.insecure_channel(target, options=arguments, interceptors=interceptors)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=arguments, interceptors=interceptors)
        )
        self.channel = channel if signer is None else AsyncBytesChannel(channel)
        self.organizations: AsyncOrganizationServiceStub = self._stub(OrganizationServiceStub)
        self.api_keys: AsyncApiKeyServiceStub = self._stub(ApiKeyServiceStub)
        self.credits: AsyncCreditServiceStub = self._stub(CreditServiceStub)
        self.workflows: AsyncWorkflowServiceStub = self._stub(WorkflowServiceStub)
        self.executions: AsyncExecutionServiceStub = self._stub(ExecutionServiceStub)
        self.webhooks: AsyncWebhookServiceStub = self._stub(WebhookServiceStub)
        self.internal: AsyncInternalServiceStub = self._stub(InternalServiceStub)
        self.health: AsyncHealthServiceStub = self._stub(HealthServiceStub)

    def _stub(self, stub: Callable[[Any], object]) -> Any:
        """Make the one class that grpcio generates, which has another type on this kind of channel."""
        return stub(self.channel)

    async def close(self, grace: float | None = None) -> None:
        """Close the channel; calls under way have `grace` seconds, then end with CANCELLED."""
        await self.channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _provider(token: str | None, provider: AsyncTokenProvider | None) -> AsyncTokenProvider | None:
    if token is None:
        return provider
    if provider is not None:
        raise ValueError("give token or token_provider, not both")
    return lambda: token


def _signer(api_key: str | None, client_secret: str | None) -> RequestSigner | None:
    if client_secret is None:
        return None
    if api_key is None:
        raise ValueError("client_secret signs the calls of an api_key: give both")
    return RequestSigner(api_key, client_secret)


def _credentials(*, secure: bool, root_certificates: bytes | None) -> grpc.ChannelCredentials | None:
    if secure:
        return grpc.ssl_channel_credentials(root_certificates)
    if root_certificates is not None:
        raise ValueError("root_certificates are of no use with secure=False")
    return None
