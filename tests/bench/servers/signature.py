"""The check of signatures, behind nothing but an HTTP server: with a nonce in Redis, without, and none.

With `key` the API key that signs is authenticated first, as it is in the gateway.

``python -m tests.bench.servers.signature REDIS_URL``

A load generator cannot sign. So each request carries the body that a signature was made of when the server
started, and takes another nonce than the one that was signed.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis

from gateway.adapters.redis.nonces import Nonces
from gateway.chain.api_key import ApiKeys
from gateway.chain.signature import Signatures
from gateway.gen.n8ngateway.v1 import execution_service_pb
from gateway.rpc.call import Call
from gateway.rpc.methods import MethodTable
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from gateway.rpc.signature import SignedRequest, signed_headers
from tests.bench.rows import SIGNED_BODIES
from tests.bench.servers import serving
from tests.bench.servers.one_key import KEY, api_keys

_SIGNER = Principal(Kind.API_KEY, "key", DatabaseRole.AUTHENTICATED, "{}", scopes=frozenset())
_EXECUTIONS = execution_service_pb.desc().services[0]
_METHOD = MethodTable([(_EXECUTIONS, None)])[f"/{_EXECUTIONS.type_name}/Execute"]
_TARGET = "/api/v1/execute"

Check = Callable[[bytes], Awaitable[None]]
TakeNonce = Callable[[str, int], Awaitable[bool]]


def _headers(body: bytes) -> dict[str, str]:
    request = SignedRequest(
        timestamp=str(int(time.time())),
        nonce="n" * 32,
        tenant="",
        key_id=KEY.public_id,
        http_method="POST",
        target=_TARGET,
        content_type="application/json",
        message=body,
    )
    named = signed_headers(request, KEY.key, KEY.client_secret)
    return {name.lower(): value for name, value in named.items()}


def _check(take: TakeNonce, keys: ApiKeys | None = None) -> Check:
    async def secrets(_public_id: str) -> list[bytes]:
        return [KEY.client_secret.encode()]

    signatures = Signatures(keys.client_secrets if keys else secrets, take, demand=True, tolerance=3600)
    headers = {body: _headers(body) for body in SIGNED_BODIES}

    async def check(body: bytes) -> None:
        call = Call(
            method=_METHOD,
            metadata=headers[body],
            body=body,
            decode=_METHOD.input,
            http_method="POST",
            target=_TARGET,
            principal=None if keys else _SIGNER,
            key_id=None if keys else KEY.public_id,
        )
        if keys:
            call.principal = await keys(call)
        await signatures(call)

    return check


def _application(check: Check) -> Any:
    async def application(_scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        await check(body)
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"held"})

    return application


def _taken_from(nonces: Nonces) -> TakeNonce:
    numbers = itertools.count()

    async def take(name: str, _seconds: int) -> bool:
        # Not for as long as in the gateway: a load makes more of them than a Valkey should keep.
        return await nonces.take(f"{name}:{time.time_ns()}:{next(numbers)}", 2)

    return take


async def _new(_name: str, _seconds: int) -> bool:
    return True


async def _nothing(_body: bytes) -> None:
    """For comparison."""


def main() -> None:
    """Serve until the end."""
    take = _taken_from(Nonces(Redis.from_url(sys.argv[1])))
    serving.serve(
        {
            "once": _application(_check(take)),
            "held": _application(_check(_new)),
            "open": _application(_nothing),
            "key": _application(_check(take, api_keys())),
        }
    )


if __name__ == "__main__":
    main()
