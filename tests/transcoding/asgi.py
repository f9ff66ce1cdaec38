"""Calls of an ASGI application without a server, so that any bytes can be sent as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.transcoding import Headers, Transcoder, WholeRequest


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    parts: list[bytes] = field(default_factory=list)
    complete: bool = False

    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def violations(self) -> list[str]:
        """The fields that google.rpc.BadRequest names."""
        details = self.json()["details"]
        return [violation["field"] for detail in details for violation in detail.get("field_violations", [])]


class Way:
    """How requests that are there as a whole are sent: in events, or whole where they are taken so."""

    is_whole = False


async def call(
    app: Transcoder,
    method: str,
    target: str | bytes,
    body: bytes | str | Iterable[bytes] | None = None,
    headers: Mapping[str, str] | Iterable[tuple[bytes, bytes]] = (),
    *,
    answer: Answer | None = None,
    **extra: Any,
) -> Answer:
    """One request, in which `target` is sent as it is; the client stays until the answer is complete.

    `answer` is filled as the answer comes.
    """
    chunks = _chunks(body)
    path, _, query = (target.encode() if isinstance(target, str) else target).partition(b"?")
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "headers": _headers(headers, chunks if body is not None else None),
        "client": ("192.0.2.1", 4711),
        **extra,
    }
    answer, never = answer or Answer(), asyncio.Event()
    if Way.is_whole and len(chunks) == 1 and not extra:
        request = WholeRequest(method, path, query, Headers(scope["headers"]), scope["client"], chunks[0])
        answering = app.answer(request)
        if answering is not None:
            response = await answering
            answer.status, fields, answer.body, _ = response
            answer.headers = {name.decode(): value.decode("latin-1") for name, value in fields}
            answer.parts, answer.complete = [answer.body], True
            return answer

    async def receive() -> MutableMapping[str, Any]:
        if chunks:
            chunk = chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}
        await never.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert not answer.status
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            assert answer.status
            assert not answer.complete
            answer.parts.append(message["body"])
            answer.body += message["body"]
            answer.complete = not message.get("more_body")

    await app(scope, receive, send)
    return answer


def _chunks(body: bytes | str | Iterable[bytes] | None) -> list[bytes]:
    if body is None or isinstance(body, bytes):
        return [body or b""]
    return [body.encode()] if isinstance(body, str) else list(body)


def _headers(
    headers: Mapping[str, str] | Iterable[tuple[bytes, bytes]], chunks: list[bytes] | None
) -> list[tuple[bytes, bytes]]:
    if isinstance(headers, Mapping):
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    sent = list(headers)
    names = {name for name, _ in sent}
    if chunks is not None and not names & {b"content-length", b"transfer-encoding"}:
        sent.append((b"content-length", b"%d" % sum(map(len, chunks))))
    return sent
