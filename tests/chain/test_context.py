from __future__ import annotations

import uuid

import pytest

from gateway.chain.context import establish_context
from gateway.rpc.call import Call
from tests.calls import call_of


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
