"""Channels whose calls also take messages that an interceptor has serialized already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeAlias, cast

import grpc
import grpc.aio

Serializer: TypeAlias = Callable[[Any], bytes]


def _or_bytes(serializer: Serializer | None) -> Serializer:
    """Let through what an interceptor has serialized already."""

    def serialize(request: Any) -> bytes:
        if isinstance(request, bytes) or serializer is None:
            return cast("bytes", request)
        return serializer(request)

    return serialize


class BytesChannel(grpc.Channel):
    """A channel whose calls also take messages that are serialized."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def unary_unary(self, method: str, request_serializer: Any = None, *rest: Any, **named: Any) -> Any:
        """As grpc.Channel."""
        return self._channel.unary_unary(method, _or_bytes(request_serializer), *rest, **named)

    def unary_stream(self, method: str, request_serializer: Any = None, *rest: Any, **named: Any) -> Any:
        """As grpc.Channel."""
        return self._channel.unary_stream(method, _or_bytes(request_serializer), *rest, **named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        """As grpc.Channel."""
        return self._channel.stream_unary(*arguments, **named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        """As grpc.Channel."""
        return self._channel.stream_stream(*arguments, **named)

    def subscribe(self, *arguments: Any, **named: Any) -> None:
        """As grpc.Channel."""
        self._channel.subscribe(*arguments, **named)

    def unsubscribe(self, callback: Any) -> None:
        """As grpc.Channel."""
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        """As grpc.Channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncBytesChannel(grpc.aio.Channel):
    """The same of grpc.aio."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def unary_unary(self, method: str, request_serializer: Any = None, *rest: Any, **named: Any) -> Any:
        """As grpc.aio.Channel."""
        return self._channel.unary_unary(method, _or_bytes(request_serializer), *rest, **named)

    def unary_stream(self, method: str, request_serializer: Any = None, *rest: Any, **named: Any) -> Any:
        """As grpc.aio.Channel."""
        return self._channel.unary_stream(method, _or_bytes(request_serializer), *rest, **named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        """As grpc.aio.Channel."""
        return self._channel.stream_unary(*arguments, **named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        """As grpc.aio.Channel."""
        return self._channel.stream_stream(*arguments, **named)

    def get_state(self, *arguments: Any, **named: Any) -> grpc.ChannelConnectivity:
        """As grpc.aio.Channel."""
        return self._channel.get_state(*arguments, **named)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """As grpc.aio.Channel."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As grpc.aio.Channel."""
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """As grpc.aio.Channel."""
        await self._channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
