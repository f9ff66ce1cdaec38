"""Strangers by their address: who is let through, who is turned away, and what is remembered."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from gateway.chain.address_limit import AddressLimit, FailedAuthentications
from gateway.limits.addresses import AddressWindows
from gateway.rpc.call import Call
from gateway.rpc.errors import ResourceExhausted, Unauthenticated
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from tests.calls import EXECUTIONS, call_of

SOMEBODY = Principal(Kind.USER, "somebody", DatabaseRole.AUTHENTICATED, "{}")


def clock() -> float:
    return 1000.0


def call(address: str = "192.0.2.1", credentials: str | None = None, **fields: object) -> Call:
    metadata = {} if credentials is None else {"authorization": f"Bearer {credentials}"}
    return call_of(metadata=metadata, address=address, **fields)


async def is_let_in(guard: AddressLimit | FailedAuthentications, caller: Call) -> bool:
    try:
        await guard(caller)
    except ResourceExhausted as error:
        return error.retry_after is None  # whoever is turned away is told until when
    return True


async def test_an_address_that_calls_too_often_is_turned_away() -> None:
    limit = AddressLimit(AddressWindows(3, 60, clock=clock), exempt=())
    assert [await is_let_in(limit, call()) for _ in range(5)] == [True] * 3 + [False] * 2
    assert await is_let_in(limit, call("192.0.2.2"))


@pytest.mark.parametrize("address", ["", "192.0.2.1"])
async def test_some_are_never_turned_away(address: str) -> None:
    exempt = (EXECUTIONS.type_name,) if address else ()
    limit = AddressLimit(AddressWindows(1, 60, clock=clock), exempt)
    assert [await is_let_in(limit, call(address)) for _ in range(3)] == [True] * 3


async def test_guesses_at_the_platforms_token_count_too() -> None:
    limit = FailedAuthentications(AddressWindows(3, 60, clock=clock))
    guesses = [call_of(metadata={"x-platform-token": f"guess {n}"}, address="192.0.2.1") for n in range(4)]
    for guessed in guesses[:3]:
        assert await is_let_in(limit, guessed)
        limit.observe(guessed, Unauthenticated("No."))
    assert not await is_let_in(limit, guesses[3])


def guess(limit: FailedAuthentications, credentials: str, address: str = "192.0.2.1") -> None:
    limit.observe(call(address, credentials), Unauthenticated("No."))


async def test_guessers_are_turned_away_and_good_neighbours_are_not() -> None:
    limit = FailedAuthentications(AddressWindows(3, 60, clock=clock))
    limit.observe(call(credentials="good", principal=SOMEBODY), None)
    for number in range(3):
        assert await is_let_in(limit, call(credentials=f"guess {number}"))
        guess(limit, f"guess {number}")
    assert not await is_let_in(limit, call(credentials="guess 3"))
    assert await is_let_in(limit, call(credentials="good"))
    assert await is_let_in(limit, call())  # it will be told to show some
    assert await is_let_in(limit, call("192.0.2.2", "elsewhere"))


async def test_credentials_that_are_good_no_more_are_no_pass() -> None:
    limit = FailedAuthentications(AddressWindows(1, 60, clock=clock))
    limit.observe(call(credentials="revoked", principal=SOMEBODY), None)
    guess(limit, "revoked")
    assert not await is_let_in(limit, call(credentials="revoked"))


async def test_a_flood_of_guesses_is_one_line_in_the_log() -> None:
    limit = FailedAuthentications(AddressWindows(10, 60, clock=clock))
    with capture_logs() as logs:
        for number in range(1000):
            guess(limit, f"secret-guess-{number}", f"2001:db8:1:2::{number:x}")
    assert [line["event"] for line in logs] == ["credentials refused again and again"]
    assert logs[0]["address"] == "2001:db8:1:2::/64"
    assert "secret-guess" not in str(logs)


async def test_what_is_remembered_of_good_credentials_is_bounded() -> None:
    limit = FailedAuthentications(AddressWindows(10, 60, clock=clock))
    for number in range(10_050):
        limit.observe(call(credentials=f"token {number}", principal=SOMEBODY), None)
    assert len(limit._good) == 10_000
