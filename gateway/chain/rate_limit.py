"""Rate limits of tenants: so many calls of an organization, a key, a workflow and an address in a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import ceil
from typing import TYPE_CHECKING

from gateway import metrics
from gateway.limits.addresses import network_of
from gateway.rpc.errors import InvalidArgument, ResourceExhausted
from gateway.rpc.principal import Kind
from gateway.rpc.quota import Quota
from gateway.transcoding.gen.google.rpc.error_details_pb import QuotaFailure

if TYPE_CHECKING:
    from gateway.limits.limiter import Limiter
    from gateway.rpc.call import Call
    from gateway.rpc.methods import Method
    from gateway.rpc.principal import Principal
    from gateway.rpc.quota import Decision

    Rate = tuple[int, int]

# To find the child of some labels takes five times as long as to count with it.
_decisions = cache(metrics.RATE_LIMIT.labels)

_LIMITED = frozenset({Kind.USER, Kind.API_KEY})
_WRITTEN_DOWN = "LogError"
"""What n8n has kept for weeks: an n8n that tenants have chosen may not fill the database with it."""
_REPORTS = 10
"""So many times as often as others call."""
_LONGEST_ID = 64


@dataclass(frozen=True, slots=True)
class Rates:
    """The gateway's own rates, requests in seconds; None is no limit.

    The tenant's is for those that have none of their own.
    """

    tenant: Rate
    workflow: Rate | None = None
    address: Rate | None = None


class RateLimit:
    """Counts calls of users and keys, and what an n8n of an organization's own has written down.

    All else that n8n calls, and the platform, is not limited.

    A call for an organization is counted by it, any other by its user. Requests to run a workflow name it,
    so they are decoded here where workflows are limited. Where the call stands is told in the fields of
    draft-ietf-httpapi-ratelimit-headers-10, over gRPC as trailers.
    """

    def __init__(self, limiter: Limiter, rates: Rates, methods: Iterable[Method]) -> None:
        self._limiter = limiter
        self._rates = rates
        self._running = frozenset(method.path for method in methods if rates.workflow and _runs(method))

    async def __call__(self, call: Call) -> None:
        """Raises ResourceExhausted when a quota is used up; the call is then counted by none."""
        principal = call.principal
        if principal is None or not (principal.kind in _LIMITED or _is_written_down(call, principal)):
            return
        decision = await self._limiter.take(tuple(self._quotas(call)))
        is_admitted = decision.is_admitted
        call.response_metadata += _fields(decision)
        _measure(decision, is_admitted=is_admitted)
        if not is_admitted:
            raise _refusal(decision)

    def _quotas(self, call: Call) -> Iterator[Quota]:
        principal, policy, rates = call.caller, call.policy, self._rates
        if principal.organizations is not None:
            requests, seconds = rates.tenant
            yield Quota("n8n", f"n8n:{min(principal.organizations)}", _REPORTS * requests, seconds)
            return
        tenant = tenant_of(call)
        own = policy.rate_limit if policy and policy.rate_limit else (0, 0)
        yield Quota("organization" if policy else "user", tenant, *_filled(own, rates.tenant))
        if principal.rate_limit:
            yield Quota("key", f"key:{principal.subject}", *_filled(principal.rate_limit, rates.tenant))
        if rates.workflow and call.method.path in self._running:
            yield Quota("workflow", f"{tenant}:workflow:{_workflow(call)}", *rates.workflow)
        if rates.address and call.address:
            yield Quota("address", f"address:{network_of(call.address)}", *rates.address)


def _is_written_down(call: Call, principal: Principal) -> bool:
    return principal.organizations is not None and call.method.name == _WRITTEN_DOWN


def tenant_of(call: Call) -> str:
    """Who shares a limit: the organization that the call acts for, else its user."""
    if call.policy is not None:
        return f"organization:{call.policy.organization_id}"
    return f"user:{call.caller.subject}"


def _filled(rate: Rate, default: Rate) -> Rate:
    """A stored rate, whose zeros stand for the default's parts."""
    return rate[0] or default[0], rate[1] or default[1]


def _runs(method: Method) -> bool:
    fields: Collection[str] = {field.name for field in method.input.desc().fields}
    return {"workflow_id", "idempotency_key"} <= set(fields)


def _workflow(call: Call) -> str:
    """The workflow that a request names, or how one is named that cannot be any."""
    try:
        call.request = call.decode()
    except InvalidArgument:
        return "none"  # it is refused for that in its turn
    name = str(getattr(call.request, "workflow_id", ""))
    return name.lower()[:_LONGEST_ID] or "default"


def _fields(decision: Decision) -> list[tuple[str, str]]:
    told = zip(decision.quotas, decision.standings, strict=True)
    standings = ", ".join(f'"{quota.policy}";r={s.remaining};t={ceil(s.reset)}' for quota, s in told)
    fields = [("ratelimit-policy", _policies(decision.quotas)), ("ratelimit", standings)]
    if not decision.is_shared:
        fields.append(("ratelimit-mode", "local"))
    return fields


@lru_cache(4096)
def _policies(quotas: Sequence[Quota]) -> str:
    return ", ".join(f'"{quota.policy}";q={quota.requests};w={quota.seconds}' for quota in quotas)


def _measure(decision: Decision, *, is_admitted: bool) -> None:
    mode = "shared" if decision.is_shared else "local"
    outcome = "admitted" if is_admitted else "refused"
    for quota, standing in zip(decision.quotas, decision.standings, strict=True):
        if is_admitted or standing.refused:
            _decisions(quota.policy, outcome, mode).inc()


def _refusal(decision: Decision) -> ResourceExhausted:
    refused = [(q, s) for q, s in zip(decision.quotas, decision.standings, strict=True) if s.refused]
    quota, _ = refused[0]
    wait = max(standing.reset for _, standing in refused)
    return ResourceExhausted(
        f"Too many calls: {quota.policy} limit of {quota.requests} in {quota.seconds} seconds.",
        reason="RATE_LIMIT_EXCEEDED",
        metadata={
            "policy": quota.policy,
            "limit": str(quota.requests),
            "period_seconds": str(quota.seconds),
        },
        retry_after=wait,
        details=[
            QuotaFailure(
                violations=[
                    QuotaFailure.Violation(
                        subject=q.key, description=f"{q.requests} calls in {q.seconds} seconds"
                    )
                    for q, _ in refused
                ]
            )
        ],
    )
