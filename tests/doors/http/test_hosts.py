from __future__ import annotations

from collections.abc import Collection

import pytest

from gateway.doors.asgi import Event, Receive, Scope, Send
from gateway.doors.http.hosts import AllowedHosts
from gateway.transcoding import Headers, Response, WholeRequest

HOSTS = ["localhost", "api.Example.com", "*.example.org", "[::1]"]


class Served:
    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def answer(self, _request: WholeRequest) -> Response:
        return Response(200, [], b"")


async def status(host: bytes | None, path: str = "/api/v1/workflows", hosts: Collection[str] = HOSTS) -> int:
    """How a request for a host is answered; 200 by the application behind."""
    sent: list[Event] = []

    async def receive() -> Event:
        raise AssertionError

    async def send(event: Event) -> None:
        sent.append(event)

    headers = [(b"accept", b"*/*")] + ([] if host is None else [(b"host", host)])
    application = AllowedHosts(Served(), hosts)
    await application({"headers": headers, "path": path}, receive, send)
    answering = application.answer(WholeRequest("GET", path.encode(), b"", Headers(headers), None, b""))
    assert answering is None or (await answering).status == sent[0]["status"]
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"LOCALHOST:8000", b"api.example.com", b"API.EXAMPLE.COM:443", b"[::1]", b"[::1]:8000",
     b"a.example.org", b"a.b.example.org:1"],
)  # fmt: skip
async def test_the_names_that_are_allowed_are_served(host: bytes) -> None:
    assert await status(host) == 200


@pytest.mark.parametrize(
    "host",
    [None, b"", b"evil.example", b"localhost.evil.example", b"evil.example:localhost", b"example.org",
     b"evilexample.org", b"127.0.0.1", b"[::2]", b"[::1]evil", b"localhost.", b"\xff"],
)  # fmt: skip
async def test_any_other_is_refused(host: bytes | None) -> None:
    assert await status(host) == 421


async def test_probes_ask_by_an_address() -> None:
    assert await status(b"10.0.0.7:8000", "/api/v1/health/ready") == 200
