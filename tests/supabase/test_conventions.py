"""Rules that every table and function of the schema keeps, read from the catalogue."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from typing import Any

from gateway.adapters.postgres.migrations import migrations
from gateway.app.surroundings import JOINED

OURS = "('public', 'gateway')"
# Inlined by Postgres, which it does only with functions that have no settings.
INLINED = {
    "clerk_organization",
    "clerk_role",
    "is_held",
    "is_metadata",
    "is_runner",
    "key_organization",
    "page_size",
    "request_header",
    "role_rank",
    "workflow_json",
}
# Called for each run and each read, with plans that may be older than the tables' sizes.
BY_INDEX = {
    "begin_execution",
    "find_runner",
    "get_execution",
    "get_workflow",
    "list_workflows",
    "number_end",
    "renew_leases",
    "settle_execution",
    "start_execution",
}


async def column(superuser: Any, query: str) -> list[str]:
    return [row[0] for row in await superuser.fetch(query)]


def test_no_two_migrations_have_one_version() -> None:
    """The second one would never be applied."""
    versions = Counter(migration.version for migration in migrations())
    assert [version for version, count in versions.items() if count > 1] == []


async def test_every_table_has_row_level_security(superuser: Any) -> None:
    assert (
        await column(
            superuser,
            f"select relname from pg_class where relnamespace::regnamespace::text in {OURS}"
            " and relkind in ('r', 'p') and not relrowsecurity",
        )
        == []
    )


async def test_policies_only_read_and_evaluate_the_caller_once(superuser: Any) -> None:
    policies = await superuser.fetch("select * from pg_policies")
    assert policies
    for policy in policies:
        assert policy["roles"] == ["authenticated"], policy["policyname"]
        assert policy["cmd"] == "SELECT", policy["policyname"]
        assert "( SELECT " in policy["qual"], policy["policyname"]


async def test_nothing_is_open_to_everybody(superuser: Any) -> None:
    """Also not to anon, to which the database gives new objects by default, as a hosted project does."""
    assert (
        await column(
            superuser,
            f"select proname from pg_proc where pronamespace::regnamespace::text in {OURS}"
            " and has_function_privilege('anon', oid, 'execute')",
        )
        == []
    )
    assert (
        await column(
            superuser,
            f"select relname from pg_class where relnamespace::regnamespace::text in {OURS}"
            " and relkind in ('r', 'p', 'v', 'm') and has_table_privilege('anon', oid,"
            " 'select, insert, update, delete, truncate, references, trigger')",
        )
        == []
    )
    assert await superuser.fetchval("select has_schema_privilege('anon', 'gateway', 'usage')") is False


async def test_tables_are_only_read_through_their_roles(superuser: Any) -> None:
    for role in ("authenticated", "service_role"):
        assert (
            await column(
                superuser,
                "select relname from pg_class where relnamespace = 'public'::regnamespace"
                f" and relkind in ('r', 'p') and has_table_privilege('{role}', oid,"
                " 'insert, update, delete, truncate, references, trigger')",
            )
            == []
        )


async def test_authenticator_may_start_what_its_roles_may_call(superuser: Any) -> None:
    rows = await superuser.fetch(
        "select proname, has_function_privilege('authenticator', oid, 'execute') as may,"
        " has_function_privilege('authenticated', oid, 'execute')"
        " or has_function_privilege('service_role', oid, 'execute') as needed"
        " from pg_proc where pronamespace = 'public'::regnamespace"
    )
    assert [row["proname"] for row in rows if row["may"] != row["needed"]] == []


async def test_functions_have_an_empty_search_path(superuser: Any) -> None:
    assert (
        set(
            await column(
                superuser,
                f"select proname from pg_proc where pronamespace::regnamespace::text in {OURS}"
                " and not coalesce(proconfig, '{}') @> array['search_path=\"\"']",
            )
        )
        == INLINED
    )


async def test_what_is_called_for_several_callers_at_once_is_never_inlined(superuser: Any) -> None:
    """A policy that became part of the statement would be evaluated once, for the first of them."""
    languages = await superuser.fetch(
        "select p.proname, l.lanname from pg_proc p join pg_language l on l.oid = p.prolang"
        " where p.pronamespace = 'public'::regnamespace and p.proname = any ($1)",
        JOINED,
    )
    assert sorted(map(tuple, languages)) == sorted((name, "plpgsql") for name in JOINED)


async def test_what_each_call_needs_is_planned_by_index(superuser: Any) -> None:
    """Setting a function's body anew drops its settings."""
    assert (
        set(
            await column(
                superuser, "select proname from pg_proc where proconfig @> array['enable_seqscan=off']"
            )
        )
        == BY_INDEX
    )
    once = "select proname from pg_proc where proconfig @> array['plan_cache_mode=force_generic_plan']"
    assert set(await column(superuser, once)) == {"begin_execution", "settle_execution"}


async def test_everything_has_a_comment(superuser: Any) -> None:
    assert (
        await column(
            superuser,
            f"select relname from pg_class where relnamespace::regnamespace::text in {OURS}"
            " and relkind in ('r', 'p') and obj_description(oid, 'pg_class') is null"
            f" union all select proname from pg_proc where pronamespace::regnamespace::text in {OURS}"
            " and obj_description(oid, 'pg_proc') is null",
        )
        == []
    )


async def test_a_reference_to_a_parent_is_indexed(superuser: Any) -> None:
    """Except those to rows that are never deleted, from tables where an index would cost each run."""
    missing = await column(
        superuser,
        "select conname from pg_constraint c where contype = 'f' and connamespace = 'public'::regnamespace"
        " and not exists (select from pg_index i where i.indrelid = c.conrelid"
        " and (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey)",
    )
    assert set(missing) == {
        "credit_entries_organization_id_reverses_fkey",
        "organizations_default_workflow_id_fkey",
    }


async def test_a_run_that_completes_is_written_over_in_place(superuser: Any) -> None:
    """No index looks at what that changes, so that none has to be told of it."""
    assert (
        await column(
            superuser,
            "select distinct attname from pg_attribute a join pg_index i on i.indrelid = a.attrelid"
            " where attrelid = 'executions'::regclass and attname in ('state', 'credits_used',"
            " 'credits_reserved', 'credits_remaining', 'execution_time_ms', 'result', 'result_truncated',"
            " 'error', 'last_sequence', 'finished_at')"
            r" and pg_get_indexdef(indexrelid) ~ ('\m' || attname || '\M')",
        )
        == []
    )


async def test_ids_are_version_7_and_in_order(superuser: Any) -> None:
    before = time.time_ns() // 1_000_000
    ids: list[uuid.UUID] = []
    for _ in range(200):
        ids.append(uuid.UUID(str(await superuser.fetchval("select gateway.uuid_v7()"))))
        await asyncio.sleep(0)
    after = time.time_ns() // 1_000_000
    assert {(made.version, made.variant) for made in ids} == {(7, uuid.RFC_4122)}
    assert all(before <= made.int >> 80 <= after for made in ids)
    assert ids == sorted(ids)
    assert len({made.int & (1 << 62) - 1 for made in ids}) == len(ids)
