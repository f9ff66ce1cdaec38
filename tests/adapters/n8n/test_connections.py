"""How the n8n adapter gets, keeps and drops connections."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from yarl import URL

from gateway.adapters.n8n import Fate, Limits, N8n, N8nFault, N8nWithheld, Timeouts, pool
from gateway.adapters.n8n.connection import Connection
from gateway.adapters.n8n.pieces import Document, Piece
from gateway.rpc.errors import Code, RpcError
from tests.adapters.n8n_server import SECRET, Peer, Server, chunked, http, serving

PATIENT = Timeouts(connect=10, idle=10, total=30)
UNREACHABLE = (Code.UNAVAILABLE, "N8N_UNREACHABLE", Fate.NEVER_SENT)
LOST = (Code.UNAVAILABLE, "N8N_CONNECTION_LOST", Fate.UNKNOWN)


async def run(n8n: N8n, timeouts: Timeouts = PATIENT, payload: bytes = b"{}") -> list[Piece]:
    async with n8n.run("echo", payload, timeouts=timeouts) as response:
        return [piece async for pieces in response.pieces for piece in pieces]


async def failed_run(n8n: N8n, timeouts: Timeouts = PATIENT) -> tuple[Code, str, Fate]:
    with pytest.raises(N8nFault) as caught:
        await run(n8n, timeouts)
    fault = caught.value
    assert isinstance(fault, RpcError)
    assert "127.0.0.1" not in f"{fault.message}{fault.metadata}"
    return fault.code, fault.reason, fault.fate


def data(pieces: list[Piece]) -> bytes:
    (document,) = pieces
    assert isinstance(document, Document)
    return document.data


def kept_connections(n8n: N8n) -> list[Connection]:
    """The connections that wait for the next run."""
    assert n8n._pool is not None
    return [connection for _, connection in n8n._pool._kept]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is inside the HTTP client
            await asyncio.sleep(0.001)


async def give_up(n8n: N8n, asked: asyncio.Event, payload: bytes = b"{}") -> None:
    """Start a run, and cancel it when n8n has been asked."""
    running = asyncio.create_task(run(n8n, payload=payload))
    await asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# No connection


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}", "http://n8n.invalid"])
async def test_nobody_there(url: str) -> None:
    async with N8n(url.format(port=free_port()), internal_secret=SECRET) as n8n:
        assert await failed_run(n8n) == UNREACHABLE
        with pytest.raises(N8nFault) as caught:
            await n8n.ready()
        assert caught.value.fate is Fate.NEVER_SENT


async def test_tls_to_a_server_without(server: Server) -> None:
    async def play(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server.play = play
    async with N8n(server.url.replace("http", "https"), internal_secret=SECRET) as n8n:
        assert await failed_run(n8n) == UNREACHABLE


async def test_handshake_that_never_ends(server: Server) -> None:
    async def play(peer: Peer) -> None:
        await peer.gone()

    server.play = play
    async with N8n(server.url.replace("http", "https"), internal_secret=SECRET) as n8n:
        assert await failed_run(n8n, Timeouts(connect=0.2, idle=10, total=30)) == UNREACHABLE
        late = (Code.DEADLINE_EXCEEDED, "N8N_TIMEOUT", Fate.NEVER_SENT)
        assert await failed_run(n8n, Timeouts(connect=10, idle=10, total=0.2)) == late


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of 127.0.0.1 and of localhost, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n8n")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    )
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "n8n.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


async def test_certificates_are_checked(certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    async with serving(tls) as server:
        server.play = server.answer(http(b"{}"))
        url = server.url.replace("http", "https")
        async with N8n(url, internal_secret=SECRET) as stranger:
            assert await failed_run(stranger) == UNREACHABLE
        assert server.requests == []
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with N8n(url, internal_secret=SECRET, ssl_context=trusting) as n8n:
            assert data(await run(n8n)) == b"{}"


async def test_the_dot_at_the_end_of_a_name_is_none_of_a_certificate(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def absolute(host: str, *arguments: Any, **options: Any) -> Any:
        """What name servers know, and files such as /etc/hosts do not."""
        return look_up(host.removesuffix("."), *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", absolute)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    async with serving(tls) as server:
        server.play = server.answer(http(b"{}"))
        url = server.url.replace("http://127.0.0.1", "https://localhost.")
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with N8n(url, internal_secret=SECRET, ssl_context=trusting) as n8n:
            assert data(await run(n8n)) == b"{}"


async def test_nothing_is_sent_that_is_not_wanted_any_more(server: Server) -> None:
    """What takes its time may be over once there is a connection."""
    server.play = server.answer(http(b"{}"))
    async with N8n(server.url, internal_secret=SECRET, limits=Limits(connections=1)) as n8n:
        for _ in range(2):  # the second time over a connection that was kept
            with pytest.raises(N8nWithheld) as caught:
                async with n8n.run("echo", b"{}", timeouts=PATIENT, may_send=lambda: False):
                    pytest.fail("it was sent")
            assert caught.value.fate is Fate.NEVER_SENT
            before = len(server.requests)
            assert data(await run(n8n)) == b"{}"
            assert len(server.requests) == before + 1


async def test_all_connections_in_use(server: Server) -> None:
    server.play = server.answer(*chunked(b"a", ended=False))
    async with N8n(server.url, internal_secret=SECRET, limits=Limits(connections=1)) as n8n:
        async with n8n.run("echo", b"{}", timeouts=PATIENT):
            busy = (Code.UNAVAILABLE, "N8N_BUSY", Fate.NEVER_SENT)
            assert await failed_run(n8n, Timeouts(connect=0.1, idle=10, total=30)) == busy
            waiting = asyncio.create_task(run(n8n))
            await asyncio.sleep(0)
            server.play = server.answer(http(b"{}"))
        assert data(await waiting) == b"{}"


async def test_no_connection_is_lost_to_runs_that_fail(server: Server) -> None:
    async with N8n(server.url, internal_secret=SECRET, limits=Limits(connections=1)) as n8n:
        server.play = server.answer(http(b"", status=500, Connection="close"), close=True)
        assert (await failed_run(n8n))[1] == "N8N_MALFORMED_RESPONSE"
        server.play = server.answer(*chunked(b"a", ended=False))
        async with n8n.run("echo", b"{}", timeouts=PATIENT):
            waiting = asyncio.create_task(run(n8n))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        server.play = server.answer(http(b"{}"))
        assert data(await run(n8n)) == b"{}"


# A connection for the next run


async def test_connections_are_kept(server: Server, n8n: N8n) -> None:
    server.play = server.answer(http(b"{}"))
    for _ in range(5):
        await run(n8n)
    await n8n.ready()
    assert server.connections == 1


async def test_failure_keeps_the_connection(server: Server, n8n: N8n) -> None:
    server.play = server.answers(http(b"no", status=500), http(b"{}"))
    assert (await failed_run(n8n))[1] == "N8N_MALFORMED_RESPONSE"
    assert data(await run(n8n)) == b"{}"
    assert server.connections == 1


async def test_answer_that_is_not_read_costs_its_connection(server: Server, n8n: N8n) -> None:
    gone = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(*chunked(b"first", ended=False))
        await peer.gone()
        gone.set()

    server.play = play
    async with n8n.run("echo", b"{}", timeouts=PATIENT) as response:
        assert response.status == 200
    await asyncio.wait_for(gone.wait(), 10)
    server.play = server.answer(http(b"second"))
    assert data(await run(n8n)) == b"second"
    assert server.connections == 2


async def test_two_answers_to_one_request(server: Server, n8n: N8n) -> None:
    server.play = server.answer(http(b"mine") + http(b"for another tenant"))
    for _ in range(3):
        assert data(await run(n8n)) == b"mine"
    assert server.connections == 3


async def test_answer_that_nobody_asked_for(server: Server, n8n: N8n) -> None:
    finished = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(http(b"mine"))
        await finished.wait()
        await peer.send(http(b"for another tenant"))
        await peer.gone()

    server.play = play
    assert data(await run(n8n)) == b"mine"
    finished.set()
    await until(lambda: not any(kept.is_free for kept in kept_connections(n8n)))
    server.play = server.answer(http(b"mine too"))
    assert data(await run(n8n)) == b"mine too"
    assert server.connections == 2


async def test_server_that_speaks_first(server: Server, n8n: N8n) -> None:
    async def play(peer: Peer) -> None:
        await peer.send(b"220 mail.example ESMTP\r\n" + http(b"stale"))
        await peer.gone()

    server.play = play
    code, reason, _ = await failed_run(n8n, Timeouts(connect=10, idle=10, total=0.5))
    assert (code, reason) in {
        (Code.UNAVAILABLE, "N8N_UNREACHABLE"),
        (Code.UNKNOWN, "N8N_MALFORMED_RESPONSE"),
        (Code.UNAVAILABLE, "N8N_CONNECTION_LOST"),
    }


async def test_kept_connection_that_was_closed(server: Server, n8n: N8n) -> None:
    closed = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(http(b"{}"))
        peer.reset()
        closed.set()

    server.play = play
    for connections in (1, 2, 3):
        await run(n8n)
        await closed.wait()
        closed.clear()
        await until(lambda: not any(kept.is_free for kept in kept_connections(n8n)))
        assert server.connections == connections


async def test_kept_connection_that_closes_as_it_is_used(server: Server, n8n: N8n) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(http(b"{}"))
        await peer.head()

    server.play = play
    await run(n8n)
    assert await failed_run(n8n) == LOST
    assert server.connections == 1


async def test_lost_connections_are_not_logged(
    server: Server, n8n: N8n, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(*parts)
        peer.reset()

    server.play = play
    parts = [http(b"{}")]
    await run(n8n)
    await until(lambda: not any(kept.is_free for kept in kept_connections(n8n)))
    parts = chunked(b"x", ended=False)
    assert await failed_run(n8n) == LOST
    await n8n.close()
    gc.collect()
    await asyncio.sleep(0)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_kept_connection_is_let_go(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEPT_SECONDS", 0.05)
    gone = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(http(b"{}"))
        await peer.gone()
        gone.set()

    server.play = play
    async with N8n(server.url, internal_secret=SECRET) as n8n:
        await run(n8n)
        await asyncio.wait_for(gone.wait(), 10)
        assert kept_connections(n8n) == []


async def test_kept_connection_is_let_go_when_its_server_says_so(server: Server, n8n: N8n) -> None:
    server.play = server.answer(http(b"{}", Keep_Alive="timeout=1"))
    for connections in (1, 2):
        await run(n8n)
        assert server.connections == connections
    server.play = server.answer(http(b"{}", Keep_Alive="timeout=60, max=9"))
    for _ in range(2):
        await run(n8n)
    assert server.connections == 3


async def test_connection_that_is_made_as_its_pool_closes(server: Server) -> None:
    connections = pool.Pool(URL(server.url))
    connecting = asyncio.create_task(connections.connect(10))
    await asyncio.sleep(0)
    connections.close()
    with pytest.raises(N8nFault) as caught:
        await connecting
    assert caught.value.fate is Fate.NEVER_SENT


def test_pools_share_their_trust() -> None:
    first, second = (pool.Pool(URL(f"https://{name}.example")) for name in "ab")
    assert first._tls is second._tls is not None


# Giving up


async def test_giving_up_before_the_answer(server: Server, n8n: N8n) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.gone()
        gone.set()

    server.play = play
    await give_up(n8n, asked)
    await asyncio.wait_for(gone.wait(), 10)


async def test_giving_up_within_the_answer(server: Server, n8n: N8n) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(*chunked(b"x", ended=False))
        asked.set()
        await peer.gone()
        gone.set()

    server.play = play
    await give_up(n8n, asked)
    await asyncio.wait_for(gone.wait(), 10)


async def test_giving_up_while_n8n_does_not_read(server: Server, n8n: N8n) -> None:
    asked, given_up = asyncio.Event(), asyncio.Event()
    gone = asyncio.get_running_loop().create_future()

    async def play(peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(0.3)  # The buffers between the two are full by then.
        asked.set()
        await given_up.wait()
        try:
            while True:
                await peer.send(b"x")
        except ConnectionError as error:
            gone.set_result(error)

    server.play = play
    await give_up(n8n, asked, b"x" * 2**26)
    given_up.set()
    await asyncio.wait_for(gone, 10)


async def test_closing_ends_open_runs(server: Server, n8n: N8n) -> None:
    server.play = server.answer(*chunked(b"x", ended=False))
    async with n8n.run("echo", b"{}", timeouts=PATIENT) as response:
        reading = asyncio.ensure_future(anext(response.pieces))
        await asyncio.sleep(0)
        await n8n.close()
        with pytest.raises(N8nFault) as caught:
            await reading
    assert caught.value.fate is Fate.UNKNOWN


async def test_n8n_that_answers_before_it_has_read(server: Server, n8n: N8n) -> None:
    async def play(peer: Peer) -> None:
        await peer.head()
        await peer.send(http(b"Authorization data is wrong!", status=403))
        await peer.gone()

    server.play = play
    with pytest.raises(N8nFault) as caught:
        await run(n8n, payload=b"x" * 16 * 2**20)
    assert isinstance(caught.value, RpcError)
    assert caught.value.reason == "N8N_AUTH_REJECTED"
