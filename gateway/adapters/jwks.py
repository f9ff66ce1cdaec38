"""The public keys of an identity provider (RFC 7517), fetched as seldom as is safe."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.algorithms import RSAAlgorithm
from jwt.exceptions import PyJWTError

from gateway.rpc.errors import Unavailable

log = structlog.get_logger("gateway.jwks")

ALGORITHM = "RS256"

FRESH_SECONDS = 300.0
"""Older keys are refreshed in the background, while they go on serving."""
STALE_SECONDS = 3600.0
"""Older keys no longer serve, even when the provider is away."""
UNKNOWN_KEY_SECONDS = 30.0
"""A key id that nobody knows causes at most one fetch in this time."""
RETRY_SECONDS = 1.0
"""After a failed fetch the next one waits this long."""
FETCH_TIMEOUT_SECONDS = 5.0
LARGEST_DOCUMENT = 1 << 20
SMALLEST_KEY_BITS = 2048
"""RFC 7518, section 3.3."""


class FixedKey:
    """One public key that is known beforehand, as PEM: nothing is fetched, and key ids mean nothing."""

    def __init__(self, pem: str) -> None:
        """Raise ValueError for what is no RSA public key in PEM, or a weak one."""
        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            msg = "not a public key in PEM"
            raise ValueError(msg) from error
        if not isinstance(key, RSAPublicKey) or key.key_size < SMALLEST_KEY_BITS:
            msg = f"not an RSA key of {SMALLEST_KEY_BITS} bits or more"
            raise ValueError(msg)
        self._key = PyJWK.from_json(RSAAlgorithm.to_jwk(key), algorithm=ALGORITHM)

    async def key(self, _key_id: str) -> PyJWK | None:
        """The key, whatever id a token names."""
        return self._key

    async def check(self) -> None:
        """The key is always there."""

    async def close(self) -> None:
        """Nothing is open."""


class Jwks:
    """Signing keys by their id, from the provider's JWKS document.

    One fetch runs at a time, however many callers wait for it. A stranger's unknown
    key ids cannot make the gateway fetch without end. `bearer` is what the provider
    wants to see before it shows its keys, if anything. `report` is told after each fetch
    whether the provider was there.
    """

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        *,
        bearer: str | None = None,
        report: Callable[[bool], None] = lambda _is_there: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._session = session
        self._headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        self._report = report
        self._clock = clock
        self._keys: dict[str, PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._failed_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, key_id: str) -> PyJWK | None:
        """The key of that id, or None where the provider has none.

        Raises Unavailable when no keys can be had.
        """
        if self._age() > STALE_SECONDS:
            await self._fetched()
        elif self._age() > FRESH_SECONDS:
            self._start()
        if key_id not in self._keys and self._clock() - self._tried_at > UNKNOWN_KEY_SECONDS:
            await self._fetched()
        return self._keys.get(key_id)

    async def check(self) -> None:
        """Look whether the provider is there, unless that was done a moment ago. Raises Unavailable."""
        is_away = self._failed_at > self._fetched_at
        if is_away or self._clock() - self._tried_at > UNKNOWN_KEY_SECONDS:
            fetching = self._start()
            if fetching is not None:
                await asyncio.shield(fetching)
        if self._failed_at > self._fetched_at:
            raise _unreachable()

    async def close(self) -> None:
        """Stop a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    def _start(self) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one; None where one has just failed."""
        if self._fetching is None or self._fetching.done():
            if self._clock() - self._failed_at < RETRY_SECONDS:
                return None
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetched(self) -> None:
        fetching = self._start()
        if fetching is not None:
            await asyncio.shield(fetching)
        if self._age() > STALE_SECONDS:
            raise _unreachable()

    async def _fetch(self) -> None:
        self._tried_at = self._clock()
        try:
            timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_SECONDS)
            request = self._session.get(
                self._url, headers=self._headers, timeout=timeout, allow_redirects=False
            )
            async with request as response:
                response.raise_for_status()
                document = json.loads(await _body(response))
            self._keys = _signing_keys(document)
            self._fetched_at = self._clock()
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as error:
            self._failed_at = self._clock()
            self._report(False)
            log.warning("keys not fetched", url=self._url, error=type(error).__name__)
        else:
            self._report(True)


def _unreachable() -> Unavailable:
    msg = "The identity provider's keys cannot be had at the moment."
    return Unavailable(msg, reason="IDENTITY_PROVIDER_UNREACHABLE", retry_after=FETCH_TIMEOUT_SECONDS)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > LARGEST_DOCUMENT:
            msg = "the document is too large"
            raise ValueError(msg)
    return bytes(body)


def _signing_keys(document: Any) -> dict[str, PyJWK]:
    """RSA signature keys that have an id; others are of no use here and passed over."""
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        entries = []
    keys = {entry["kid"]: _key(entry) for entry in entries if _is_for_signatures(entry)}
    usable = {key_id: key for key_id, key in keys.items() if key is not None}
    if not usable:
        msg = "the document holds no RSA signing key"
        raise ValueError(msg)
    return usable


def _is_for_signatures(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.get("kty") == "RSA"
        and entry.get("use", "sig") == "sig"
        and entry.get("alg", ALGORITHM) == ALGORITHM
        and isinstance(entry.get("kid"), str)
    )


def _key(entry: dict[str, Any]) -> PyJWK | None:
    try:
        key = PyJWK.from_dict({name: entry.get(name) for name in ("kty", "n", "e")}, algorithm=ALGORITHM)
    except (PyJWTError, ValueError, TypeError, AttributeError) as error:
        log.warning("key not usable", kid=entry["kid"], error=type(error).__name__)
        return None
    if key.key.key_size < SMALLEST_KEY_BITS:
        log.warning("key too short", kid=entry["kid"], bits=key.key.key_size)
        return None
    return key
