from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.adapters.postgres import PostgresDatabase
from gateway.chain.fingerprint import FRESH_MINUTES, Fingerprints
from gateway.chain.security_log import BASELINE, SUSPICIOUS, SecurityEvent, SecurityLog
from gateway.gen.n8ngateway.v1.organization_pb import FingerprintPolicy
from gateway.rpc.call import Call
from gateway.rpc.errors import RpcError, Unavailable
from gateway.rpc.policy import Policy
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from tests.adapters.databases import new_tenant
from tests.calls import call_of

LOG, CHALLENGE, DENY = FingerprintPolicy.LOG, FingerprintPolicy.CHALLENGE, FingerprintPolicy.DENY
HOME, OFFICE, NEIGHBOUR = "192.0.2.1", "198.51.100.1", "192.0.2.200"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
NEWER_FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0"
CURL = "curl/8.9.1"


class Memory:
    """Baselines of one process."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.is_away = False
        self.asked = 0

    def _ask(self) -> None:
        self.asked += 1
        if self.is_away:
            msg = "away"
            raise Unavailable(msg)

    async def find(self, subject: str) -> str | None:
        self._ask()
        return self.known.get(subject)

    async def settle(self, subject: str, fingerprint: str) -> str:
        self._ask()
        return self.known.setdefault(subject, fingerprint)

    async def replace(self, subject: str, fingerprint: str) -> None:
        self._ask()
        self.known[subject] = fingerprint


class Record:
    """The database's side: the baselines of each subject, the last one last."""

    def __init__(self) -> None:
        self.baselines: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
        self.is_away = False
        self.asked = 0

    async def call(self, function: str, principal: None, /, **arguments: Any) -> str:
        assert (function, principal) == ("find_baseline", None)
        self.asked += 1
        if self.is_away:
            msg = "away"
            raise Unavailable(msg)
        subject = arguments["p_organization_id"], arguments["p_subject_id"], arguments["p_session_id"]
        known = [one for one in self.baselines[subject] if one.startswith(arguments["p_origin"])]
        return json.dumps({"fingerprint": known[-1] if known else None})


@dataclass
class World:
    """A replica with what it shares with others."""

    policy: FingerprintPolicy = LOG
    key: bytes = b"k" * 32
    memory: Memory = field(default_factory=Memory)
    record: Record = field(default_factory=Record)
    events: list[SecurityEvent] = field(default_factory=list)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.guard = self.replica()

    def replica(self) -> Fingerprints:
        return Fingerprints(self.key, self.memory, self.record, self.note, clock=lambda: self.now)  # type: ignore[arg-type]

    def note(self, event: SecurityEvent) -> None:
        self.events.append(event)
        if event.status == BASELINE:
            subject = event.organization_id, event.subject_id, event.session_id
            self.record.baselines[subject].append(event.fingerprint)

    async def come(self, address: str = HOME, agent: str = FIREFOX, **more: Any) -> str:
        """A call comes; how it is refused, or OK."""
        try:
            await self.guard(self.call(address, agent, **more))
        except RpcError as error:
            return error.reason
        return "OK"

    def call(
        self,
        address: str,
        agent: str | None,
        *,
        session: str | None = "sess_1",
        key: str | None = None,
        organization: str = "o-1",
        fva: object = None,
        subject: str = "user_1",
    ) -> Call:
        claims = {"sub": subject} | ({} if fva is None else {"fva": fva})
        principal = Principal(
            Kind.USER, subject, DatabaseRole.AUTHENTICATED, json.dumps(claims), session=session
        )
        headers = {} if agent is None else {"user-agent": agent}
        if key is not None:
            principal = Principal(Kind.API_KEY, "key-id", DatabaseRole.AUTHENTICATED, "{}")
            headers["x-api-key"] = key
        call = call_of(metadata=headers, address=address, request_id="r-1")
        call.principal = principal
        call.policy = Policy(organization, 1, 0, self.policy, None, 0)  # type: ignore[arg-type]
        return call

    def told(self) -> list[tuple[str, tuple[str, ...], str]]:
        return [(event.status, event.signals, event.action) for event in self.events]


BEGAN = (BASELINE, (), "logged")


async def test_the_first_call_of_a_session_is_what_the_others_are_compared_with() -> None:
    world = World()
    assert [await world.come() for _ in range(3)] == ["OK"] * 3
    [event] = world.events
    assert world.told() == [BEGAN]
    assert (event.organization_id, event.subject_id, event.session_id) == ("o-1", "user_1", "sess_1")
    assert event.request_id == "r-1"
    assert len(event.fingerprint) == 64


@pytest.mark.parametrize(
    ("address", "agent"),
    [(NEIGHBOUR, FIREFOX), (HOME, NEWER_FIREFOX), (NEIGHBOUR, NEWER_FIREFOX)],
    ids=["same network", "newer version", "both"],
)
async def test_what_changes_all_the_time_is_no_signal(address: str, agent: str) -> None:
    world = World(DENY)
    await world.come()
    assert await world.come(address, agent) == "OK"
    assert world.told() == [BEGAN]


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:ffff::9", True),
        ("2001:db8:1::1", "2001:db8:2::1", False),
        ("", "", True),
        ("", HOME, False),
    ],
)
async def test_networks_of_other_forms(first: str, second: str, *, is_same: bool) -> None:
    world = World()
    await world.come(first)
    await world.come(second)
    assert world.told() == [BEGAN] + ([] if is_same else [(SUSPICIOUS, ("network",), "logged")])


@pytest.mark.parametrize(
    ("policy", "network", "agent"),
    [
        (FingerprintPolicy.UNSPECIFIED, "OK", "OK"),
        (LOG, "OK", "OK"),
        (CHALLENGE, "OK", "REVERIFICATION_REQUIRED"),
        (DENY, "FINGERPRINT_CHANGED", "FINGERPRINT_CHANGED"),
    ],
)
async def test_each_policy_answers_each_signal(policy: FingerprintPolicy, network: str, agent: str) -> None:
    world = World(policy)
    await world.come()
    assert await world.come(OFFICE) == network
    assert await world.come(agent=CURL) == agent
    assert await world.come(OFFICE, CURL) == agent
    assert await world.come() == "OK"
    action = {"OK": "logged", "REVERIFICATION_REQUIRED": "challenged", "FINGERPRINT_CHANGED": "denied"}
    assert world.told() == [
        BEGAN,
        (SUSPICIOUS, ("network",), action[network]),
        (SUSPICIOUS, ("user_agent",), action[agent]),
        (SUSPICIOUS, ("user_agent", "network"), action[agent]),
    ]


@pytest.mark.parametrize("policy", [CHALLENGE, DENY])
async def test_keys_cannot_verify_anything(policy: FingerprintPolicy) -> None:
    world = World(policy)
    await world.come(key="gw_live_x")
    assert await world.come(agent=CURL, key="gw_live_x") == "FINGERPRINT_CHANGED"
    assert world.told()[-1] == (SUSPICIOUS, ("user_agent",), "denied")
    assert (world.events[-1].subject_id, world.events[-1].session_id) == ("key-id", "")
    assert "gw_live_x" not in str(world.events) + str(world.memory.known)


@pytest.mark.parametrize("fva", [[0, -1], [FRESH_MINUTES, -1], [9999, 0], [9999, FRESH_MINUTES]])
async def test_a_fresh_factor_answers_a_challenge_and_begins_anew(fva: list[int]) -> None:
    world = World(CHALLENGE)
    await world.come()
    assert await world.come(OFFICE, CURL) == "REVERIFICATION_REQUIRED"
    assert await world.come(OFFICE, CURL, fva=fva) == "OK"
    assert world.told()[-1] == (BASELINE, ("user_agent", "network"), "challenged")
    assert await world.come(OFFICE, CURL, fva=[9999, -1]) == "OK"
    assert await world.come(agent=FIREFOX) == "REVERIFICATION_REQUIRED"


@pytest.mark.parametrize(
    "fva",
    [None, [FRESH_MINUTES + 1, -1], [0, FRESH_MINUTES + 1], [-1, -1], [], [-5], "0", [0.0, -1], ["0"], [True],
     {"0": 0}],
)  # fmt: skip
async def test_anything_else_does_not(fva: object) -> None:
    world = World(CHALLENGE)
    await world.come()
    assert await world.come(agent=CURL, fva=fva) == "REVERIFICATION_REQUIRED"


async def test_sessions_users_organizations_and_keys_do_not_mix() -> None:
    world = World(DENY)
    await world.come()
    for other in (
        {"session": "sess_2"},
        {"session": None},
        {"subject": "user_2"},
        {"organization": "o-2"},
        {"key": "gw_live_x"},
        {"key": "gw_live_rotated"},
    ):
        assert await world.come(OFFICE, CURL, **other) == "OK"
    assert {event.status for event in world.events} == {BASELINE}
    # One more for the other organization, and for each secret of a key.
    assert len({event.fingerprint for event in world.events}) == 5


async def test_nothing_is_watched_where_nobody_acts_for_an_organization() -> None:
    world = World(DENY)
    for change in ({"principal": None}, {"policy": None}):
        call = world.call(HOME, FIREFOX)
        for name, value in change.items():
            setattr(call, name, value)
        await world.guard(call)
    call = world.call(HOME, FIREFOX)
    call.principal = Principal(Kind.N8N, "n8n", DatabaseRole.SERVICE, "{}")
    await world.guard(call)
    assert (world.events, world.memory.asked) == ([], 0)


async def test_replicas_share_the_baseline_and_do_not_ask_for_it_each_time() -> None:
    world = World(DENY)
    await world.come()
    world.guard = world.replica()
    assert await world.come(agent=CURL) == "FINGERPRINT_CHANGED"
    asked = world.memory.asked
    assert [await world.come() for _ in range(10)] == ["OK"] * 10
    assert world.memory.asked == asked


async def test_the_record_is_found_when_redis_has_forgotten() -> None:
    world = World(DENY)
    await world.come()
    world.memory.known.clear()
    world.guard = world.replica()
    assert await world.come(agent=CURL) == "FINGERPRINT_CHANGED"
    assert len(world.memory.known) == 1


async def test_another_key_begins_anew() -> None:
    world = World(DENY)
    await world.come()
    world.key, first = b"K" * 32, world.events[0].fingerprint
    world.guard = world.replica()
    assert await world.come(OFFICE, CURL) == "OK"
    assert world.told() == [BEGAN, BEGAN]
    assert world.events[1].fingerprint[:8] != first[:8]


@pytest.mark.parametrize("redis", ["there", "away"])
async def test_a_rotated_key_begins_anew_and_the_old_one_goes_on(redis: str) -> None:
    world = World(DENY)
    world.memory.is_away = redis == "away"
    assert await world.come(key="gw_live_k_old") == "OK"
    assert await world.come(OFFICE, CURL, key="gw_live_k_new") == "OK"
    world.memory.known.clear()
    world.guard = world.replica()
    assert await world.come(OFFICE, CURL, key="gw_live_k_new") == "OK"
    assert await world.come(key="gw_live_k_old") == "OK"
    assert await world.come(key="gw_live_k_new") == "FINGERPRINT_CHANGED"


async def test_without_redis_an_organization_that_only_logs_is_not_held_up() -> None:
    world = World(LOG)
    world.memory.is_away = world.record.is_away = True
    assert await world.come() == "OK"
    assert world.events == []


@pytest.mark.parametrize("policy", [CHALLENGE, DENY])
async def test_without_redis_the_others_compare_with_the_record(policy: FingerprintPolicy) -> None:
    world = World(policy)
    await world.come()
    world.memory.is_away = True
    world.guard = world.replica()
    assert await world.come() == "OK"
    assert await world.come(agent=CURL) != "OK"
    assert await world.come(agent=CURL, session="sess_2") == "OK"
    assert await world.come(agent=FIREFOX, session="sess_2") != "OK"
    asked = world.record.asked
    await world.come()
    assert world.record.asked == asked


async def test_a_challenge_can_be_answered_without_redis() -> None:
    world = World(CHALLENGE)
    await world.come()
    world.memory.is_away = True
    world.guard = world.replica()
    assert await world.come(agent=CURL, fva=[0, -1]) == "OK"
    assert world.told()[-1] == (BASELINE, ("user_agent",), "challenged")


async def test_who_comes_and_goes_without_redis_is_compared_with_who_came_last(
    database: PostgresDatabase,
) -> None:
    world, organization = World(CHALLENGE), (await new_tenant(database)).organization_id
    world.memory.is_away = True

    async def comes(agent: str, **more: Any) -> str:
        """What a call to a new replica gets, when it has written down what it noticed."""
        log = SecurityLog(database)
        world.guard = Fingerprints(world.key, world.memory, database, log.record)
        outcome = await world.come(agent=agent, organization=organization, **more)
        await log.close()
        return outcome

    assert await comes(FIREFOX) == "OK"
    for agent, other in [(CURL, FIREFOX), (FIREFOX, CURL)] * 3:
        assert await comes(agent) == "REVERIFICATION_REQUIRED"
        assert await comes(agent, fva=[0, -1]) == "OK"
        assert await comes(agent) == "OK"
        assert await comes(other) == "REVERIFICATION_REQUIRED"


async def test_a_replica_without_redis_does_not_go_on_comparing_with_what_was() -> None:
    world = World(CHALLENGE)
    world.memory.is_away = True
    await world.come()
    assert await world.come() == "OK"  # remembered from now on
    assert await world.come(agent=CURL, fva=[0, -1]) == "OK"
    assert await world.come(agent=CURL) == "OK"
    assert await world.come() == "REVERIFICATION_REQUIRED"


@pytest.mark.parametrize("policy", [CHALLENGE, DENY])
async def test_without_both_the_others_are_refused(policy: FingerprintPolicy) -> None:
    world = World(policy)
    world.memory.is_away = world.record.is_away = True
    with pytest.raises(Unavailable):
        await world.guard(world.call(HOME, FIREFOX))


async def test_no_value_is_kept() -> None:
    world = World(LOG)
    await world.come()
    await world.come("203.0.113.77", "a-telling-user-agent")
    kept = str(world.events) + str(world.memory.known)
    for value in ("192.0.2", "203.0.113", "Firefox", "telling"):
        assert value not in kept


async def test_an_endless_user_agent_is_cut() -> None:
    world = World(DENY)
    await world.come(agent="x" * 512)
    assert await world.come(agent="x" * 60_000) == "OK"
