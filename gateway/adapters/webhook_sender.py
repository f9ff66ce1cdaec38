"""Posts to URLs that tenants have chosen, and says how it went."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import time
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.adapters.addresses import AddressRefused, Names, Networks

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 15.0
_READ_BYTES = 16 << 10
_EXCERPT = 200
_HEADER_BYTES = 16 << 10
_NOT_PRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt ended: the HTTP status, 0 when none came back; why it failed, empty when it did not."""

    status: int
    error: str = ""
    retry_after: float = 0.0
    """Seconds that the receiver asked to be left alone for."""

    @property
    def is_gone(self) -> bool:
        """Whether the receiver does not want to hear any more (410)."""
        return self.status == HTTPStatus.GONE


class _Resolver(AbstractResolver):
    """Looks names up for aiohttp."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Give the addresses of a host."""
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=found,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for found, _, protocol, _, address in await self._names.find(host, port)
            if family in {socket.AF_UNSPEC, found}
        ]

    async def close(self) -> None:
        """Nothing is open."""


class WebhookSender:
    """One HTTP client for all receivers. Never follows a redirect, keeps no cookie and no connection."""

    def __init__(self, networks: Networks) -> None:
        """`networks` are where receivers may be."""
        self._networks = networks
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                force_close=True,
                socket_factory=self._networks.socket,
                use_dns_cache=False,
                resolver=_Resolver(self._networks.names),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "n8n-gateway", "Accept-Encoding": "identity"},
            auto_decompress=False,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            timeout=aiohttp.ClientTimeout(total=TOTAL_SECONDS, connect=CONNECT_SECONDS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Attempt:
        """Post JSON. Never raises but when it is cancelled; tells no address that a name has led to."""
        if self._session is None:
            raise RuntimeError("WebhookSender is not open")
        sent = {"Content-Type": "application/json", **headers}
        try:
            async with self._session.post(url, data=body, headers=sent, allow_redirects=False) as response:
                if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
                    return Attempt(response.status)
                excerpt = await _excerpt(response)
                return Attempt(
                    response.status, f"answered {response.status}{excerpt}", _retry_after(response)
                )
        except TimeoutError:
            return Attempt(0, f"no answer within {TOTAL_SECONDS:g} seconds")
        except aiohttp.ClientConnectorCertificateError:
            return Attempt(0, "its certificate is not valid")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Attempt(0, _problem(error))


def _problem(error: Exception) -> str:
    if isinstance(error.__cause__, AddressRefused):
        return "its address is not public, and the gateway does not allow it"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "no connection"
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return "its URL cannot be used"
    return "the connection broke, or what came back is not HTTP"


async def _excerpt(response: aiohttp.ClientResponse) -> str:
    """The beginning of what came back, for people to see what is wrong."""
    try:
        data = await response.content.read(_READ_BYTES)
    except (TimeoutError, aiohttp.ClientError, OSError):
        return ""
    text = _NOT_PRINTABLE.sub(" ", data.decode(errors="replace")).strip()[:_EXCERPT]
    return f": {text}" if text else ""


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """RFC 9110, section 10.2.3: seconds or a date."""
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, OverflowError):
        return 0.0
