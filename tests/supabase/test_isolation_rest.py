"""The matrix of test_isolation through a real PostgREST, as whoever has a token could try it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gateway.adapters.supabase.tokens import Signer
from gateway.rpc.principal import Kind
from tests.adapters.postgrest import JWT_SECRET, OPAQUE, Postgrests, Project, postgrests
from tests.supabase.test_isolation import (
    CALLERS,
    CLOSED,
    DENIED,
    FUNCTIONS,
    MEMBERS_OF_A,
    NOTHING,
    OF_B,
    OK,
    TABLES,
    WITHOUT_PROFILE,
    World,
    reads,
    world,
)

__all__ = ["postgrests", "world"]

pytestmark = pytest.mark.asyncio(loop_scope="session")

_NO_PRIVILEGE = "42501"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream(world: World, postgrests: Postgrests) -> str:
    """One that takes everything back, so that all callers find the same."""
    return (await postgrests.serve(world.url, **{"db-tx-end": "rollback"})).url


@dataclass(frozen=True)
class Api:
    """Supabase's REST API, for each caller with its own token."""

    world: World
    client: aiohttp.ClientSession
    postgrests: Postgrests

    async def attempt(self, caller: str, method: str, path: str, body: Any = None) -> Any:
        """Return what was answered, or DENIED, or the reason."""
        headers = {"apikey": OPAQUE.service if caller == "service" else OPAQUE.anon}
        principal = self.world.callers.get(caller)
        if principal is not None:
            own = principal.kind is Kind.USER
            session = self.postgrests.user(principal.subject).token
            headers["Authorization"] = f"Bearer {session if own else Signer(JWT_SECRET).token(principal)}"
        async with self.client.request(method, path, json=body, headers=headers) as answer:
            text = await answer.text()
            told = json.loads(text) if text else None
            if answer.ok:
                return told
        if told["code"] == _NO_PRIVILEGE:
            return DENIED
        assert told["code"].startswith("GW"), told
        return told["details"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def api(world: World, upstream: str, postgrests: Postgrests) -> AsyncIterator[Api]:
    async with Project(upstream) as project, aiohttp.ClientSession(f"{project.url}/rest/v1/") as client:
        yield Api(world, client, postgrests)


def named(sql: str, signature: dict[str, str]) -> str:
    """Return SQL that gives the arguments of a call as an object, by the names of the parameters."""
    inner = sql[sql.index("(") + 1 : sql.rindex(")")]
    parts, depth, quoted, part = [], 0, False, ""
    for character in inner:
        quoted ^= character == "'"
        depth += 0 if quoted else (character in "([") - (character in ")]")
        if character == "," and not quoted and depth == 0:
            parts, part = [*parts, part], ""
        else:
            part += character
    parts = [text.strip() for text in (*parts, part) if text.strip()]
    pairs = []
    for position, text in enumerate(parts):
        by_name = re.match(r"(\w+)\s*=>\s*(.*)", text, re.DOTALL)
        name, value = by_name.groups() if by_name else (list(signature)[position], text)
        pairs.append(f"'{name}', cast({value} as {signature[name]})")
    return f"select jsonb_build_object({', '.join(pairs)})"


async def arguments_of(superuser: Any, function: str, sql: str, *values: Any) -> Any:
    rows = await superuser.fetch(
        "select a.name, format_type(a.type, null) as type from pg_proc,"
        " unnest(proargnames, proargtypes::oid[]) with ordinality as a (name, type, i)"
        " where proname = $1 and pronamespace = 'public'::regnamespace order by i",
        function,
    )
    statement = named(sql, {row["name"]: row["type"] for row in rows})
    return json.loads(await superuser.fetchval(statement, *values))


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("table", TABLES)
async def test_rows_are_seen_by_their_own(api: Api, world: World, table: str, caller: str) -> None:
    column = TABLES[table]
    rows = await api.attempt(caller, "GET", f"{table}?select={column}")
    if reads(table, caller) == DENIED:
        assert rows == DENIED
        return
    seen = {row[column] for row in rows}
    both = {str(tenant["organization"]) for tenant in (world.a, world.b)}
    if table == "profiles":
        known = {named.subject for name, named in world.callers.items() if name not in WITHOUT_PROFILE}
        own = {world.callers[caller].subject} if caller in world.callers else set()
        assert seen >= known if caller == "service" else seen == own & known
    elif caller == "service":
        assert seen >= both
    elif reads(table, caller) == NOTHING:
        assert seen == set()
    else:
        assert seen == {str((world.b if caller in OF_B else world.a)["organization"])}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("table", CLOSED)
async def test_secrets_are_read_by_nobody(api: Api, table: str, caller: str) -> None:
    assert await api.attempt(caller, "GET", f"{table}?select={CLOSED[table]}") == DENIED


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("table", TABLES | CLOSED)
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
async def test_nobody_writes_a_table(api: Api, world: World, table: str, caller: str, method: str) -> None:
    column = (TABLES | CLOSED)[table]
    body = None if method == "DELETE" else {column: str(world.a["organization"])}
    path = table if method == "POST" else f"{table}?{column}=eq.{world.a['organization']}"
    assert await api.attempt(caller, method, path, body) == DENIED


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("function", FUNCTIONS)
async def test_functions_are_called_by_who_may(api: Api, world: World, function: str, caller: str) -> None:
    call = FUNCTIONS[function]
    values = [world.a[name] for name in call.arguments]
    arguments = await arguments_of(world.superuser, function, call.sql, *values)
    result = await api.attempt(caller, "POST", f"rpc/{function}", arguments)
    if call.expected(caller) == OK:
        assert not isinstance(result, str)
        assert str(world.b["organization"]) not in str(result) or caller in OF_B | {"service"}
    else:
        assert result == call.expected(caller)


@pytest.mark.parametrize("caller", CALLERS)
async def test_a_list_holds_only_the_callers_own(api: Api, world: World, caller: str) -> None:
    result = await api.attempt(caller, "POST", "rpc/list_organizations", {"p_limit": 200})
    assert (result == DENIED) == (caller == "anonymous")
    text = str(result)
    assert (str(world.a["organization"]) in text) == (caller in {*MEMBERS_OF_A, "key of A", "service"})
    assert (str(world.b["organization"]) in text) == (caller in OF_B | {"service"})


async def test_only_the_schema_public_is_reached(api: Api) -> None:
    for schema in ("gateway", "auth", "vault", "pg_catalog"):
        headers = {"apikey": OPAQUE.service, "Accept-Profile": schema}
        async with api.client.get("profiles", headers=headers) as answer:
            assert (answer.status, (await answer.json())["code"]) == (406, "PGRST106")
