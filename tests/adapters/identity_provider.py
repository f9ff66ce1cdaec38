"""An identity provider for tests: it publishes what it is told to, and signs what it is asked to."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import aiohttp
import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

ISSUER = "https://clerk.example"


def private_key(name: str = "key-1", bits: int = 2048) -> RSAPrivateKey:
    """The key of a name, made once in a test run."""
    return _made(name, bits)


@cache
def _made(_name: str, bits: int) -> RSAPrivateKey:
    return generate_private_key(public_exponent=65537, key_size=bits)


def public_pem(name: str = "key-1") -> bytes:
    return (
        private_key(name)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def jwk(name: str = "key-1", *, bits: int = 2048, **members: Any) -> dict[str, Any]:
    """The public half of a key as the provider publishes it."""
    public = RSAAlgorithm.to_jwk(private_key(name, bits).public_key(), as_dict=True)
    return {
        "kty": "RSA",
        "n": public["n"],
        "e": public["e"],
        "use": "sig",
        "alg": "RS256",
        "kid": name,
    } | members


def document(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def token(key: str = "key-1", *, kid: Any = "key-1", **claims: Any) -> str:
    """A session token (version 2) that holds for a minute; a claim of None is left out."""
    now = int(time.time())
    held = {"iss": ISSUER, "sub": "user_1", "sid": "sess_1", "iat": now, "nbf": now, "exp": now + 60, "v": 2}
    held = {name: value for name, value in (held | claims).items() if value is not None}
    return jwt.encode(held, private_key(key), algorithm="RS256", headers={} if kid is None else {"kid": kid})


def forged(header: Any, claims: Any, signature: bytes = b"signature") -> str:
    """A token of any shape."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature))


class Provider:
    """Serves a JWKS document on loopback; `parts` are sent apart, so that each arrives alone."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.parts = [document(jwk())]
        self.fetches = 0
        self.authorization: list[str] = []
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    def publish(self, body: bytes, *, status: int = 200) -> None:
        self.parts, self.status = [body], status

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.fetches += 1
        if "Authorization" in request.headers:
            self.authorization.append(request.headers["Authorization"])
        self.asked.set()
        await self.gate.wait()
        response = web.StreamResponse(status=self.status, headers=self.headers)
        await response.prepare(request)
        for part in self.parts:
            await response.write(part)
            await asyncio.sleep(0.01)
        return response


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    served = Provider()
    application = web.Application()
    application.router.add_get("/jwks.json", served.serve)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    served.url = f"http://{host}:{port}/jwks.json"
    try:
        yield served
    finally:
        served.gate.set()
        await runner.cleanup()


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened
