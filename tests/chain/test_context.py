from __future__ import annotations

import re
import uuid

import pytest

from gateway.chain.context import establish_context
from gateway.rpc.call import Call
from tests.calls import call_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


async def established(**headers: str) -> Call:
    call = call_of(metadata={name.replace("_", "-"): value for name, value in headers.items()})
    await establish_context(call)
    return call


@pytest.mark.parametrize(
    "given", ["a", "r-1", "0190c8a6-0000-7000-8000-00000000000a", "A.b_c~d-9", "x" * 128]
)
async def test_a_well_formed_request_id_is_kept(given: str) -> None:
    call = await established(x_request_id=given)
    assert call.request_id == given
    assert call.response_metadata == [("x-request-id", given)]


@pytest.mark.parametrize("given", ["", " ", "x" * 129, "a b", "a\nb", "a\n", "ä", "a/b", '"', "a, b", "a;b"])
async def test_any_other_is_replaced(given: str) -> None:
    call = await established(x_request_id=given)
    assert uuid.UUID(call.request_id).version == 7
    assert call.response_metadata == [("x-request-id", call.request_id)]


async def test_each_call_without_one_gets_its_own() -> None:
    assert len({(await established()).request_id for _ in range(5)}) == 5


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
async def test_a_trace_goes_on_in_a_new_span(traceparent: str, flags: str) -> None:
    given = (await established(traceparent=traceparent)).traceparent
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
async def test_without_a_trace_of_w3c_a_new_one_begins(traceparent: str) -> None:
    given = (await established(traceparent=traceparent)).traceparent
    assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-00", given)
    assert TRACE not in given
