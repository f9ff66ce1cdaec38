"""What every implementation of the port does."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import random
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from yarl import URL

from gateway.adapters.database import Database
from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.supabase import SupabaseDatabase
from gateway.app.surroundings import JOINED
from gateway.rpc.call import current_request_id
from gateway.rpc.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RpcError,
    Unavailable,
)
from gateway.rpc.principal import Principal
from tests.adapters.databases import PATIENT, Cluster, add_credits, login, new_tenant
from tests.adapters.databases import user as user_without_token
from tests.adapters.postgrest import LEGACY, OPAQUE, Postgrests, Project

KEY = 4712
FUNCTIONS = f"""
    create function public.whoami() returns jsonb language plpgsql as $$
    begin
        return jsonb_build_object(
            'user', current_user, 'role', current_setting('role'), 'sub', auth.jwt() ->> 'sub'
        );
    end $$;
    -- Waits for whoever holds the lock, so that a test decides when a call ends.
    create function public.wait() returns jsonb language plpgsql as $$
    begin
        perform pg_advisory_xact_lock_shared({KEY});
        return public.whoami();
    end $$;
    create function public.fail(p_state text, p_secret text) returns jsonb language plpgsql as $$
    begin
        raise exception using errcode = p_state, message = 'about ' || p_secret;
    end $$;
    create function public.repeat_back(p_value jsonb) returns jsonb language sql as $$ select p_value $$;
    create function public.heard() returns jsonb language plpgsql as $$
    begin
        return jsonb_build_object(
            'request', gateway.request_header('x-gateway-request-id'),
            'tenant', gateway.request_header('x-gateway-tenant'),
            'policy', gateway.request_header('x-gateway-policy')
        );
    end $$;
    grant execute on function gateway.request_header(text) to authenticated, service_role;
    grant execute on function
        public.heard(), public.whoami(), public.wait(), public.fail(text, text), public.repeat_back(jsonb)
        to authenticated, service_role, authenticator;
"""


@dataclass(frozen=True)
class Side:
    """One way to the database, and users as they come with it."""

    database: Database
    user: Callable[..., Principal]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(cluster: Cluster) -> URL:
    """A migrated database with functions for these tests, for its superuser."""
    made = await cluster.create("migrated")
    connection = await asyncpg.connect(str(made))
    await connection.execute(FUNCTIONS)
    await connection.close()
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream(url: URL, postgrests: Postgrests) -> str:
    """A PostgREST in front of it."""
    return (await postgrests.serve(url)).url


@dataclass(frozen=True)
class Way:
    """One way to the database, to be opened with options of its own."""

    name: str
    url: URL
    upstream: str = ""
    postgrests: Postgrests | None = None

    @contextlib.asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[Side]:
        if self.postgrests is None:
            options = {"pooled": self.name == "pooled", "timeouts": PATIENT} | options
            direct = PostgresDatabase(login(self.url), **options)
            yield Side(direct, user_without_token)
            await direct.close()
            return
        async with Project(self.upstream) as project:
            keys = OPAQUE if self.name == "rest with keys of the new kind" else LEGACY
            rest = project.database(keys, **options)
            yield Side(rest, self.user)
            await rest.close()

    def user(self, subject: str = "", **claims: Any) -> Principal:
        subject = subject or f"user_{uuid.uuid4().hex}"
        if self.postgrests is None or self.name == "rest without session tokens":
            return user_without_token(subject, **claims)
        return self.postgrests.user(subject, **claims)


DIRECT = ["direct", "pooled"]
REST = ["rest", "rest without session tokens", "rest with keys of the new kind"]


@pytest.fixture(params=[*DIRECT, *REST])
def way(request: pytest.FixtureRequest, url: URL) -> Way:
    if request.param in DIRECT:
        return Way(request.param, url)
    return Way(request.param, url, request.getfixturevalue("upstream"), request.getfixturevalue("postgrests"))


@pytest.fixture
async def side(way: Way) -> AsyncIterator[Side]:
    async with way.open() as made:
        yield made


@pytest.fixture
def database(side: Side) -> Database:
    return side.database


@pytest.fixture
def user(side: Side) -> Callable[..., Principal]:
    return side.user


@pytest.fixture
async def boss(url: URL) -> AsyncIterator[Any]:
    """A superuser's connection to the same database."""
    connection = await asyncpg.connect(str(url))
    yield connection
    await connection.close()


async def waiting(boss: Any, count: int) -> None:
    """Wait until so many calls wait for the lock."""
    while (
        await boss.fetchval(
            "select count(*) from pg_locks where locktype = 'advisory' and not granted and objid = $1", KEY
        )
        < count
    ):
        pass


@pytest.mark.parametrize("implementation", [PostgresDatabase, SupabaseDatabase])
def test_the_implementation_has_the_ports_signatures(implementation: type) -> None:
    for name in ("call", "ping", "close"):
        assert inspect.signature(getattr(implementation, name)) == inspect.signature(getattr(Database, name))


async def test_a_function_answers_with_json(database: Database, user: Any) -> None:
    text = await database.call("list_organizations", user())
    assert json.loads(text) == {"organizations": [], "next": None}


async def test_it_answers_a_ping(database: Database) -> None:
    await database.ping()


async def test_a_call_runs_as_its_principal(database: Database, user: Any) -> None:
    caller = user()
    seen = json.loads(await database.call("whoami", caller))
    assert seen == {"user": "authenticated", "role": "authenticated", "sub": caller.subject}
    seen = json.loads(await database.call("whoami", None))
    assert seen == {"user": "service_role", "role": "service_role", "sub": None}


async def test_a_call_tells_its_request_its_tenant_and_whose_policy_it_met(
    database: Database, user: Any
) -> None:
    caller, tenant = user(), str(uuid.uuid4())
    current_request_id.set("request-1")
    untold = {"request": "request-1", "tenant": None, "policy": None}
    assert json.loads(await database.call("heard", caller)) == untold
    assert json.loads(await database.call("heard", replace(caller, tenant=tenant)))["tenant"] == tenant
    for held_to, told in ((tenant, tenant), ("", "none")):
        assert json.loads(await database.call("heard", replace(caller, held_to=held_to)))["policy"] == told
    assert json.loads(await database.call("heard", None)) == untold


async def test_every_function_of_a_tenants_life(database: Database, user: Any) -> None:
    tenant = await new_tenant(database, user(), price=3)
    assert (await tenant.call("get_organization", p_id=tenant.organization_id))["name"] == "Tenant"
    page = await tenant.call("list_organizations", p_after=None, p_limit=1)
    assert [entry["id"] for entry in page["organizations"]] == [tenant.organization_id]
    workflow = await tenant.call("get_workflow", p_id=tenant.workflow_id)
    assert workflow["credits_per_execution"] == 3
    page = await tenant.call("list_workflows", p_organization_id=tenant.organization_id, p_active=True)
    assert [entry["id"] for entry in page["workflows"]] == [tenant.workflow_id]
    assert not (await tenant.call("set_workflow_active", p_id=tenant.workflow_id, p_active=False))[
        "is_active"
    ]
    await tenant.call("set_workflow_active", p_id=tenant.workflow_id, p_active=True)
    with pytest.raises(FailedPrecondition) as refused:
        await tenant.begin()
    assert refused.value.reason == "INSUFFICIENT_CREDITS"
    assert refused.value.metadata == {"balance": "0", "price": "3"}
    added = await add_credits(database, tenant.organization_id, 10)
    assert added["balance"]["balance"] == 10
    begun = await tenant.begin(p_metadata={"source": "test"})
    assert (begun["credits"], begun["credits_remaining"]) == (3, 7)
    result = json.dumps({"answer": [1, None, "é ☃", 1.5]})
    settled = await tenant.settle(begun["execution_id"], p_result=result, p_duration_ms=5)
    assert settled == {"state": "EXECUTION_STATE_COMPLETED", "credits_used": 3, "credits_remaining": 7}
    stored = await tenant.call("get_execution", p_id=begun["execution_id"])
    assert stored["result"] == json.loads(result)
    assert stored["metadata"] == {"source": "test"}


async def outcome(side: Side, caller: Principal | None, function: str, arguments: Any) -> Any:
    """Return what a call comes to, without what differs from call to call."""
    try:
        answer = json.loads(await side.database.call(function, caller, **arguments))
    except RpcError as error:
        return type(error), error.message, error.reason, error.metadata, error.fields, error.retry_after
    return sorted(answer) if isinstance(answer, dict) else answer


async def test_every_function_fares_the_same_whichever_way_it_is_called(
    url: URL, upstream: str, postgrests: Postgrests, boss: Any
) -> None:
    rows = await boss.fetch(
        "select proname, array_agg(a.name order by i) as names,"
        " array_agg(format_type(a.type, null) order by i) as types from pg_proc left join lateral"
        " unnest(proargnames, proargtypes::oid[]) with ordinality as a (name, type, i) on true"
        " where pronamespace = 'public'::regnamespace and proname not in ('wait', 'fail', 'repeat_back')"
        " group by oid, proname"
    )
    assert len(rows) > 10
    identifier = str(uuid.uuid4())
    time, times = "2026-01-01T00:00:00Z", "timestamp with time zone"
    some: dict[str, Any] = {
        "uuid": identifier,
        times: time,
        "integer": 1,
        "text": "x",
        "jsonb": "{}",
        "boolean": True,
    }
    wrong: dict[str, Any] = {
        "uuid": "x",
        times: "never",
        "integer": "1",
        "text": 7,
        "jsonb": "{",
        "boolean": "true",
    }
    ways = Way("direct", url), Way("rest", url, upstream, postgrests)
    joined = frozenset(row["proname"] for row in rows)
    async with ways[0].open() as direct, ways[1].open() as rest, ways[0].open(joined=joined) as together:
        for row in rows:
            given = dict(zip(row["names"], row["types"], strict=True)) if row["names"][0] else {}
            calls = [
                {name: values.get(kind) for name, kind in given.items()}
                for values in (some, wrong, {}, {**some, "uuid": None}, {**some, "jsonb": "[]"})
            ]
            for as_user in (True, False):
                alone = [
                    [
                        await outcome(side, side.user() if as_user else None, row["proname"], arguments)
                        for arguments in calls
                    ]
                    for side in (direct, rest)
                ]
                assert alone[0] == alone[1], (row["proname"], as_user)
                at_once = (
                    outcome(together, together.user() if as_user else None, row["proname"], arguments)
                    for arguments in calls
                )
                assert await asyncio.gather(*at_once) == alone[0], (row["proname"], as_user)


async def test_what_a_function_refuses_comes_as_it_says(database: Database, user: Any) -> None:
    owner = user()
    slug = uuid.uuid4().hex
    await database.call("create_organization", owner, p_organization={"name": "Acme", "slug": slug})
    with pytest.raises(AlreadyExists) as raised:
        await database.call("create_organization", owner, p_organization={"name": "Acme", "slug": slug})
    assert raised.value.message == "Another organization has this already."
    assert raised.value.reason == "ALREADY_EXISTS"
    assert raised.value.fields == {"slug": "is taken"}
    with pytest.raises(NotFound) as missing:
        await database.call("get_organization", owner, p_id=str(uuid.uuid4()))
    assert missing.value.reason == "ORGANIZATION_NOT_FOUND"


async def test_a_function_of_the_gateway_alone_is_denied_to_users(database: Database, user: Any) -> None:
    with pytest.raises(PermissionDenied):
        await database.call(
            "add_credits", user(), p_organization_id=str(uuid.uuid4()), p_amount=1, p_reference="mine"
        )


async def test_a_tenant_reaches_nothing_of_another(database: Database, user: Any) -> None:
    mine, other = [await new_tenant(database, user(), balance=5) for _ in range(2)]
    begun = await other.begin()
    for function, arguments in (
        ("get_organization", {"p_id": other.organization_id}),
        ("list_workflows", {"p_organization_id": other.organization_id}),
        ("get_workflow", {"p_id": other.workflow_id}),
        ("set_workflow_active", {"p_id": other.workflow_id, "p_active": False}),
        ("get_execution", {"p_id": begun["execution_id"]}),
    ):
        with pytest.raises(NotFound):
            await mine.call(function, **arguments)
    with pytest.raises(NotFound):
        await mine.begin(p_organization_id=other.organization_id, p_workflow_id=other.workflow_id)


async def test_objects_and_json_text_are_the_same_argument(database: Database, user: Any) -> None:
    for given in ({"name": "Äcme"}, '{"name": "Äcme"}'):
        made = json.loads(await database.call("create_organization", user(), p_organization=given))
        assert made["name"] == "Äcme"


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -2.5, 1e+20, null, true, "x"]}',
        '"text"',
        "7",
        "[]",
        "12345678901234567890",
        '"{\\"a\\": 1}"',
    ],
)
async def test_json_text_of_every_kind_arrives_as_it_is(database: Database, user: Any, text: str) -> None:
    assert json.loads(await database.call("repeat_back", user(), p_value=text)) == json.loads(text)


async def test_large_values_pass(database: Database, user: Any) -> None:
    value = {"text": "☃" * 300_000}
    assert json.loads(await database.call("repeat_back", user(), p_value=value)) == value


@pytest.mark.parametrize("value", ["", "x", "01890000-0000-7000-8000", 7, True, [], {}, "'; select 1 --"])
async def test_a_value_of_the_wrong_type_is_named(database: Database, user: Any, value: Any) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await database.call("get_workflow", user(), p_id=value)
    assert list(raised.value.fields) == ["id"]


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, "x"])
async def test_a_number_out_of_range_is_named(database: Database, user: Any, value: Any) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await database.call("list_organizations", user(), p_limit=value)
    assert list(raised.value.fields) == ["limit"]


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
async def test_text_that_cannot_be_stored_is_refused(database: Database, user: Any, name: str) -> None:
    with pytest.raises(InvalidArgument):
        await database.call("create_organization", user(), p_organization=json.dumps({"name": name}))
    with pytest.raises(InvalidArgument):
        await database.call("fail", user(), p_state="GW400", p_secret=name)


@pytest.mark.parametrize("value", ["{", "", "{'name': 1}", "NaN", '{"name": Infinity}', "{}{}"])
async def test_text_that_is_no_json_is_refused(database: Database, user: Any, value: str) -> None:
    with pytest.raises(InvalidArgument):
        await database.call("create_organization", user(), p_organization=value)


async def test_a_rule_of_a_table_names_its_field(database: Database, user: Any) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await database.call("create_organization", user(), p_organization={"name": "x" * 1000})
    assert list(raised.value.fields) == ["name"]


async def test_a_fault_of_the_gateway_has_no_text_and_is_logged(database: Database, user: Any) -> None:
    with capture_logs() as logs, pytest.raises(Internal) as raised:
        await database.call("no_such_function", user(), p_secret="hunter2")
    assert "no_such_function" not in raised.value.message
    assert [entry["sqlstate"] for entry in logs] == ["42883"]
    assert "hunter2" not in str(logs)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("40P01", "Aborted"),
        ("53300", "Unavailable"),
        ("57014", "Unavailable"),
        ("57P01", "Unavailable"),
        ("25006", "Unavailable"),
        ("55P03", "Unavailable"),
        ("22023", "InvalidArgument"),
        ("23514", "InvalidArgument"),
        ("23505", "Internal"),
        ("42P01", "Internal"),
        ("P0001", "Internal"),
        ("XX000", "Internal"),
        ("GW999", "Internal"),
    ],
)
async def test_what_postgres_raises_has_its_place(
    database: Database, user: Any, state: str, kind: str
) -> None:
    with pytest.raises(RpcError) as raised:
        await database.call("fail", user(), p_state=state, p_secret="hunter2")
    assert type(raised.value).__name__ == kind
    assert (raised.value.retry_after is not None) == (kind == "Unavailable")
    assert "hunter2" not in repr(vars(raised.value))


async def test_values_reach_neither_errors_nor_logs(database: Database, user: Any) -> None:
    with capture_logs() as logs:
        for function, arguments in (
            ("get_workflow", {"p_id": "hunter2"}),
            ("create_organization", {"p_organization": {"name": "hunter2" * 20}}),
            ("create_organization", {"p_organization": {"name": "a", "is_active": "hunter2"}}),
            ("create_organization", {"p_organization": '{"name": "hunter2"'}),
        ):
            with pytest.raises(InvalidArgument) as raised:
                await database.call(function, user(), **arguments)
            chain = [raised.value, raised.value.__cause__]
            assert "hunter2" not in repr([(error, vars(error)) for error in chain if error])
            assert raised.value.__suppress_context__
    assert "hunter2" not in str(logs)


@pytest.mark.parametrize("name", ["get_workflow()--", "pg_catalog.pg_sleep", "Get", "", "a b", "x" * 64])
async def test_a_name_that_is_none_is_refused(database: Database, user: Any, name: str) -> None:
    with pytest.raises(ValueError, match="not a name of SQL"):
        await database.call(name, user())
    with pytest.raises(ValueError, match="not a name of SQL"):
        await database.call("get_workflow", user(), **{name: 1})


async def test_200_calls_of_two_tenants_at_once_never_mix(way: Way) -> None:
    async with way.open(max_connections=4) as side:
        tenants = [await new_tenant(side.database, side.user()) for _ in range(2)]

        async def listed(number: int) -> bool:
            tenant, other = tenants[number % 2], tenants[1 - number % 2]
            text = await side.database.call("list_organizations", tenant.owner)
            with pytest.raises(NotFound):
                await side.database.call("get_workflow", tenant.owner, p_id=other.workflow_id)
            return [entry["id"] for entry in json.loads(text)["organizations"]] == [tenant.organization_id]

        assert all(await asyncio.gather(*(listed(number) for number in range(200))))


async def test_reads_of_two_tenants_that_go_together_never_mix(url: URL) -> None:
    """Also when some of them fail, after which all are made again."""
    async with Way("direct", url).open(max_connections=4, joined=JOINED) as side:
        tenants = [await new_tenant(side.database, side.user()) for _ in range(2)]

        async def listed(number: int) -> list[str]:
            tenant, other = tenants[number % 2], tenants[1 - number % 2]
            named = other.organization_id if number % 7 == 0 else None
            try:
                text = await side.database.call("list_workflows", tenant.owner, p_organization_id=named)
            except NotFound:
                return []
            return [workflow["id"] for workflow in json.loads(text)["workflows"]]

        async def got(number: int) -> bool:
            tenant, wanted = tenants[number % 2], tenants[number // 2 % 2]
            try:
                text = await side.database.call("get_workflow", tenant.owner, p_id=wanted.workflow_id)
            except NotFound:
                return False
            return bool(json.loads(text)["id"] == wanted.workflow_id)

        seen = await asyncio.gather(*(listed(number) for number in range(200)))
        assert seen == [[tenants[n % 2].workflow_id] if n % 7 else [] for n in range(200)]
        found = await asyncio.gather(*(got(number) for number in range(200)))
        assert found == [n % 2 == n // 2 % 2 for n in range(200)]


async def test_a_cancelled_call_ends_at_once_and_disturbs_nobody(
    database: Database, user: Any, boss: Any
) -> None:
    await boss.execute(f"select pg_advisory_lock({KEY})")
    call = asyncio.create_task(database.call("wait", user()))
    await waiting(boss, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    # The lock is still held.
    caller = user()
    assert json.loads(await database.call("whoami", caller))["sub"] == caller.subject
    await boss.execute(f"select pg_advisory_unlock({KEY})")


async def test_calls_cancelled_anywhere_are_cancelled_and_answer_nobody_else(way: Way) -> None:
    dice = random.Random(7)
    async with way.open(max_connections=3) as side:
        await side.database.ping()

        async def call_or_cancel() -> None:
            caller = side.user()
            task = asyncio.create_task(side.database.call("whoami", caller))
            for _ in range(dice.randrange(40)):
                await asyncio.sleep(0)
            if dice.random() < 0.7 and task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                assert json.loads(await task)["sub"] == caller.subject

        for _ in range(15):
            await asyncio.gather(*(call_or_cancel() for _ in range(15)))


async def test_closing_ends_calls_under_way(database: Database, user: Any, boss: Any) -> None:
    await boss.execute(f"select pg_advisory_lock({KEY})")
    calls = [asyncio.create_task(database.call("wait", user())) for _ in range(3)]
    await waiting(boss, 3)
    await database.close()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [Unavailable] * 3
    await boss.execute(f"select pg_advisory_unlock({KEY})")


async def test_after_closing_it_is_unavailable(database: Database) -> None:
    await database.ping()
    await database.close()
    await database.close()
    with pytest.raises(Unavailable):
        await database.ping()


async def test_a_users_signed_call_is_told_whichever_way_it_goes(
    database: Database, user: Any, boss: Any
) -> None:
    """A session token cannot say so: the gateway speaks for itself then."""
    caller = user()
    made = json.loads(await database.call("create_organization", caller, p_organization={"name": "Signed"}))
    await boss.execute(
        "update organizations set auth_policy = 'AUTH_POLICY_JWT_AND_SIGNED' where id = $1",
        uuid.UUID(made["id"]),
    )
    with pytest.raises(PermissionDenied) as refused:
        await database.call("list_members", caller, p_organization_id=made["id"])
    assert refused.value.reason == "AUTH_POLICY"
    claims = json.loads(caller.claims) | {"gateway_signed": {"organization_id": made["id"], "version": 2}}
    signed = replace(caller, claims=json.dumps(claims), token=None)
    assert json.loads(await database.call("list_members", signed, p_organization_id=made["id"]))["members"]
