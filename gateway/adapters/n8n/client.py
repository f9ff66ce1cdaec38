"""Calls n8n: runs a workflow through its webhook, stops a run, asks whether n8n is ready."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache
from http import HTTPStatus
from types import TracebackType
from typing import Any, NamedTuple, Self

from yarl import URL

from gateway import metrics
from gateway.adapters.addresses import Networks
from gateway.adapters.n8n import faults
from gateway.adapters.n8n.body import BodyReader, Expected
from gateway.adapters.n8n.breaker import Breaker, Circuit
from gateway.adapters.n8n.exchange import Answer, Request, Timeouts, always, send
from gateway.adapters.n8n.faults import (
    Fate,
    N8nDeadlineExceeded,
    N8nFailedPrecondition,
    N8nFault,
    N8nInvalidArgument,
    N8nUnavailable,
)
from gateway.adapters.n8n.pool import Pool
from gateway.adapters.n8n.redaction import Redactor, StreamRedactor
from gateway.adapters.n8n.response import Pieces, Response
from gateway.rpc.errors import RpcError

_ERROR_BODY_BYTES = 2**16
# Before another try at a connection, which is not made once connecting has taken its time.
_CONNECT_PAUSES = (0.05, 0.2)
_ANSWER_SECONDS = 2.0
_GONE = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
# To find the child of some labels takes five times as long as to count with it.
_seconds = cache(metrics.N8N_SECONDS.labels)
# Segments of RFC 3986 pchar without percent-encoding, which could hide a dot or a slash.
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")
_PATH_LENGTH = 1024
_EXECUTION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_NOT_FOR_OTHERS = {
    *("host", "connection", "content-length", "content-type", "transfer-encoding", "x-n8n-internal-auth")
}


@dataclass(frozen=True, slots=True)
class Limits:
    """`connections` at once, bytes of an answer that is a document, bytes of one line of a stream."""

    connections: int = 8192
    document: int = 16 * 2**20
    line: int = 4 * 2**20


class StopResult(Enum):
    """What n8n said to a stop."""

    STOPPED = "stopped"
    ALREADY_ENDED = "already_ended"
    NOT_FOUND = "not_found"


class _Short(NamedTuple):
    """An answer of n8n itself."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class N8n:
    """One n8n instance. `open` it in the event loop that uses it, `close` it there.

    Failure: every method raises an N8nFault, which is the RpcError to show to the caller and knows
    whether the request may have been sent. A connection that cannot be made is tried three times
    within the time for it, and nothing that may have been sent is sent again. After failures of n8n
    itself runs are refused for a while (N8N_CIRCUIT_OPEN; see `Breaker`). No payload, secret or
    address is logged or put into an error.

    A workflow with a Wait node of more than 65 s that answers when its last node finishes is
    answered by n8n at once with the input of its webhook, headers included. That cannot be told
    from a workflow that returns its input, so it comes as a document; secrets that were sent are
    taken out of every answer.
    """

    def __init__(
        self,
        base_url: str,
        *,
        internal_secret: str | None,
        api_key: str | None = None,
        limits: Limits | None = None,
        ssl_context: ssl.SSLContext | None = None,
        networks: Networks | None = None,
        report: Callable[[bool], None] = lambda _is_there: None,
    ) -> None:
        """Raise ValueError for a base URL other than http(s)://host[:port][/path], or a bad secret.

        `networks` are where n8n may be, None for anywhere. `report` is told when n8n is found to be
        there or away.
        """
        self._origin = URL(check_base_url(base_url))
        for secret in (internal_secret, api_key):
            if secret is not None and (not secret or not _HEADER_VALUE.fullmatch(secret)):
                raise ValueError("a secret for n8n must be printable ASCII, and not empty")
        self._common = (
            f"Host: {self._origin.host_port_subcomponent}\r\n"
            # Compression costs n8n and the gateway more than it saves between two neighbours.
            "Accept: */*\r\nAccept-Encoding: identity\r\nUser-Agent: n8n-gateway"
        )
        self._run_headers = {"Content-Type": "application/json"}
        if internal_secret is not None:
            self._run_headers["X-N8N-Internal-Auth"] = internal_secret
        self._api_key = api_key
        self._limits = limits or Limits()
        self._ssl_context = ssl_context
        self._networks = networks
        self._breaker = Breaker(self._answers, report)
        self._suspicion: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(self._limits.connections)
        self._redactor = Redactor(filter(None, (internal_secret, api_key)))
        self._pool: Pool | None = None

    async def open(self) -> None:
        """Make ready for calls. Connects to nothing."""
        self._pool = Pool(self._origin, ssl_context=self._ssl_context, networks=self._networks)

    async def close(self) -> None:
        """Close every connection. Runs that are open end with N8N_CONNECTION_LOST."""
        if self._suspicion is not None:
            self._suspicion.cancel()
            await asyncio.wait([self._suspicion])
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def circuit(self) -> Circuit:
        """Whether runs get through to n8n."""
        return self._breaker.circuit

    @asynccontextmanager
    async def run(
        self,
        path: str,
        payload: bytes,
        *,
        timeouts: Timeouts,
        headers: Mapping[str, str] | None = None,
        secrets: Iterable[str] = (),
        expected: Expected = Expected.ANY,
        may_send: Callable[[], bool] = always,
    ) -> AsyncIterator[Response]:
        """POST `payload` (JSON) to the webhook `path`; leaving the context drops what is not read.

        `headers` are sent along (traceparent, for example). `secrets` are values within payload or
        headers that must not come back: they are taken out of the answer, from 8 characters.
        An answer that is not as `expected` ends in N8N_RESPONSE_MISMATCH. `may_send` is asked with the
        connection in hand; nothing is sent and N8N_WITHHELD raised where it says no.
        """
        sent = self._sent_headers(headers or {})
        request = self._request("POST", _webhook(path), sent, payload, may_send)
        redactor = self.redactor(secrets)
        if wait := await self._breaker.admit():
            raise faults.circuit_open(wait)
        await self._take_slot(timeouts.connect)
        try:
            answer = await _measured(self._sent(request, timeouts))
            del request, payload  # they may be large, and an answer may take an hour
            try:
                yield await self._response(answer, redactor, expected)
            finally:
                answer.close()
        finally:
            self._slots.release()

    def redactor(self, secrets: Iterable[str]) -> Redactor:
        """Takes these secrets and those of this n8n out of what comes from it."""
        return self._redactor.with_more([*secrets])

    async def stop(self, n8n_execution_id: str, *, timeout_seconds: float = 10.0) -> StopResult:
        """Stop a run through n8n's public API.

        Raises FailedPrecondition with N8N_API_KEY_MISSING or N8N_API_KEY_REJECTED, Unavailable,
        DeadlineExceeded, and Unknown with N8N_STOP_FAILED.
        """
        if self._api_key is None:
            raise _precondition("The gateway has no API key of this n8n, so it cannot stop a run.", "MISSING")
        if not _EXECUTION_ID.fullmatch(n8n_execution_id):
            return StopResult.NOT_FOUND
        headers = {"X-N8N-API-KEY": self._api_key, "Accept": "application/json"}
        path = f"/api/v1/executions/{n8n_execution_id}/stop"
        answer = await self._ask("POST", path, headers, timeout_seconds)
        match answer.status:
            case HTTPStatus.OK:
                return StopResult.STOPPED
            case HTTPStatus.CONFLICT:
                return StopResult.ALREADY_ENDED
            case HTTPStatus.NOT_FOUND if answer.body.startswith(b"{"):
                return StopResult.NOT_FOUND
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
                raise _precondition("n8n does not accept the gateway's API key.", "REJECTED")
        raise faults.of_stop(*answer)

    async def ready(self, *, timeout_seconds: float = 2.0) -> float:
        """Ask whether n8n serves webhooks; give the seconds that its answer took.

        Raises Unavailable with N8N_UNREACHABLE or N8N_STARTING, DeadlineExceeded.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        answer = await self._ask("GET", "/healthz/readiness", {}, timeout_seconds)
        if answer.status != HTTPStatus.OK:
            raise faults.starting()
        return loop.time() - begun

    async def _sent(self, request: Request, timeouts: Timeouts) -> Answer:
        loop = asyncio.get_running_loop()
        over = loop.time() + timeouts.connect
        pauses = iter(_CONNECT_PAUSES)
        while True:
            try:
                return await send(self._opened(), request, timeouts)
            except N8nUnavailable as fault:
                pause = next(pauses, None)
                if fault.sent:
                    raise
                if pause is None or loop.time() + pause >= over:
                    self._breaker.failed()
                    raise
            except N8nDeadlineExceeded:
                self._suspect()
                raise
            await asyncio.sleep(pause)

    def _suspect(self) -> None:
        """See whether it is n8n that does not answer, or a workflow that takes its time."""
        if self._suspicion is None or self._suspicion.done():
            self._suspicion = asyncio.create_task(self._look_after())

    async def _look_after(self) -> None:
        if not await self._answers() and self.circuit is Circuit.CLOSED:
            self._breaker.open()

    async def _answers(self) -> bool:
        """Whether n8n, or what stands before it, answers as one that can do its work."""
        try:
            answer = await self._ask("GET", "/healthz/readiness", {}, _ANSWER_SECONDS)
        except N8nFault:
            return False
        return answer.status not in _GONE

    async def _ask(self, method: str, path: str, headers: Mapping[str, str], seconds: float) -> _Short:
        request = self._request(method, path, headers)
        answer = await send(self._opened(), request, Timeouts(connect=seconds, idle=seconds, total=seconds))
        try:
            return _Short(answer.status, answer.headers, await answer.read_all(_ERROR_BODY_BYTES))
        finally:
            answer.close()

    def _opened(self) -> Pool:
        if self._pool is None:
            raise RuntimeError("N8n is not open")
        return self._pool

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        may_send: Callable[[], bool] = always,
    ) -> Request:
        lines = [f"{method} {self._origin.raw_path.rstrip('/')}{path} HTTP/1.1", self._common]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines.append(f"Content-Length: {len(body)}\r\n\r\n")
        return Request("\r\n".join(lines).encode("ascii"), body, may_send)

    def _sent_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _HEADER_VALUE.fullmatch(value) or not _SEGMENT.fullmatch(name):
                made = N8nInvalidArgument("A header for n8n is not printable ASCII.", reason="N8N_BAD_HEADER")
                raise faults.fault(made, Fate.NEVER_SENT)
        sent = {name: value for name, value in headers.items() if name.lower() not in _NOT_FOR_OTHERS}
        return sent | self._run_headers

    async def _take_slot(self, seconds: float) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(seconds):
                await self._slots.acquire()
        except TimeoutError as error:
            raise faults.busy() from error

    async def _response(self, answer: Answer, redactor: Redactor, expected: Expected) -> Response:
        headers = answer.headers
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            body = await answer.read_all(_ERROR_BODY_BYTES)
            fault = faults.of_answer(answer.status, headers, body)
            if isinstance(fault, N8nUnavailable):
                self._breaker.failed()
            else:
                self._breaker.succeeded()
            raise redactor.clean_fault(fault)
        self._breaker.succeeded()
        execution_id = headers.get("x-n8n-execution-id", "")
        is_id = _EXECUTION_ID.fullmatch(execution_id) and not redactor.finds(execution_id)
        reader = BodyReader(
            headers.get("Content-Type"),
            document_limit=self._limits.document,
            line_limit=self._limits.line,
            is_document=expected is Expected.DOCUMENT,
        )
        return Response(
            answer.status,
            execution_id if is_id else None,
            Pieces(answer, reader, StreamRedactor(redactor), expected),
        )


async def _measured(sending: Coroutine[Any, Any, Answer]) -> Answer:
    """Measure how long n8n takes to begin its answer."""
    started, outcome = time.perf_counter(), "none"
    try:
        answer = await sending
        outcome = "answered"
    except RpcError as error:
        outcome = error.reason
        raise
    finally:
        _seconds(outcome).observe(time.perf_counter() - started)
    return answer


@lru_cache(4096)
def _webhook(path: str) -> str:
    if len(path) > _PATH_LENGTH or not all(
        _SEGMENT.fullmatch(segment) and segment not in {".", ".."} for segment in path.split("/")
    ):
        text = "The webhook path must be like a/b-c_d.e, without a scheme, dots alone, query or encoding."
        made = N8nInvalidArgument(text, reason="N8N_BAD_PATH", fields={"webhook_path": text})
        raise faults.fault(made, Fate.NEVER_SENT)
    return f"/webhook/{path}"


def check_base_url(base_url: str) -> str:
    """Give the base URL without a slash at its end. Raises ValueError, which does not show it."""
    try:
        url = URL(base_url)
    except ValueError:
        raise ValueError("the base URL of n8n is not a URL") from None
    if url.scheme not in {"http", "https"} or not url.host or url.query_string or url.fragment or url.user:
        raise ValueError("the base URL of n8n must be http(s)://host[:port][/path]")
    return str(url).rstrip("/")


def _precondition(text: str, what: str) -> N8nFailedPrecondition:
    return faults.fault(N8nFailedPrecondition(text, reason=f"N8N_API_KEY_{what}"), Fate.NEVER_SENT)
