"""Calls over REST: the method's own rule, one line of JSON for each message of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import urlsplit

import httpx
import orjson
from protobuf import Message

from gateway.client.caller import CONNECT_SECONDS, MOST_BYTES, TOO_LARGE, Part, Request, shown
from gateway.client.failure import CallError
from gateway.client.methods import rest_binding
from gateway.client.unreachable import unreachable
from gateway.rpc.errors import Code
from gateway.transcoding import Binding, EncodedRequest, encode_request

_JSON = "application/json"
_LINES = "application/x-ndjson"
_DOT_SEGMENTS = {".", ".."}
"""RFC 3986, section 5.2.4: clients and proxies take them out."""


async def call(request: Request) -> AsyncGenerator[bytes, None]:
    """The answer's messages as JSON, as they come; of a google.api.HttpBody its bytes. Raises CallError."""
    try:
        async with asyncio.timeout(request.timeout), _client(request) as client:
            built = _built(client, request)
            request.trace(">", f"{built.method} {built.url}", shown(dict(built.headers)))
            answer = await client.send(built, stream=True)
            request.trace("<", f"HTTP {answer.status_code}", answer.headers.items())
            async for part in _parts(request, answer):
                yield part
    except TimeoutError:
        raise CallError(
            Code.DEADLINE_EXCEEDED, f"The call was not done within {request.timeout:g} s."
        ) from None
    except httpx.DecodingError:
        raise CallError(
            Code.UNKNOWN, "The answer is not compressed as it says, and is no answer of a gateway's."
        ) from None
    except (httpx.TransportError, OSError):
        raise await unreachable(request.endpoint) from None


def _client(request: Request) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=request.endpoint.tls(), timeout=httpx.Timeout(None, connect=CONNECT_SECONDS)
    )


def _built(client: httpx.AsyncClient, request: Request) -> httpx.Request:
    """The request, signed for the path that the gateway sees, which has nothing of the endpoint's own."""
    binding = rest_binding(request.method)
    encoded = _encoded(binding, request.message)
    accept = "*/*" if binding.http_body_response else _LINES if binding.server_streaming else _JSON
    headers = {"accept": accept}
    if encoded.body is not None:
        headers["content-type"] = _JSON
    if request.timeout is not None:
        headers["connect-timeout-ms"] = str(int(request.timeout * 1000))
    url = httpx.URL(request.endpoint.url + encoded.target)
    target = url.raw_path.decode()[len(urlsplit(request.endpoint.url).path) :]
    part = Part(encoded.http_method, target, headers.get("content-type", ""), encoded.body or b"")
    headers |= request.caller.identify(part)
    return client.build_request(encoded.http_method, url, content=encoded.body, headers=headers)


def _encoded(binding: Binding, message: Message) -> EncodedRequest:
    """Raises CallError for a message that has no place in the method's path."""
    try:
        encoded = encode_request(binding, message)
    except ValueError as error:
        raise CallError(Code.INVALID_ARGUMENT, f"The request has no path over REST: {error}.") from None
    if not _DOT_SEGMENTS.isdisjoint(encoded.target.partition("?")[0].split("/")):
        raise CallError(
            Code.INVALID_ARGUMENT, "The request has no path over REST: . and .. stand for other paths."
        )
    return encoded


async def _parts(request: Request, answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    binding = rest_binding(request.method)
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if not answer.is_success or not (binding.http_body_response or kind in {_JSON, _LINES}):
        raise _failure(answer.status_code, await _whole(answer))
    if binding.http_body_response:
        async for chunk in answer.aiter_bytes():
            yield chunk
    elif not binding.server_streaming:
        yield await _json(answer)
    else:
        async with aclosing(_lines(answer)) as lines:
            async for line in lines:
                if line.startswith(b'{"error":'):
                    raise _failure(answer.status_code, line[len(b'{"error":') : -1])
                yield line


async def _json(answer: httpx.Response) -> bytes:
    body = await _whole(answer)
    try:
        orjson.loads(body)
    except ValueError:
        raise _foreign(answer.status_code) from None
    return body


async def _whole(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        _check_size(body)
    return bytes(body)


async def _lines(answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    pending = bytearray()
    async for chunk in answer.aiter_bytes():
        begun, *more = chunk.split(b"\n")
        pending += begun
        for line in more:
            yield bytes(pending)
            pending = bytearray(line)
        _check_size(pending)
    if pending:
        yield bytes(pending)


def _check_size(message: bytearray) -> None:
    if len(message) > MOST_BYTES:
        raise CallError(Code.RESOURCE_EXHAUSTED, TOO_LARGE)


def _failure(http_status: int, status: bytes) -> CallError:
    try:
        return CallError.of_json(orjson.loads(status))
    except (ValueError, TypeError):
        return _foreign(http_status)


def _foreign(http_status: int) -> CallError:
    return CallError(Code.UNKNOWN, f"HTTP {http_status}, and no answer of a gateway's.")
