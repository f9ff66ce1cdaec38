"""The public keys of an identity provider (RFC 7517), fetched as seldom as is safe."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import structlog
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from gateway.rpc.errors import Unavailable

log = structlog.get_logger("gateway.jwks")

FRESH_SECONDS = 300.0
"""Older keys are refreshed in the background, while they go on serving."""
STALE_SECONDS = 3600.0
"""Older keys no longer serve, even when the provider is away."""
UNKNOWN_KEY_SECONDS = 30.0
"""A key id that nobody knows causes at most one fetch in this time."""
FETCH_TIMEOUT_SECONDS = 5.0
LARGEST_DOCUMENT = 1 << 20


class Jwks:
    """Signing keys by their id, from the provider's JWKS document.

    One fetch runs at a time, however many callers wait for it. A stranger's unknown
    key ids cannot make the gateway fetch without end.
    """

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._session = session
        self._clock = clock
        self._keys: dict[str, PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, key_id: str) -> PyJWK | None:
        """The key of that id, or None where the provider has none.

        Raises Unavailable when no keys can be had.
        """
        age = self._clock() - self._fetched_at
        if age > STALE_SECONDS:
            await self._fetched()
        elif age > FRESH_SECONDS:
            self._start()
        if key_id not in self._keys and self._clock() - self._tried_at > UNKNOWN_KEY_SECONDS:
            await self._fetched()
        return self._keys.get(key_id)

    async def close(self) -> None:
        """Stop a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _start(self) -> asyncio.Task[None]:
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetched(self) -> None:
        await asyncio.shield(self._start())
        if self._clock() - self._fetched_at > STALE_SECONDS:
            msg = "The identity provider's keys cannot be had at the moment."
            raise Unavailable(msg, reason="IDENTITY_PROVIDER_UNREACHABLE", retry_after=FETCH_TIMEOUT_SECONDS)

    async def _fetch(self) -> None:
        self._tried_at = self._clock()
        try:
            timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_SECONDS)
            async with self._session.get(self._url, timeout=timeout, allow_redirects=False) as response:
                response.raise_for_status()
                document = json.loads(await response.content.read(LARGEST_DOCUMENT))
            self._keys = _signing_keys(document)
            self._fetched_at = self._clock()
        except (aiohttp.ClientError, TimeoutError, ValueError, TypeError, AttributeError) as error:
            log.warning("keys not fetched", url=self._url, error=type(error).__name__)


def _signing_keys(document: Any) -> dict[str, PyJWK]:
    """RSA signature keys that have an id; others are of no use here and passed over."""
    keys = {}
    for entry in document["keys"] if isinstance(document, dict) and "keys" in document else []:
        if entry.get("kty") != "RSA" or entry.get("use", "sig") != "sig" or not entry.get("kid"):
            continue
        try:
            keys[entry["kid"]] = PyJWK.from_dict(entry, algorithm="RS256")
        except PyJWTError as error:
            log.warning("key not usable", kid=entry["kid"], error=type(error).__name__)
    if not keys:
        msg = "the document holds no RSA signing key"
        raise ValueError(msg)
    return keys
