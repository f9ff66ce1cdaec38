"""Whether a session or key is suddenly used from elsewhere.

To watch the network and the user agent detects theft, it does not prevent it (OWASP); what is done about
it is for the organization's policy to say:

=========  ==================================  =================================  ======================
signals    FINGERPRINT_POLICY_LOG              FINGERPRINT_POLICY_CHALLENGE       FINGERPRINT_POLICY_DENY
=========  ==================================  =================================  ======================
network    goes on, logged                     goes on, logged                    refused
user agent goes on, logged                     refused until a fresh `fva`; keys  refused
without    not looked at                       compared with the database's       as for CHALLENGE
Redis                                          record; without both UNAVAILABLE
=========  ==================================  =================================  ======================
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_network
from typing import TYPE_CHECKING, NamedTuple, Protocol

import orjson

from gateway.chain.security_log import BASELINE, SUSPICIOUS, SecurityEvent
from gateway.gen.n8ngateway.v1.organization_pb import FingerprintPolicy
from gateway.rpc.errors import PermissionDenied, Unavailable
from gateway.rpc.principal import Kind
from gateway.rpc.remembered import REMEMBERED, Remembered

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.rpc.call import Call
    from gateway.rpc.principal import Principal

    Record = Callable[[SecurityEvent], None]

FRESH_MINUTES = 10
"""How long ago a factor may have been verified that answers a challenge."""

_LONGEST_AGENT = 512
_VERSION = re.compile(r"/\S+|\d[\w.]*")
_ORIGIN, _PART = 8, 28
"""Characters of a fingerprint: the origin, then the network, then the user agent."""


class Subject(NamedTuple):
    """Whose calls are compared: a session of a user (the user itself where its token names none), or a key.

    Its fingerprints begin with `origin`, which stands for the key of the MACs and for the secret of an API
    key: once either is another one, what was known says nothing, however late it is written down.
    """

    organization_id: str
    id: str
    session: str
    origin: str


class Baselines(Protocol):
    """What the calls of each subject are compared with, shared by all replicas.

    Every method raises Unavailable.
    """

    async def find(self, subject: str) -> str | None:
        """The baseline of a subject, which is kept on for having been asked for."""
        ...

    async def settle(self, subject: str, fingerprint: str) -> str:
        """The subject's baseline: this one, unless another replica was faster."""
        ...

    async def replace(self, subject: str, fingerprint: str) -> None:
        """From now on, compare with this one."""
        ...


class Fingerprints:
    """Compares each call with the first one of its session or key, and does what the organization wants.

    `key` is secret: only MACs of networks (/24, /48) and user agents (without versions) are kept. `record`
    takes what is to be told to the organization, and does not wait.
    """

    def __init__(
        self,
        key: bytes,
        baselines: Baselines,
        database: Database,
        record: Record,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = key
        self._key_id = _mac(key, "key id")[:_ORIGIN]
        self._baselines = baselines
        self._database = database
        self._record = record
        self._known: Remembered[Subject, str | None] = Remembered(
            self._find, keep=lambda baseline: baseline is not None, clock=clock
        )
        self._recorded: Remembered[Subject, str | None] = Remembered(
            self._find_record, keep=lambda baseline: baseline is not None, clock=clock
        )
        self._place = lru_cache(REMEMBERED)(self._locate)

    async def __call__(self, call: Call) -> None:
        """Raises PermissionDenied (FINGERPRINT_CHANGED, REVERIFICATION_REQUIRED), Unavailable."""
        principal, policy = call.principal, call.policy
        if principal is None or policy is None:
            return
        if principal.kind is not Kind.USER and principal.kind is not Kind.API_KEY:
            return
        agent = call.metadata.get("user-agent", "")[:_LONGEST_AGENT]
        subject = self._subject(call, principal, policy.organization_id)
        fingerprint = subject.origin + self._place(policy.organization_id, call.address, agent)
        baseline = await self._baseline(call, subject, fingerprint, policy.fingerprint_policy)
        if baseline is None or baseline == fingerprint:
            return
        signals = _signals(baseline, fingerprint)
        verdict = _verdict(principal, policy.fingerprint_policy, signals)
        if verdict is None:
            await self._begin_anew(call, subject, fingerprint, signals)
            return
        self._tell(call, subject, fingerprint, signals, verdict)
        if verdict != "logged":
            refusal = _REFUSALS[verdict]
            raise refusal()

    async def close(self) -> None:
        """Wait for what is still being asked."""
        await self._known.close()
        await self._recorded.close()

    async def _begin_anew(
        self, call: Call, subject: Subject, fingerprint: str, signals: tuple[str, ...]
    ) -> None:
        """Whoever calls has verified who it is: compare with this call from now on."""
        self._tell(call, subject, fingerprint, signals, "challenged", status=BASELINE)
        self._known.forget(subject)
        self._recorded.forget(subject)
        with suppress(Unavailable):  # the record has it
            await self._baselines.replace(self._name(subject), fingerprint)

    async def _baseline(
        self, call: Call, subject: Subject, fingerprint: str, policy: FingerprintPolicy
    ) -> str | None:
        """What to compare with; None where nothing is known, and where it need not be."""
        try:
            baseline = await self._known.get(subject)
            if baseline is None:
                baseline = await self._baselines.settle(self._name(subject), fingerprint)
                if baseline == fingerprint:
                    self._tell(call, subject, fingerprint, (), "logged", status=BASELINE)
        except Unavailable:
            if policy is not FingerprintPolicy.CHALLENGE and policy is not FingerprintPolicy.DENY:
                return None
            baseline = await self._recorded.get(subject)
            if baseline is None:
                self._tell(call, subject, fingerprint, (), "logged", status=BASELINE)
        return baseline

    async def _find(self, subject: Subject) -> str | None:
        """The baseline in Redis, or the recorded one, which Redis then knows again."""
        name = self._name(subject)
        baseline = await self._baselines.find(name)
        if baseline is None:
            recorded = await self._find_record(subject)
            baseline = None if recorded is None else await self._baselines.settle(name, recorded)
        return baseline

    async def _find_record(self, subject: Subject) -> str | None:
        text = await self._database.call(
            "find_baseline",
            None,
            p_organization_id=subject.organization_id,
            p_subject_id=subject.id,
            p_session_id=subject.session,
            p_origin=subject.origin,
        )
        recorded: str | None = orjson.loads(text)["fingerprint"]
        return recorded

    def _tell(
        self,
        call: Call,
        subject: Subject,
        fingerprint: str,
        signals: tuple[str, ...],
        action: str,
        *,
        status: str = SUSPICIOUS,
    ) -> None:
        self._record(
            SecurityEvent(
                organization_id=subject.organization_id,
                status=status,
                subject_id=subject.id,
                session_id=subject.session,
                fingerprint=fingerprint,
                action=action,
                signals=signals,
                request_id=call.request_id,
            )
        )

    def _subject(self, call: Call, principal: Principal, organization_id: str) -> Subject:
        origin = self._key_id
        if principal.kind is Kind.API_KEY:
            origin = _mac(self._key, "key id", call.metadata.get("x-api-key", ""))[:_ORIGIN]
        return Subject(organization_id, principal.subject, principal.session or "", origin)

    def _name(self, subject: Subject) -> str:
        return _mac(self._key, "subject", *subject)

    def _locate(self, organization_id: str, address: str, agent: str) -> str:
        network = _mac(self._key, "network", organization_id, _network(address))
        user_agent = _mac(self._key, "user agent", organization_id, _VERSION.sub("", agent))
        return network[:_PART] + user_agent[:_PART]


def _network(address: str) -> str:
    """The network of an address: /24, or /48 in IPv6. Addresses change within it all the time."""
    if not address:
        return ""
    return str(ip_network(f"{address}/{48 if ':' in address else 24}", strict=False))


def _mac(key: bytes, purpose: str, *parts: str) -> str:
    """As hex; each part with its length, so that none can pass for a piece of another."""
    message = b"".join(
        len(part).to_bytes(4, "big") + part for part in (text.encode() for text in (purpose, *parts))
    )
    return hmac.digest(key, message, hashlib.sha256).hex()


def _signals(baseline: str, fingerprint: str) -> tuple[str, ...]:
    network = slice(_ORIGIN, _ORIGIN + _PART)
    user_agent = slice(_ORIGIN + _PART, None)
    differs = {"user_agent": user_agent, "network": network}
    return tuple(name for name, part in differs.items() if baseline[part] != fingerprint[part])


def _is_verified(principal: Principal) -> bool:
    """Whether Clerk's `fva` tells of a fresh second factor, or of a first one where there is no second."""
    ages = orjson.loads(principal.claims).get("fva")
    if not isinstance(ages, list) or not all(type(age) is int for age in ages):
        return False
    used = [age for age in ages if age >= 0]
    return bool(used) and used[-1] <= FRESH_MINUTES


def _verdict(principal: Principal, policy: FingerprintPolicy, signals: tuple[str, ...]) -> str | None:
    """What is done: "logged", "challenged" or "denied"; None where a challenge has been answered."""
    if policy is FingerprintPolicy.DENY:
        return "denied"
    if policy is not FingerprintPolicy.CHALLENGE or "user_agent" not in signals:
        return "logged"
    if principal.kind is Kind.API_KEY:
        return "denied"
    return None if _is_verified(principal) else "challenged"


def _denied() -> PermissionDenied:
    msg = "The session or key is used from elsewhere than before, and its organization refuses that."
    return PermissionDenied(msg, reason="FINGERPRINT_CHANGED")


def _challenged() -> PermissionDenied:
    msg = "The session is used from elsewhere than before: verify again, then send a fresh token."
    facts = {"max_age_minutes": str(FRESH_MINUTES)}
    return PermissionDenied(msg, reason="REVERIFICATION_REQUIRED", metadata=facts)


_REFUSALS = {"denied": _denied, "challenged": _challenged}
