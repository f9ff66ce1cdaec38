from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest

from gateway.gen.n8ngateway.v1.organization_service_pb import (
    ListOrganizationsRequest,
    ListOrganizationsResponse,
)
from gateway.rpc.errors import InvalidArgument
from gateway.services.pages import DEFAULT_PAGE_SIZE, decode_token, encode_token, list_page

LAST = str(uuid.UUID("0190c8a6-0000-7000-8000-00000000000a"))


def test_a_token_leads_back_to_its_id() -> None:
    token = encode_token("workflows", LAST)
    assert decode_token("workflows", token) == LAST
    assert LAST not in token
    assert "=" not in token


@pytest.mark.parametrize("last", [None, ""])
def test_the_last_page_has_no_token(last: str | None) -> None:
    assert encode_token("workflows", last) == ""


def test_no_token_is_the_first_page() -> None:
    assert decode_token("workflows", "") is None


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "xx",
        "=",
        "====",
        "not a token",
        "\u2603",
        "\x00",
        "A" * 27,
        "A" * 28,
        "A" * 10_000,
        LAST,
        base64.b64encode(uuid.UUID(LAST).bytes).decode(),
        encode_token("organizations", LAST),
        encode_token("workflows", LAST)[:-1],
        encode_token("workflows", LAST) + "A",
        encode_token("workflows", LAST) + "\n",
        " " + encode_token("workflows", LAST),
    ],
)
def test_any_other_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_token("workflows", token)
    assert caught.value.reason == "INVALID_PAGE_TOKEN"
    assert list(caught.value.fields) == ["page_token"]


def test_a_token_is_good_for_its_own_filters_alone() -> None:
    token = encode_token("workflows a True", LAST)
    with pytest.raises(InvalidArgument):
        decode_token("workflows a None", token)


class Asked:
    """A list's query that answers with one page, and keeps what it was asked for."""

    def __init__(self, page: dict[str, Any]) -> None:
        self.page = page
        self.arguments: dict[str, Any] = {}

    async def __call__(self, **arguments: Any) -> str:
        self.arguments = arguments
        return json.dumps(self.page)

    async def for_page(self, size: int = 0, token: str = "") -> ListOrganizationsResponse:
        request = ListOrganizationsRequest(page_size=size, page_token=token)
        return await list_page(self, request, ListOrganizationsResponse, "organizations")


EMPTY = {"organizations": [], "next": None}


@pytest.mark.parametrize(("requested", "given"), [(0, DEFAULT_PAGE_SIZE), (1, 1), (200, 200)])
async def test_the_gateway_chooses_a_size_where_the_caller_does_not(requested: int, given: int) -> None:
    query = Asked(EMPTY)
    await query.for_page(requested)
    assert query.arguments == {"p_after": None, "p_limit": given}


@pytest.mark.parametrize(("last", "more"), [(LAST, True), (None, False)])
async def test_the_database_s_page_becomes_the_response(last: str | None, *, more: bool) -> None:
    query = Asked({"organizations": [{"id": LAST, "name": "Acme", "newer": 1}], "next": last})
    page = await query.for_page()
    assert [organization.name for organization in page.organizations] == ["Acme"]
    assert bool(page.next_page_token) is more
    if more:
        await query.for_page(token=page.next_page_token)
        assert query.arguments["p_after"] == last


async def test_an_empty_list_is_a_page_too() -> None:
    assert await Asked(EMPTY).for_page() == ListOrganizationsResponse()


async def test_the_token_of_another_list_is_not_asked_about() -> None:
    query = Asked(EMPTY)
    with pytest.raises(InvalidArgument):
        await query.for_page(token=encode_token("workflows", LAST))
    assert not query.arguments
