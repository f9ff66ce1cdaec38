from __future__ import annotations

import base64
import json
import uuid

import pytest

from gateway.gen.n8ngateway.v1.organization_service_pb import ListOrganizationsResponse
from gateway.rpc.errors import InvalidArgument
from gateway.services.pages import DEFAULT_PAGE_SIZE, decode_token, encode_token, page_size, read_page

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


@pytest.mark.parametrize(("requested", "given"), [(0, DEFAULT_PAGE_SIZE), (1, 1), (200, 200)])
def test_the_gateway_chooses_a_size_where_the_caller_does_not(requested: int, given: int) -> None:
    assert page_size(requested) == given


@pytest.mark.parametrize(("last", "more"), [(LAST, True), (None, False)])
def test_the_database_s_page_becomes_the_response(last: str | None, *, more: bool) -> None:
    text = json.dumps({"organizations": [{"id": LAST, "name": "Acme"}], "next": last})
    page = read_page(text, ListOrganizationsResponse, "organizations")
    assert [organization.name for organization in page.organizations] == ["Acme"]
    assert bool(page.next_page_token) is more
    if more:
        assert decode_token("organizations", page.next_page_token) == last


def test_an_empty_list_is_a_page_too() -> None:
    page = read_page('{"organizations": [], "next": null}', ListOrganizationsResponse, "organizations")
    assert page == ListOrganizationsResponse()
