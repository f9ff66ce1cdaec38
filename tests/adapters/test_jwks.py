from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from gateway.adapters.jwks import (
    FRESH_SECONDS,
    LARGEST_DOCUMENT,
    RETRY_SECONDS,
    STALE_SECONDS,
    UNKNOWN_KEY_SECONDS,
    Jwks,
)
from gateway.rpc.errors import Unavailable
from tests.adapters.identity_provider import Provider, document, jwk, private_key, provider, session


class Clock:
    """Time that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def served() -> AsyncIterator[Provider]:
    async with provider() as running:
        yield running


@pytest.fixture
async def jwks(served: Provider, clock: Clock) -> AsyncIterator[Jwks]:
    async with session() as opened:
        keys = Jwks(served.url, opened, clock=clock)
        with structlog.testing.capture_logs():
            yield keys
        await keys.close()


async def refreshed(jwks: Jwks) -> None:
    """Wait for the fetch that runs in the background."""
    assert jwks._fetching is not None
    await jwks._fetching


async def test_a_key_is_fetched_once_and_then_known(jwks: Jwks, served: Provider) -> None:
    for _ in range(3):
        key = await jwks.key("key-1")
        assert key is not None
        assert key.key.public_numbers() == private_key().public_key().public_numbers()
    assert served.fetches == 1


async def test_a_document_may_arrive_in_parts(jwks: Jwks, served: Provider) -> None:
    body = document(jwk(), jwk("key-2"))
    served.parts = [body[:10], body[10:500], body[500:]]
    assert await jwks.key("key-2")


async def test_an_unknown_key_causes_one_fetch_in_a_while(jwks: Jwks, served: Provider, clock: Clock) -> None:
    assert await jwks.key("key-1")
    for n in range(5):
        assert await jwks.key(f"stranger-{n}") is None
    assert served.fetches == 1
    clock.pass_(UNKNOWN_KEY_SECONDS + 1)
    for n in range(5):
        assert await jwks.key(f"stranger-{n}") is None
    assert served.fetches == 2


async def test_a_new_key_is_found_and_a_withdrawn_one_is_gone(
    jwks: Jwks, served: Provider, clock: Clock
) -> None:
    assert await jwks.key("key-1")
    served.publish(document(jwk("key-2")))
    clock.pass_(UNKNOWN_KEY_SECONDS + 1)
    assert await jwks.key("key-2")
    assert await jwks.key("key-1") is None


async def test_one_fetch_serves_all_who_wait(jwks: Jwks, served: Provider) -> None:
    served.gate.clear()
    waiting = [asyncio.create_task(jwks.key(name)) for name in ("key-1", "key-1", "stranger", "key-1")]
    await served.asked.wait()
    served.gate.set()
    first, second, stranger, fourth = await asyncio.gather(*waiting)
    assert first is second is fourth is not None
    assert stranger is None
    assert served.fetches == 1


async def test_one_who_leaves_does_not_end_the_fetch_of_the_others(jwks: Jwks, served: Provider) -> None:
    served.gate.clear()
    leaving = asyncio.create_task(jwks.key("key-1"))
    staying = asyncio.create_task(jwks.key("key-1"))
    await served.asked.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    served.gate.set()
    assert await staying
    assert served.fetches == 1


async def test_keys_are_refreshed_ahead_while_they_serve(jwks: Jwks, served: Provider, clock: Clock) -> None:
    assert await jwks.key("key-1")
    served.publish(document(jwk("key-1"), jwk("key-2")))
    served.gate.clear()
    clock.pass_(FRESH_SECONDS + 1)
    assert await jwks.key("key-1")
    assert await jwks.key("key-1")
    served.gate.set()
    await refreshed(jwks)
    assert served.fetches == 2
    assert await jwks.key("key-2")
    assert served.fetches == 2


async def test_old_keys_serve_for_a_bounded_time_when_the_provider_fails(
    jwks: Jwks, served: Provider, clock: Clock
) -> None:
    assert await jwks.key("key-1")
    served.publish(b"down for maintenance", status=503)
    clock.pass_(STALE_SECONDS - 1)
    assert await jwks.key("key-1")
    await refreshed(jwks)
    assert served.fetches == 2
    assert await jwks.key("stranger") is None
    clock.pass_(RETRY_SECONDS)
    assert await jwks.key("key-1")
    await refreshed(jwks)
    clock.pass_(RETRY_SECONDS)
    with pytest.raises(Unavailable) as caught:
        await jwks.key("key-1")
    assert caught.value.reason == "IDENTITY_PROVIDER_UNREACHABLE"
    assert caught.value.retry_after
    served.publish(document(jwk()))
    clock.pass_(RETRY_SECONDS)
    assert await jwks.key("key-1")


async def test_a_provider_that_is_away_from_the_start_is_unavailable_and_not_stormed(
    jwks: Jwks, served: Provider, clock: Clock
) -> None:
    served.publish(b"", status=500)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await jwks.key("key-1")
    assert served.fetches == 1
    served.publish(document(jwk()))
    clock.pass_(RETRY_SECONDS)
    assert await jwks.key("key-1")


async def test_a_provider_that_nobody_answers_for_is_unavailable(clock: Clock) -> None:
    async with provider() as gone:
        url = gone.url
    async with session() as opened:
        jwks = Jwks(url, opened, clock=clock)
        with structlog.testing.capture_logs(), pytest.raises(Unavailable):
            await jwks.key("key-1")


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b'{"keys": 5}',
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [null, 1, "x", [], {}]}',
        b"\xff\xfe",
        DEEP,
        b'{"keys": ' + DEEP,
        document(jwk(kty="EC")),
        document(jwk(kid=["list"])),
        document(jwk(kid=None)),
        document(jwk(use="enc")),
        document(jwk(alg="HS256")),
        document(jwk(alg="RS512")),
        document(jwk(n="")),
        document(jwk(n=None)),
        document(jwk(n=5)),
        document(jwk(n="####")),
        document(jwk(e="AA")),
        document({"kty": "oct", "kid": "key-1", "k": "c2VjcmV0", "alg": "HS256"}),
        document(jwk("short", bits=1024, kid="key-1")),
    ],
    ids=[
        "empty",
        "html",
        "null",
        "list",
        "nothing",
        "number",
        "object",
        "no key",
        "no keys in the list",
        "not utf-8",
        "deep",
        "deep keys",
        "of another kind",
        "kid a list",
        "no kid",
        "for encryption",
        "HS256",
        "RS512",
        "empty modulus",
        "no modulus",
        "modulus a number",
        "modulus no base64",
        "even exponent",
        "symmetric",
        "short",
    ],
)
async def test_what_is_no_use_is_as_good_as_away(
    jwks: Jwks, served: Provider, clock: Clock, body: bytes
) -> None:
    served.publish(body)
    with pytest.raises(Unavailable):
        await jwks.key("key-1")
    served.publish(document(jwk()))
    clock.pass_(RETRY_SECONDS)
    assert await jwks.key("key-1")


async def test_a_key_that_is_no_use_does_not_spoil_the_others(jwks: Jwks, served: Provider) -> None:
    others: list[Any] = [None, "x", jwk("bad", n=5), jwk("enc", use="enc"), jwk("ec", kty="EC")]
    served.publish(json.dumps({"keys": [*others, jwk()]}).encode())
    assert await jwks.key("key-1")
    assert await jwks.key("bad") is None


async def test_an_oversized_document_is_not_read_to_its_end(jwks: Jwks, served: Provider) -> None:
    served.publish(document(jwk(), jwk("padding", x="x" * LARGEST_DOCUMENT)))
    with pytest.raises(Unavailable):
        await jwks.key("key-1")


async def test_a_small_document_that_unpacks_to_a_large_one_is_refused(jwks: Jwks, served: Provider) -> None:
    served.headers = {"Content-Encoding": "gzip"}
    served.publish(gzip.compress(document(jwk(), jwk("padding", x="x" * 50 * LARGEST_DOCUMENT))))
    with pytest.raises(Unavailable):
        await jwks.key("key-1")


async def test_a_redirect_is_not_followed(jwks: Jwks, served: Provider) -> None:
    served.headers = {"Location": served.url}
    served.publish(document(jwk("elsewhere"))[:-1], status=302)
    with pytest.raises(Unavailable):
        await jwks.key("elsewhere")
    assert served.fetches == 1


async def test_closing_ends_a_fetch(served: Provider, clock: Clock) -> None:
    async with session() as opened:
        jwks = Jwks(served.url, opened, clock=clock)
        served.gate.clear()
        waiting = asyncio.create_task(jwks.key("key-1"))
        await served.asked.wait()
        await jwks.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await jwks.close()
