"""What keeps runs from an n8n that is away, and lets them through again."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.adapters.addresses import Networks
from gateway.adapters.n8n import Circuit, Fate, N8n, N8nFault, Timeouts
from gateway.adapters.n8n import breaker as breaker_module
from gateway.adapters.n8n.breaker import FAILURES, Breaker
from gateway.rpc.errors import RpcError
from tests.adapters.n8n_server import SECRET, Peer, Server, chunked, http

PATIENT = Timeouts(connect=10, idle=10, total=30)
QUICK = Timeouts(connect=10, idle=10, total=0.2)
SANDBOX = "sandbox allow-scripts"


async def outcome(n8n: N8n, timeouts: Timeouts = PATIENT) -> str:
    """The reason why a run failed, or nothing."""
    try:
        async with n8n.run("echo", b"{}", timeouts=timeouts) as response:
            async for _ in response.pieces:
                pass
    except RpcError as fault:
        return fault.reason
    return ""


def by_path(run: bytes, readiness: bytes | None) -> object:
    """Answer runs and the question whether n8n is there; None: not at all."""

    async def play(peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            answer = readiness if b" /healthz" in head else run
            if answer is None:
                await peer.gone()
                return
            await peer.send(answer)

    return play


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_it_opens_after_failures_of_n8n_and_closes_when_n8n_answers(
    server: Server, n8n: N8n, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker_module, "FIRST_OPEN_SECONDS", 0.05)
    answers = [http(b"", status=status)]

    async def play(peer: Peer) -> None:
        while True:
            server.requests.append(await peer.request())
            await peer.send(answers[-1])

    server.play = play
    for _ in range(FAILURES):
        assert n8n.circuit is Circuit.CLOSED
        assert await outcome(n8n) == "N8N_PROXY_ERROR"
    asked = len(server.requests)
    assert (n8n.circuit, await outcome(n8n)) == (Circuit.OPEN, "N8N_CIRCUIT_OPEN")
    assert len(server.requests) == asked
    await asyncio.sleep(0.06)
    assert await outcome(n8n) == "N8N_CIRCUIT_OPEN"
    assert [b"/healthz" in head for head, _ in server.requests[asked:]] == [True]
    answers.append(http(b"{}"))
    await asyncio.sleep(0.11)
    assert await outcome(n8n) == ""
    assert n8n.circuit is Circuit.CLOSED


async def test_nobody_there_is_tried_again_and_opens_it() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    async with N8n(f"http://127.0.0.1:{port}", internal_secret=SECRET) as n8n:
        for _ in range(FAILURES):
            assert await outcome(n8n) == "N8N_UNREACHABLE"
        assert await outcome(n8n) == "N8N_CIRCUIT_OPEN"


async def test_a_connection_that_is_refused_at_first_is_had_at_last() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = int(listener.getsockname()[1])
    listener.close()
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http(b"{}", Connection="close"))
        await writer.drain()
        writer.close()
        served.set()

    async with N8n(f"http://127.0.0.1:{port}", internal_secret=SECRET) as n8n:
        running = asyncio.create_task(outcome(n8n))
        await asyncio.sleep(0.02)  # the first try has been refused by now; later is as good
        late = await asyncio.start_server(serve, "127.0.0.1", port)
        assert await running == ""
        late.close()
    assert served.is_set()


async def test_what_may_have_been_sent_is_not_sent_again(server: Server, n8n: N8n) -> None:
    async def play(peer: Peer) -> None:
        server.requests.append(await peer.request())
        peer.reset()

    server.play = play
    assert await outcome(n8n) == "N8N_CONNECTION_LOST"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        http(b'{"message":"Error in workflow"}', status=500),
        http(b"no", status=503, Content_Security_Policy=SANDBOX),
        http(b"Authorization data is wrong!", status=403),
        b"".join(chunked(b"{}")),
    ],
)
async def test_failures_of_workflows_leave_it_closed(server: Server, n8n: N8n, answer: bytes) -> None:
    server.play = server.answer(answer)
    for _ in range(FAILURES * 2):
        await outcome(n8n)
    assert n8n.circuit is Circuit.CLOSED


async def test_a_success_between_starts_the_count_again(server: Server, n8n: N8n) -> None:
    away, fine = http(b"", status=503), http(b"{}")
    server.play = server.answers(*[away] * (FAILURES - 1), fine, *[away] * (FAILURES - 1), fine)
    for _ in range(FAILURES * 2):
        await outcome(n8n)
    assert n8n.circuit is Circuit.CLOSED


async def test_a_workflow_that_takes_its_time_leaves_it_closed(server: Server, n8n: N8n) -> None:
    server.play = by_path(None, http(b'{"status":"ok"}'))  # type: ignore[assignment, arg-type]
    for _ in range(2):
        assert await outcome(n8n, QUICK) == "N8N_TIMEOUT"
        assert n8n._suspicion is not None
        await n8n._suspicion
    assert n8n.circuit is Circuit.CLOSED


async def test_an_n8n_that_hangs_opens_it(server: Server, n8n: N8n, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.adapters.n8n.client._ANSWER_SECONDS", 0.1)
    server.play = by_path(None, None)  # type: ignore[assignment, arg-type]
    assert await outcome(n8n, QUICK) == "N8N_TIMEOUT"
    assert n8n._suspicion is not None
    await n8n._suspicion
    assert await outcome(n8n) == "N8N_CIRCUIT_OPEN"


async def test_one_question_is_asked_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker_module, "FIRST_OPEN_SECONDS", 0.001)
    asked, answer = 0, asyncio.Event()

    async def answers() -> bool:
        nonlocal asked
        asked += 1
        await answer.wait()
        return True

    breaker = Breaker(answers)
    breaker.open()
    await asyncio.sleep(0.01)
    first = asyncio.create_task(breaker.admit())
    await asyncio.sleep(0)
    assert breaker.circuit is Circuit.HALF_OPEN
    assert all([await breaker.admit() for _ in range(5)])
    answer.set()
    assert (await first, await breaker.admit(), asked) == (0.0, 0.0, 1)


async def test_a_caller_that_goes_away_while_it_asks_leaves_it_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breaker_module, "FIRST_OPEN_SECONDS", 0.001)

    async def answers() -> bool:
        await asyncio.Event().wait()
        return True

    breaker = Breaker(answers)
    breaker.open()
    await asyncio.sleep(0.01)
    asking = asyncio.create_task(breaker.admit())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert breaker.circuit is Circuit.OPEN


async def test_each_time_it_stays_open_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker_module, "LONGEST_OPEN_SECONDS", 5.0)

    async def answers() -> bool:
        return True

    breaker = Breaker(answers)
    waits = []
    for _ in range(4):
        breaker.open()
        waits.append(breaker._open_seconds)
    assert waits == [1.0, 2.0, 4.0, 5.0]
    breaker.succeeded()
    breaker.open()
    assert breaker._open_seconds == 1.0


async def test_an_address_that_is_not_allowed_is_not_connected_to(server: Server) -> None:
    for host in ("127.0.0.1", "localhost"):
        url = f"http://{host}:{server.port}"
        async with N8n(url, internal_secret=SECRET, networks=Networks()) as n8n:
            with pytest.raises(N8nFault) as caught:
                async with n8n.run("echo", b"{}", timeouts=PATIENT):
                    pass
            assert isinstance(caught.value, RpcError)
            assert (caught.value.reason, caught.value.fate) == ("N8N_ADDRESS_REFUSED", Fate.NEVER_SENT)
    assert server.connections == 0
    allowed = Networks(["127.0.0.0/8", "::1/128"])
    server.play = server.answer(http(b"{}"))
    async with N8n(server.url, internal_secret=SECRET, networks=allowed) as n8n:
        assert await outcome(n8n) == ""


async def test_without_a_secret_none_is_sent(server: Server) -> None:
    server.play = server.answer(http(b"{}"))
    async with (
        N8n(server.url, internal_secret=None) as n8n,
        n8n.run("echo", b"{}", timeouts=PATIENT, headers={"x-n8n-internal-auth": "no"}),
    ):
        pass
    assert b"internal-auth" not in server.requests[0][0].lower()
