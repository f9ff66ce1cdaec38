"""The HTTP client that supabase-py is given: httpx's interface on aiohttp, at a fifth of httpx's cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
import httpx
import orjson
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from gateway.rpc.limit import Limits

# PostgREST keeps an idle connection for 30 s, what stands in front of it for longer.
_KEEPALIVE_SECONDS = 15.0
_UNASKED = 16
BROKEN_OFF = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
"""What is raised where a connection, most often one that was kept, ends before the answer begins."""
# PostgREST's own codes and SQLSTATEs.
_CODE = re.compile(r"PGRST[0-9A-Z]{3}|[0-9A-Z]{5}")
_SENT = httpx.Request("POST", "http://postgrest")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds: to have a connection, and for a whole call."""

    connect: float = 5.0
    total: float = 12.0


class ForeignAnswerError(Exception):
    """An answer that PostgREST did not give, but something before it did, or something that is not PostgREST.

    `retry_after` is in seconds, if it named a time.
    """

    def __init__(self, status: int, retry_after: float | None) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status
        self.retry_after = retry_after


class JsonText(httpx.Response):
    """A success whose JSON is left as the text that it is.

    It has what PostgREST's client asks for and no more: a whole one takes longer to make than to read.
    """

    def __init__(self, status: int, text: str) -> None:
        self.status_code = status
        self.request = _SENT
        self._text = text

    def json(self, **_: Any) -> Any:
        """Return the text; no number in it has been through a float."""
        return self._text


class HttpSession(httpx.AsyncClient):
    """Connections that all callers share, without any header, cookie or authorization of their own.

    `request` raises ForeignAnswerError, aiohttp.ClientError, OSError and TimeoutError, and follows no
    redirect: keys and tokens go to the configured host alone. The rest of httpx.AsyncClient is out of use.
    """

    def __init__(self, *, connections: int, timeouts: Timeouts) -> None:
        super().__init__(transport=httpx.AsyncBaseTransport(), trust_env=False)
        self._connections = connections
        self._timeouts = timeouts
        self._limits = Limits(timeouts.total)
        self._session: aiohttp.ClientSession | None = None
        self._shut = False

    async def request(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        content: Any = None,
        params: Any = None,
        headers: Any = None,
        **_: Any,
    ) -> httpx.Response:
        """Send one request; give a JsonText for a success, and PostgREST's own error as it is."""
        target = str(httpx.URL(url, params=params)) if params else str(url)
        with self._limits.limit():
            async with self._opened().request(
                method, target, data=content, headers=headers, allow_redirects=False
            ) as answer:
                body = await answer.read()
                return _response(answer.status, answer.headers, body)

    async def aclose(self) -> None:
        """Cut all connections; requests under way fail."""
        self._shut = True
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._shut:
            raise aiohttp.ClientConnectionError("the session is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(limit=self._connections, keepalive_timeout=_KEEPALIVE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity", "User-Agent": "n8n-gateway"},
                timeout=aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect),
                auto_decompress=False,
            )
        return self._session


class _Connector(aiohttp.TCPConnector):
    """Never gives a connection that spoke unasked: that would be the answer to somebody else's request."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the name is aiohttp's
    ) -> Connection:
        for _ in range(_UNASKED):
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        raise aiohttp.ClientConnectionError("no connection is in order")


def _response(status: int, headers: Mapping[str, str], body: bytes) -> httpx.Response:
    json = headers.get("Content-Type", "").startswith("application/json")
    if json and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return JsonText(status, body.decode())
    if status < HTTPStatus.BAD_REQUEST or not (json and _is_postgrests(body)):
        raise ForeignAnswerError(status, _retry_after(headers))
    return httpx.Response(status, content=body, request=_SENT)


def _is_postgrests(body: bytes) -> bool:
    try:
        error = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    code = error.get("code") if isinstance(error, dict) else None
    return isinstance(code, str) and _CODE.fullmatch(code) is not None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, section 10.2.3), at most a minute; a date is left aside."""
    value = headers.get("Retry-After", "")
    return min(float(value), 60.0) if value.isdecimal() else None
