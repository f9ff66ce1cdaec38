"""Authentication alone, behind nothing but an HTTP server: session tokens and API keys, known ones and not.

``python -m tests.bench.servers.authentication``
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.adapters.clerk import ClerkTokens, FixedKey
from gateway.chain.authenticate import BearerToken
from gateway.gen.n8ngateway.v1 import execution_service_pb
from gateway.rpc.call import Call
from gateway.rpc.methods import MethodTable
from gateway.rpc.principal import Principal
from tests.bench.servers import serving
from tests.bench.servers.one_key import KEY, api_keys

_ISSUER = "https://issuer.bench.invalid"
_VALID_SECONDS = 24 * 3600
_EXECUTIONS = execution_service_pb.desc().services[0]
_METHOD = MethodTable([(_EXECUTIONS, None)])[f"/{_EXECUTIONS.type_name}/Execute"]

Authenticator = Callable[[Call], Awaitable[Principal]]


def _session() -> tuple[str, ClerkTokens]:
    """A session token, and what verifies it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    now = int(time.time())
    claims = {"sub": "user_2bench", "iss": _ISSUER, "iat": now, "nbf": now, "exp": now + _VALID_SECONDS}
    claims |= {"v": 2, "sid": "sess_2bench", "role": "authenticated", "o": {"id": "org_2", "rol": "admin"}}
    token = jwt.encode(claims, key, algorithm="RS256", headers={"kid": "bench"})
    return token, ClerkTokens(FixedKey(pem), issuer=_ISSUER, audience=None, authorized_parties=())


def _application(authenticate: Authenticator, metadata: Mapping[str, str]) -> Any:
    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        call = Call(
            method=_METHOD,
            metadata=metadata,
            body=b"",
            decode=_METHOD.input,
            http_method="POST",
            target="/api/v1/execute",
        )
        await authenticate(call)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"known"})

    return application


async def _nobody(_call: Call) -> Any:
    """For comparison."""


def main() -> None:
    """Serve until the end."""
    token, tokens = _session()
    bearer = {"authorization": f"Bearer {token}"}

    async def unknown(call: Call) -> Principal:
        return await BearerToken(tokens.verify)(call)

    serving.serve(
        {
            "known": _application(BearerToken(tokens.verify), bearer),
            "unknown": _application(unknown, bearer),
            "key": _application(api_keys(), {"x-api-key": KEY.key}),
            "open": _application(_nobody, {}),
        }
    )


if __name__ == "__main__":
    main()
