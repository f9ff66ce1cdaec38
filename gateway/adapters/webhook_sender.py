"""Posts to URLs that tenants have chosen, and says how it went.

By the client that n8n is called with: it bounds whatever a receiver may send without an end, interim answers
and what is around chunks as well. A general one reads those for as long as they come, and nobody else gets a
turn meanwhile.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import time
from typing import TYPE_CHECKING

from yarl import URL

from gateway.adapters.n8n.exchange import Answer, Request, Timeouts, send
from gateway.adapters.n8n.faults import N8nDeadlineExceeded, N8nFailedPrecondition, N8nFault
from gateway.adapters.n8n.pool import Pool

if TYPE_CHECKING:
    from gateway.adapters.addresses import Networks

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 15.0
_READ_BYTES = 16 << 10
_EXCERPT = 200
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


class WebhookSender:
    """Posts to any receiver. Never follows a redirect, keeps no cookie and no connection."""

    def __init__(self, networks: Networks) -> None:
        """`networks` are where receivers may be."""
        self._networks = networks

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Attempt:
        """Post JSON. Never raises but when it is cancelled; tells no address that a name has led to."""
        try:
            target = URL(url)
            request = _request(target, body, headers)
        except ValueError:
            return Attempt(0, "its URL cannot be used")
        pool = Pool(target, networks=self._networks)
        try:
            answer = await send(
                pool, request, Timeouts(connect=CONNECT_SECONDS, idle=TOTAL_SECONDS, total=TOTAL_SECONDS)
            )
            try:
                return await _attempt(answer)
            finally:
                answer.close()
        except N8nFault as fault:
            return Attempt(0, _problem(fault))
        finally:
            pool.close()


def _request(target: URL, body: bytes, headers: Mapping[str, str]) -> Request:
    """Raises ValueError for a URL without a host."""
    if not target.raw_host:
        raise ValueError("the URL has no host")
    sent = {
        "Host": target.host_port_subcomponent,
        "User-Agent": "n8n-gateway",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **headers,
    }
    lines = [f"POST {target.raw_path_qs} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    return Request(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"), body)


async def _attempt(answer: Answer) -> Attempt:
    if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return Attempt(answer.status)
    excerpt = await _excerpt(answer)
    return Attempt(answer.status, f"answered {answer.status}{excerpt}", _retry_after(answer))


def _problem(fault: N8nFault) -> str:
    if isinstance(fault, N8nDeadlineExceeded):
        return f"no answer within {TOTAL_SECONDS:g} seconds"
    if isinstance(fault, N8nFailedPrecondition) and fault.reason == "N8N_ADDRESS_REFUSED":
        return "its address is not public, and the gateway does not allow it"
    if isinstance(fault.__cause__, ssl.CertificateError):
        return "its certificate is not valid"
    if not fault.sent:
        return "no connection"
    return "the connection broke, or what came back is not HTTP"


async def _excerpt(answer: Answer) -> str:
    """The beginning of what came back, for people to see what is wrong."""
    try:
        data = await answer.read()
    except N8nFault:
        return ""
    text = _NOT_PRINTABLE.sub(" ", data[:_READ_BYTES].decode(errors="replace")).strip()[:_EXCERPT]
    return f": {text}" if text else ""


def _retry_after(answer: Answer) -> float:
    """RFC 9110, section 10.2.3: seconds or a date."""
    value = answer.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, OverflowError):
        return 0.0
