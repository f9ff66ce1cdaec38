from __future__ import annotations

import re

import pytest

from gateway.rpc.trace import continued
from tests.calls import call_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("traceparent", "flags"),
    [
        (f"00-{TRACE}-{PARENT}-01", "01"),
        (f"00-{TRACE}-{PARENT}-00", "00"),
        (f"00-{TRACE}-{PARENT}-03", "03"),
        (f"00-{TRACE}-{PARENT}-ff", "03"),
        (f"cc-{TRACE}-{PARENT}-01", "01"),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", "01"),
    ],
)
def test_a_trace_goes_on_in_a_new_span(traceparent: str, flags: str) -> None:
    given = continued(traceparent)
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-{flags}", given)
    assert PARENT not in given


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01\n",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01, 00-{TRACE}-{PARENT}-01",
    ],
)
def test_without_a_trace_of_w3c_a_new_one_begins(traceparent: str) -> None:
    given = continued(traceparent)
    assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-00", given)
    assert TRACE not in given


def test_each_request_of_a_call_is_a_span_of_its_own() -> None:
    call = call_of(metadata={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    first, second = call.traceparent, call.traceparent
    assert first.startswith(f"00-{TRACE}-")
    assert first != second
