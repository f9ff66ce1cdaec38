from __future__ import annotations

import pytest

from gateway.executions.token import ExecutionTokens, TokenOwner

RUN = "0199aaaa-0000-7000-8000-000000000001"
OTHER_RUN = "0199aaaa-0000-7000-8000-000000000002"
TENANT = "0199bbbb-0000-7000-8000-000000000001"
OTHER_TENANT = "0199bbbb-0000-7000-8000-000000000002"

tokens = ExecutionTokens("s" * 64)


def test_a_token_says_whose_it_is_to_every_replica() -> None:
    assert ExecutionTokens("s" * 64).read(tokens.of(RUN, TENANT)) == TokenOwner(RUN, TENANT)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        RUN,
        f"{RUN}.{TENANT}",
        f"{RUN}.{TENANT}.",
        tokens.of(RUN, TENANT)[:-1],
        tokens.of(RUN, TENANT) + "0",
        tokens.of(RUN, TENANT).upper(),
        tokens.of(RUN, TENANT).replace(RUN, OTHER_RUN),
        tokens.of(RUN, TENANT).replace(TENANT, OTHER_TENANT),
        f"{RUN}.{TENANT}.☃",
        ExecutionTokens("t" * 64).of(RUN, TENANT),
        f"{RUN}.{TENANT}.{tokens.digest(f'{RUN} {TENANT}')}",
    ],
)
def test_what_is_no_token_of_this_gateway_is_nobodys(token: str) -> None:
    assert tokens.read(token) is None


def test_a_digest_is_one_gateways_and_one_secrets() -> None:
    assert tokens.digest("secret") == ExecutionTokens("s" * 64).digest("secret")
    assert tokens.digest("secret") != tokens.digest("Secret")
    assert tokens.digest("secret") != ExecutionTokens("t" * 64).digest("secret")
