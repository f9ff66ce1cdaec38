"""Which quotas a call has, and what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gateway.chain.rate_limit import RateLimit, Rates
from gateway.chain.stream_limit import StreamLimit
from gateway.gen.n8ngateway.v1 import internal_service_pb
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest
from gateway.gen.n8ngateway.v1.organization_pb import AuthPolicy, FingerprintPolicy
from gateway.limits.windows import LocalWindows
from gateway.rpc.call import Call
from gateway.rpc.errors import InvalidArgument, ResourceExhausted, RpcError
from gateway.rpc.methods import MethodTable
from gateway.rpc.policy import Policy
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from gateway.rpc.quota import Decision, Quota
from gateway.transcoding.gen.google.rpc.error_details_pb import QuotaFailure
from tests.calls import call_of, method

ORGANIZATION = "01a20158-1eff-7ba1-9e3f-6be32c9c49a9"
EXECUTE, LIST, STREAM = method("Execute"), method("ListExecutions"), method("ExecuteStream")


class Memory:
    """A limiter as it is without Redis, and what it was asked."""

    def __init__(self, *, is_shared: bool = True) -> None:
        self.asked: list[tuple[Quota, ...]] = []
        self._windows = LocalWindows()
        self._is_shared = is_shared

    async def take(self, quotas: Sequence[Quota]) -> Decision:
        self.asked.append(tuple(quotas))
        decision = Decision(tuple(quotas), self._windows.standings(quotas), self._is_shared)
        if decision.is_admitted:
            self._windows.count(quotas)
        return decision


def policy(limit: tuple[int, int] | None = None, streams: int = 0) -> Policy:
    return Policy(ORGANIZATION, AuthPolicy.JWT, 0, FingerprintPolicy.LOG, limit, streams)


def principal(kind: Kind = Kind.USER, **fields: Any) -> Principal:
    return Principal(kind, "somebody", DatabaseRole.AUTHENTICATED, "{}", **fields)


def guard(memory: Memory, **rates: tuple[int, int]) -> RateLimit:
    return RateLimit(memory, Rates((100, 60), **rates), [EXECUTE, LIST, STREAM])  # type: ignore[arg-type]


async def quotas(call: Call, **rates: tuple[int, int]) -> list[tuple[str, str, int, int]]:
    memory = Memory()
    await guard(memory, **rates)(call)
    return [tuple(quota) for quota in memory.asked[0]] if memory.asked else []


async def test_an_organization_shares_one_limit() -> None:
    call = call_of(principal=principal(), policy=policy())
    assert await quotas(call) == [("organization", f"organization:{ORGANIZATION}", 100, 60)]


async def test_who_acts_for_none_has_one_of_its_own() -> None:
    assert await quotas(call_of(principal=principal())) == [("user", "user:somebody", 100, 60)]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [((7, 5), (7, 5)), ((0, 5), (100, 5)), ((7, 0), (7, 60)), ((0, 0), (100, 60)), (None, (100, 60))],
)
async def test_an_organization_s_own_limit_takes_the_place_of_the_gateway_s(
    stored: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    ((_, _, *found),) = await quotas(call_of(principal=principal(), policy=policy(stored)))
    assert tuple(found) == expected


@pytest.mark.parametrize(
    ("name", "organizations", "expected"),
    [
        ("LogError", frozenset({"b", "a"}), [("n8n", "n8n:a", 1000, 60)]),
        ("ReportProgress", frozenset({"a"}), []),
        ("LogError", None, []),
    ],
)
async def test_an_n8n_of_ones_own_does_not_fill_the_database(
    name: str, organizations: frozenset[str] | None, expected: list[Any]
) -> None:
    internal = internal_service_pb.desc().services[0]
    called = MethodTable([(internal, None)])[f"/{internal.type_name}/{name}"]
    n8n = principal(Kind.N8N, organizations=organizations)
    assert await quotas(call_of(called, principal=n8n)) == expected


async def test_a_key_s_own_limit_stands_beside_its_organization_s() -> None:
    key = principal(Kind.API_KEY, rate_limit=(3, 0))
    assert await quotas(call_of(principal=key, policy=policy((7, 5)))) == [
        ("organization", f"organization:{ORGANIZATION}", 7, 5),
        ("key", "key:somebody", 3, 60),
    ]


async def test_a_workflow_is_limited_where_it_is_run() -> None:
    run = ExecuteRequest(workflow_id="01A20158-1F3D-7251-8236-633CCF5B8E13")
    for called, count in ((EXECUTE, 2), (STREAM, 2), (LIST, 1)):
        request = run if called is EXECUTE else None
        call = call_of(called, request, principal=principal(), policy=policy())
        found = await quotas(call, workflow=(5, 60))
        assert len(found) == count
    call = call_of(EXECUTE, run, principal=principal(), policy=policy())
    *_, (name, key, _, _) = await quotas(call, workflow=(5, 60))
    assert (name, key) == (
        "workflow",
        f"organization:{ORGANIZATION}:workflow:01a20158-1f3d-7251-8236-633ccf5b8e13",
    )
    assert call.request == run  # decoded once, for all who come after


async def test_a_request_that_cannot_be_read_is_counted_and_left_to_validation() -> None:
    call = call_of(EXECUTE, principal=principal(), policy=policy())
    call.body = b"\xff\xff"
    call.decode = _fail
    found = await quotas(call, workflow=(5, 60))
    assert found[1][1].endswith(":workflow:none")
    assert call.request is None


def _fail() -> Any:
    raise InvalidArgument("not a message")


async def test_an_address_is_counted_by_its_network() -> None:
    call = call_of(principal=principal(), policy=policy(), address="2001:db8::7")
    assert (await quotas(call, address=(50, 1)))[1] == ("address", "address:2001:db8::/64", 50, 1)
    unix = call_of(principal=principal(), policy=policy())
    assert len(await quotas(unix, address=(50, 1))) == 1


@pytest.mark.parametrize("kind", [Kind.N8N, Kind.PLATFORM, None])
async def test_who_is_no_tenant_is_not_limited(kind: Kind | None) -> None:
    call = call_of(principal=principal(kind) if kind else None)
    assert await quotas(call) == []
    assert call.response_metadata == []


async def test_a_refusal_says_who_is_refused_and_for_how_long() -> None:
    limited = guard(Memory(is_shared=False))
    key = principal(Kind.API_KEY, rate_limit=(1, 3600))
    await limited(call_of(principal=key, policy=policy()))
    refused = call_of(principal=key, policy=policy())
    with pytest.raises(ResourceExhausted) as caught:
        await limited(refused)
    error = caught.value
    assert error.reason == "RATE_LIMIT_EXCEEDED"
    assert error.metadata == {"policy": "key", "limit": "1", "period_seconds": "3600"}
    assert error.retry_after is not None
    assert 3500 < error.retry_after <= 3960
    assert error.retry_after_seconds is not None
    assert error.retry_after_seconds >= error.retry_after
    (detail,) = error.details
    assert isinstance(detail, QuotaFailure)
    assert [violation.subject for violation in detail.violations] == ["key:somebody"]
    told = dict(refused.response_metadata)
    assert told["ratelimit-policy"] == '"organization";q=100;w=60, "key";q=1;w=3600'
    assert told["ratelimit"].startswith('"organization";r=99;t=')
    assert ', "key";r=0;t=' in told["ratelimit"]
    assert told["ratelimit-mode"] == "local"


class Places:
    """Places for streams: as many as there are."""

    def __init__(self) -> None:
        self.open_by: dict[str, str] = {}
        self.most: list[int] = []

    async def open(self, tenant: str, most: int) -> str | None:
        self.most.append(most)
        if len(self.open_by) >= most:
            return None
        name = f"stream {len(self.open_by)}"
        self.open_by[name] = tenant
        return name

    def close(self, _tenant: str, name: str) -> None:
        del self.open_by[name]


@pytest.mark.parametrize(("own", "most"), [(0, 2), (1, 1), (5, 5)])
async def test_streams_have_places_and_give_them_back(own: int, most: int) -> None:
    places = Places()
    limit = StreamLimit(places, most=2)  # type: ignore[arg-type]
    calls = [call_of(STREAM, principal=principal(), policy=policy(streams=own)) for _ in range(most)]
    for call in calls:
        await limit(call)
    one_more = call_of(STREAM, principal=principal(), policy=policy(streams=own))
    with pytest.raises(ResourceExhausted) as caught:
        await limit(one_more)
    assert caught.value.reason == "OPEN_STREAMS_EXCEEDED"
    limit.observe(one_more, caught.value)
    assert len(places.open_by) == most
    outcome: RpcError | None = None
    for call in calls:
        limit.observe(call, outcome)
    assert places.open_by == {}
    assert limit._open == {}


async def test_unary_calls_take_no_place() -> None:
    places = Places()
    limit = StreamLimit(places, most=1)  # type: ignore[arg-type]
    await limit(call_of(EXECUTE, principal=principal(), policy=policy()))
    assert places.most == []
