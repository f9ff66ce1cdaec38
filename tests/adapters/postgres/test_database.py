"""The direct implementation: roles and claims of one statement; connections that break, block and run out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import uuid_utils
from structlog.testing import capture_logs
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase, Timeouts
from gateway.rpc.errors import Internal, InvalidArgument, NotFound, PermissionDenied, Unavailable
from gateway.rpc.principal import Principal
from tests.adapters.databases import Cluster, Tenant, login, new_tenant, user

KEY = 4711
FUNCTIONS = f"""
    create function public.whoami() returns jsonb language plpgsql as $$
    begin
        return jsonb_build_object(
            'user', current_user, 'role', current_setting('role'),
            'sub', auth.jwt() ->> 'sub', 'pid', pg_backend_pid()
        );
    end $$;
    -- Waits for whoever holds the lock, so that a test decides when a call ends.
    create function public.wait() returns jsonb language plpgsql as $$
    begin
        perform pg_advisory_xact_lock_shared({KEY});
        return public.whoami();
    end $$;
    create function public.wait_as(p_state text) returns jsonb language plpgsql as $$
    begin
        if p_state is null then
            perform pg_advisory_xact_lock_shared({KEY});
        elsif p_state = 'wait' then
            perform pg_advisory_xact_lock_shared({KEY + 1});
        else
            raise exception using errcode = p_state;
        end if;
        return public.whoami() || jsonb_build_object('transaction', pg_current_xact_id()::text);
    end $$;
    grant execute on function public.whoami(), public.wait(), public.wait_as(text)
        to authenticated, service_role, authenticator;
"""
NEVER_WAITING = Timeouts(wait=0.01)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def workbench(cluster: Cluster) -> URL:
    """A migrated database with functions for these tests."""
    url = await cluster.create("migrated")
    connection = await asyncpg.connect(str(url))
    await connection.execute(FUNCTIONS)
    await connection.close()
    return url


@pytest.fixture
async def boss(workbench: URL) -> AsyncIterator[Any]:
    """A superuser's connection to the same database."""
    connection = await asyncpg.connect(str(workbench))
    yield connection
    await connection.close()


@contextlib.asynccontextmanager
async def connected(workbench: URL, **options: Any) -> AsyncIterator[PostgresDatabase]:
    database = PostgresDatabase(login(workbench), **options)
    try:
        yield database
    finally:
        await database.close()


async def whoami(database: PostgresDatabase, principal: Principal | None = None) -> Any:
    return json.loads(await database.call("whoami", principal))


async def until(condition: Callable[[], bool]) -> None:
    """Let everything else run until it is so."""
    while not condition():  # noqa: ASYNC110 - nobody tells when it is
        await asyncio.sleep(0)


async def held(boss: Any) -> None:
    await boss.execute(f"select pg_advisory_lock({KEY})")


async def let_go(boss: Any) -> None:
    await boss.execute(f"select pg_advisory_unlock({KEY})")


async def waiting(boss: Any, count: int) -> list[int]:
    """Wait until so many calls wait for the lock; their backends."""
    while True:
        rows = await boss.fetch(
            "select pid from pg_locks where locktype = 'advisory' and not granted and objid = $1"
            " and database = (select oid from pg_database where datname = current_database())",
            KEY,
        )
        if len(rows) == count:
            return [row["pid"] for row in rows]


async def test_a_call_runs_as_its_principal(workbench: URL) -> None:
    async with connected(workbench) as database:
        caller = user()
        seen = await whoami(database, caller)
        assert (seen["user"], seen["role"], seen["sub"]) == ("authenticated", "authenticated", caller.subject)
        seen = await whoami(database)
        assert (seen["user"], seen["role"], seen["sub"]) == ("service_role", "service_role", None)


@pytest.mark.parametrize("pooled", [False, True])
async def test_role_and_claims_end_with_the_statement(workbench: URL, *, pooled: bool) -> None:
    async with connected(workbench, max_connections=1, pooled=pooled) as database:
        for _ in range(8):
            first = await whoami(database, user())
            connection = await database._connections.acquire()
            left: Any = await connection.fetchrow(
                "select current_user, current_setting('role'), current_setting('request.jwt.claims', true),"
                " pg_backend_pid()"
            )
            database._connections.release(connection)
            assert tuple(left) == ("authenticator", "none", "", first["pid"])


async def test_they_end_with_a_statement_that_fails_too(workbench: URL) -> None:
    async with connected(workbench, max_connections=1) as database:
        with pytest.raises(Exception, match="name: is missing"):
            await database.call("create_organization", user(), p_organization={})
        connection = await database._connections.acquire()
        assert await connection.fetchval(
            "select current_user || current_setting('request.jwt.claims', true)"
        ) == ("authenticator")


async def test_without_a_role_nothing_is_reached(workbench: URL) -> None:
    """Forgetting to set it fails closed."""
    async with connected(workbench) as database:
        tenant = await new_tenant(database)
        connection = await database._connections.acquire()
        for statement in (
            "select * from organizations",
            "select * from credit_entries",
            "insert into profiles (id) values ('x')",
            f"select get_workflow('{tenant.workflow_id}')",
            "select list_organizations()",
            f"select gateway.refund('{tenant.organization_id}', '{tenant.workflow_id}', 1)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(statement)
        for statement, state in (
            (f"select add_credits('{tenant.organization_id}', 1, 'x')", "GW403"),
            (f"select settle_execution('{tenant.workflow_id}', 'EXECUTION_STATE_FAILED')", "GW403"),
            (f"select begin_execution('{tenant.workflow_id}')", "GW401"),
        ):
            with pytest.raises(asyncpg.PostgresError) as raised:
                await connection.fetch(statement)
            assert raised.value.sqlstate == state
        database._connections.release(connection)


async def test_a_pooled_connection_keeps_no_statements(workbench: URL) -> None:
    for pooled, kept in ((True, 0), (False, 1)):
        async with connected(workbench, max_connections=1, pooled=pooled) as database:
            await whoami(database)
            connection = await database._connections.acquire()
            names = await connection.fetch(
                "select name from pg_prepared_statements where statement like 'select public.whoami%'"
            )
            database._connections.release(connection)
            assert len(names) == kept


async def test_it_makes_no_more_connections_than_it_may(workbench: URL, boss: Any) -> None:
    async with connected(workbench, max_connections=3) as database:
        await held(boss)
        calls = [asyncio.create_task(database.call("wait", user())) for _ in range(20)]
        await waiting(boss, 3)
        await let_go(boss)
        answers = [json.loads(answer) for answer in await asyncio.gather(*calls)]
        assert len({answer["pid"] for answer in answers}) <= 3


async def test_start_makes_the_first_connections(workbench: URL) -> None:
    async with connected(workbench, min_connections=2, max_connections=4) as database:
        await database.start()
        assert len(database._connections._all) == 2


async def test_who_finds_none_free_in_time_is_told(workbench: URL, boss: Any) -> None:
    async with connected(workbench, max_connections=1, timeouts=NEVER_WAITING) as database:
        await held(boss)
        call = asyncio.create_task(database.call("wait", user()))
        await waiting(boss, 1)
        with pytest.raises(Unavailable) as raised:
            await database.ping()
        assert raised.value.retry_after
        await let_go(boss)
        await call
        await database.ping()


async def test_a_cancelled_call_gives_no_busy_connection_back(workbench: URL, boss: Any) -> None:
    async with connected(workbench, max_connections=1) as database:
        await held(boss)
        call = asyncio.create_task(database.call("wait", user()))
        await waiting(boss, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        # The lock is still held: the server has given the statement up.
        assert (await whoami(database))["user"] == "service_role"
        await let_go(boss)


async def test_a_cancelled_waiter_leaves_its_place_to_the_next(workbench: URL, boss: Any) -> None:
    async with connected(workbench, max_connections=1) as database:
        await held(boss)
        first = asyncio.create_task(database.call("wait", user()))
        await waiting(boss, 1)
        cancelled = [asyncio.create_task(database.ping()) for _ in range(3)]
        last = asyncio.create_task(whoami(database))
        await until(lambda: len(database._connections._waiting) == 4)
        for task in cancelled:
            task.cancel()
        await let_go(boss)
        await first
        assert (await last)["user"] == "service_role"
        assert all(
            isinstance(end, asyncio.CancelledError)
            for end in await asyncio.gather(*cancelled, return_exceptions=True)
        )


async def test_calls_cancelled_anywhere_leave_everything_in_order(workbench: URL) -> None:
    dice = random.Random(7)
    async with connected(workbench, max_connections=3) as database:

        async def call_or_cancel() -> None:
            caller = user()
            task = asyncio.create_task(whoami(database, caller))
            for _ in range(dice.randrange(12)):
                await asyncio.sleep(0)
            if dice.random() < 0.7:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert (await task)["sub"] == caller.subject

        for _ in range(20):
            await asyncio.gather(*(call_or_cancel() for _ in range(15)))
        connections = database._connections
        while connections._recovering:
            await asyncio.gather(*connections._recovering)
        assert not connections._waiting
        assert connections._connecting == 0
        assert len(connections._all) == len(connections._idle) <= 3
        for _ in range(3):
            assert (await whoami(database))["user"] == "service_role"


async def test_a_killed_connection_is_unavailable_and_replaced(workbench: URL, boss: Any) -> None:
    async with connected(workbench, max_connections=1) as database:
        await held(boss)
        call = asyncio.create_task(database.call("wait", user()))
        (pid,) = await waiting(boss, 1)
        await boss.execute("select pg_terminate_backend($1)", pid)
        with pytest.raises(Unavailable) as raised:
            await call
        assert raised.value.retry_after
        assert (await whoami(database))["pid"] != pid
        await let_go(boss)


async def test_who_waits_behind_a_killed_connection_gets_a_new_one(workbench: URL, boss: Any) -> None:
    async with connected(workbench, max_connections=1) as database:
        await held(boss)
        call = asyncio.create_task(database.call("wait", user()))
        (pid,) = await waiting(boss, 1)
        behind = asyncio.create_task(whoami(database))
        await until(lambda: bool(database._connections._waiting))
        await boss.execute("select pg_terminate_backend($1)", pid)
        with pytest.raises(Unavailable):
            await call
        assert (await behind)["pid"] != pid
        await let_go(boss)


async def test_idle_connections_that_were_cut_are_replaced(workbench: URL, boss: Any) -> None:
    async with connected(workbench, min_connections=3) as database:
        await database.start()
        connections = [connection for connection, _ in database._connections._idle]
        await boss.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'n8n-gateway'"
            " and datname = current_database()"
        )
        await until(lambda: all(connection.is_closed() for connection in connections))
        assert (await whoami(database))["user"] == "service_role"


async def test_a_connection_that_was_idle_long_is_asked_first(workbench: URL) -> None:
    async with connected(workbench, max_connections=1) as database:
        before = await whoami(database)
        database._connections._idle_seconds = 0
        assert await whoami(database) == before
        connection: Any = database._connections._idle[0][0]
        assert [query for query in connection._stmt_cache.iter_statements() if query.query == "select 1"]


async def test_a_statement_that_takes_too_long_is_unavailable(workbench: URL, boss: Any) -> None:
    async with connected(workbench, max_connections=1, timeouts=Timeouts(statement=0.05)) as database:
        await held(boss)
        with pytest.raises(Unavailable):
            await database.call("wait", user())
        assert (await whoami(database))["user"] == "service_role"
        await let_go(boss)


async def test_a_server_that_falls_silent_is_unavailable(
    workbench: URL, boss: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last resort is the client's own clock: a pooled connection has no limit on the server."""
    monkeypatch.setattr("gateway.adapters.postgres.database._GRACE_SECONDS", 0.0)
    timeouts = Timeouts(statement=0.05)
    async with connected(workbench, max_connections=1, pooled=True, timeouts=timeouts) as database:
        await held(boss)
        with pytest.raises(Unavailable):
            await database.call("wait", user())
        assert (await whoami(database))["user"] == "service_role"
        await let_go(boss)


async def test_a_server_that_never_answers_is_unavailable() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    database = PostgresDatabase(f"postgresql://u:p@127.0.0.1:{port}/d", timeouts=Timeouts(connect=0.05))
    with pytest.raises(Unavailable):
        await database.ping()
    await database.close()
    server.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    database = PostgresDatabase(f"postgresql://u:hunter2@127.0.0.1:{port}/d")
    with capture_logs() as logs, pytest.raises(Unavailable) as raised:
        await database.ping()
    assert raised.value.retry_after
    assert "hunter2" not in f"{logs} {vars(raised.value)} {database!r}"
    await database.close()


@pytest.mark.parametrize("wrong", [{"password": "hunter2"}, {"user": "nobody"}, {"path": "/nothing"}])
async def test_being_refused_is_unavailable_and_tells_no_secret(
    workbench: URL, wrong: dict[str, str]
) -> None:
    url = URL(login(workbench))
    for part, value in wrong.items():
        url = url.with_path(value) if part == "path" else getattr(url, f"with_{part}")(value)
    database = PostgresDatabase(str(url))
    with capture_logs() as logs, pytest.raises(Unavailable) as raised:
        await database.ping()
    assert logs
    assert "hunter2" not in f"{logs} {vars(raised.value)}"
    await database.close()


async def test_too_many_connections_are_unavailable(cluster: Cluster) -> None:
    url = await cluster.create("migrated")
    connection = await asyncpg.connect(str(url))
    await connection.execute(f'alter database "{url.path[1:]}" connection limit 1')
    await connection.close()
    async with connected(url) as first, connected(url) as second:
        await first.ping()
        with pytest.raises(Unavailable):
            await second.ping()
        await first.close()
        while True:
            with contextlib.suppress(Unavailable):
                await second.ping()
                break


async def test_closing_ends_calls_under_way_and_waiting(workbench: URL, boss: Any) -> None:
    database = PostgresDatabase(login(workbench), max_connections=1)
    await held(boss)
    calls = [asyncio.create_task(database.call("wait", user())) for _ in range(3)]
    await waiting(boss, 1)
    await database.close()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [Unavailable] * 3
    await let_go(boss)


async def test_a_database_without_the_schema_is_not_ready(cluster: Cluster) -> None:
    async with connected(await cluster.create()) as database:
        with pytest.raises(Unavailable, match="The schema is missing: run `n8n-gateway migrate`") as raised:
            await database.ping()
        assert raised.value.reason == "SCHEMA_MISSING"
        with pytest.raises(Internal) as failed:
            await database.call("list_organizations", None)
        assert (failed.value.reason, failed.value.message) == (
            "SCHEMA_MISSING",
            "The call failed inside the gateway.",
        )


async def together(database: PostgresDatabase, boss: Any, calls: Sequence[Awaitable[str]]) -> list[Any]:
    """What becomes of calls of `wait_as` that come together while one is under way, once that has ended."""
    await held(boss)
    first = asyncio.create_task(database.call("wait_as", user(), p_state=None))
    await waiting(boss, 1)
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    await let_go(boss)
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls wait for the one under way, however long that takes."""
    monkeypatch.setattr("gateway.adapters.postgres.batches.LONGEST_WAIT_SECONDS", 3600.0)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("pooled", [False, True])
async def test_calls_that_go_together_run_as_their_own_principals(
    workbench: URL, boss: Any, *, pooled: bool
) -> None:
    async with connected(workbench, joined=["wait_as"], pooled=pooled) as database:
        for _ in range(2):
            callers = [user() for _ in range(5)]
            ends = await together(
                database, boss, [database.call("wait_as", caller, p_state=None) for caller in callers]
            )
            seen = [json.loads(end) for end in ends]
            assert [one["sub"] for one in seen] == [caller.subject for caller in callers]
            assert {one["user"] for one in seen} == {"authenticated"}
            assert len({(one["pid"], one["transaction"]) for one in seen}) == 1
        connection = await database._connections.acquire()
        left: Any = await connection.fetchrow(
            "select current_user, current_setting('role'), current_setting('request.jwt.claims', true),"
            " current_setting('lock_timeout')"
        )
        database._connections.release(connection)
        assert tuple(left) == ("authenticator", "none", "", "0")


@pytest.mark.usefixtures("patient")
async def test_one_that_fails_fails_alone(workbench: URL, boss: Any) -> None:
    async with connected(workbench, joined=["wait_as"]) as database:
        states = [None, "GW404", None, 7, "22P02", None]
        calls = [database.call("wait_as", user(), p_state=state) for state in states]
        ends = await together(database, boss, calls)
        assert [type(end) for end in ends] == [str, NotFound, str, InvalidArgument, InvalidArgument, str]
        assert list(ends[3].fields) == ["state"]
        alone = [json.loads(end)["transaction"] for end in ends if isinstance(end, str)]
        assert len(set(alone)) == 3


@pytest.mark.usefixtures("patient")
async def test_one_that_waits_for_a_lock_does_not_keep_the_others(workbench: URL, boss: Any) -> None:
    async with connected(workbench, joined=["wait_as"]) as database:
        await boss.execute(f"select pg_advisory_lock({KEY + 1})")
        states = [None, "wait", None]
        tasks = [asyncio.ensure_future(database.call("wait_as", user(), p_state=state)) for state in states]
        done = await asyncio.gather(tasks[0], tasks[2])
        assert [type(end) for end in done] == [str, str]
        assert not tasks[1].done()
        await boss.execute(f"select pg_advisory_unlock({KEY + 1})")
        assert json.loads(await tasks[1])["user"] == "authenticated"


@pytest.mark.usefixtures("patient")
async def test_calls_that_break_off_together_are_unavailable_each(workbench: URL, boss: Any) -> None:
    async with connected(workbench, joined=["wait_as"]) as database:
        states = [None, "57P01", None]
        ends = await together(
            database, boss, [database.call("wait_as", user(), p_state=state) for state in states]
        )
        assert [type(end) for end in ends] == [Unavailable] * 3
        assert len({id(end) for end in ends}) == 3


@pytest.mark.usefixtures("patient")
async def test_who_may_not_call_a_function_may_not_together_with_others(workbench: URL, boss: Any) -> None:
    async with connected(workbench, joined=["wait_as"]) as database:
        await boss.execute("revoke execute on function public.wait_as(text) from public, authenticated")
        calls = (database.call("wait_as", user(), p_state=None) for _ in range(3))
        ends = await asyncio.gather(*calls, return_exceptions=True)
        await boss.execute("grant execute on function public.wait_as(text) to authenticated")
        assert [type(end) for end in ends] == [PermissionDenied] * 3


@pytest.mark.usefixtures("patient")
async def test_closing_ends_calls_that_go_together(workbench: URL, boss: Any) -> None:
    database = PostgresDatabase(login(workbench), joined=["wait_as"])
    await held(boss)
    calls = [asyncio.create_task(database.call("wait_as", user(), p_state=None)) for _ in range(4)]
    await waiting(boss, 1)
    await database.close()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [Unavailable] * 4
    await let_go(boss)


@pytest.mark.usefixtures("patient")
async def test_runs_of_several_organizations_lock_no_two_in_another_order(
    workbench: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gateways begin runs, and give back what they reserved, for the same organizations at one time."""
    failures: list[asyncpg.PostgresError] = []

    def is_one_calls(error: asyncpg.PostgresError) -> bool:
        failures.append(error)
        return True

    monkeypatch.setattr("gateway.adapters.postgres.database.is_one_calls", is_one_calls)
    # Postgres looks for deadlocks after a second: who gives up before that is in none.
    monkeypatch.setattr("gateway.adapters.postgres.statements._LOCK_TIMEOUT", "1min")
    dice, joined = random.Random(11), ["begin_execution", "settle_execution"]
    async with connected(workbench, joined=joined) as one, connected(workbench, joined=joined) as other:
        tenants = [await new_tenant(one, balance=1000, price=1) for _ in range(6)]

        async def run(database: PostgresDatabase, tenant: Tenant) -> None:
            execution_id = str(uuid_utils.uuid7())
            caller = replace(tenant.owner, held_to=tenant.organization_id)
            await database.call(
                "begin_execution",
                caller,
                p_execution_id=execution_id,
                p_workflow_id=tenant.workflow_id,
            )
            await database.call(
                "settle_execution",
                None,
                p_execution_id=execution_id,
                p_state="EXECUTION_STATE_FAILED",
                p_organization_id=tenant.organization_id,
            )

        for _ in range(5):
            runs = [run(database, tenant) for database in (one, other) for tenant in tenants * 3]
            dice.shuffle(runs)
            await asyncio.gather(*runs)
        for tenant in tenants:
            account = await tenant.call("get_credit_balance", p_organization_id=tenant.organization_id)
            assert (account["balance"], account["reserved"]) == (1000, 0)
    assert failures == []
