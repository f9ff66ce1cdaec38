"""Windows in memory: never more than a quota, whatever the times; bounded, whoever calls."""

from __future__ import annotations

import tracemalloc
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits.addresses import AddressWindows, network_of
from gateway.limits.windows import LocalWindows
from gateway.rpc.quota import Quota


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


PAUSES = st.one_of(st.just(0.0), st.floats(0.0001, 0.5), st.floats(0.5, 7), st.floats(59, 140))


@settings(max_examples=200, deadline=None)
@given(pauses=st.lists(PAUSES, max_size=80), requests=st.integers(1, 6), share=st.integers(1, 3))
def test_no_window_holds_more_than_the_quota(pauses: list[float], requests: int, share: int) -> None:
    clock = Clock()
    windows, quota = LocalWindows(clock=clock), Quota("organization", "o", requests, 60)
    admitted: deque[float] = deque()
    for pause in pauses:
        clock.now += pause
        while admitted and admitted[0] <= clock.now - 66:  # a tenth more, which it may be late
            admitted.popleft()
        (standing,) = windows.standings([quota], share=share)
        limit = max(1, requests // share)
        if standing.refused:
            assert len(admitted) >= limit
            assert 0 < standing.reset <= 66
        else:
            windows.count([quota])
            admitted.append(clock.now)
            assert sum(t > clock.now - 60 for t in admitted) <= limit


def test_a_call_gets_in_when_it_was_told_to_come_back() -> None:
    clock = Clock()
    windows, quota = LocalWindows(clock=clock), Quota("organization", "o", 3, 60)
    for _ in range(3):
        windows.count([quota])
        clock.now += 11
    (standing,) = windows.standings([quota])
    clock.now += standing.reset - 0.01
    assert windows.standings([quota])[0].refused
    clock.now += 0.02
    assert not windows.standings([quota])[0].refused


def test_only_so_many_quotas_are_remembered() -> None:
    windows = LocalWindows(remembered=100)
    for number in range(1000):
        windows.count([Quota("user", f"user:{number}", 5, 60)])
    assert len(windows) == 100


def test_strangers_do_not_make_memory_grow() -> None:
    windows = AddressWindows(5, 60)
    windows.count("192.0.2.1")
    tracemalloc.start()
    for number in range(20_000):
        address = (
            f"2001:db8:{number // 65536:x}:{number % 65536:x}::1"
            if number % 2
            else f"10.0.{number >> 8}.{number & 255}"
        )
        windows.standing(address)
        windows.count(address)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 2 << 20  # the two tables, and the networks of the last 4096 addresses


def test_an_address_is_refused_and_let_in_again() -> None:
    clock = Clock()
    windows = AddressWindows(10, 60, clock=clock)
    for _ in range(10):
        assert not windows.standing("192.0.2.1").refused
        windows.count("192.0.2.1")
    refused = windows.standing("192.0.2.1")
    assert refused.refused
    assert not windows.standing("192.0.2.2").refused
    clock.now += refused.reset - 0.1
    assert windows.standing("192.0.2.1").refused
    clock.now += 0.2
    assert not windows.standing("192.0.2.1").refused
    clock.now += 1000
    assert windows.standing("192.0.2.1").remaining == 10


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
    ],
)
def test_an_ipv6_address_counts_as_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


def test_a_customer_with_a_network_of_addresses_is_one() -> None:
    windows = AddressWindows(10, 3600)
    for number in range(10):
        windows.count(f"2001:db8:1:2::{number:x}")
    assert windows.standing("2001:db8:1:2:ffff::1").refused
    assert not windows.standing("2001:db8:1:3::1").refused
