"""The implementation over Supabase's REST API: whose token goes where, and everything that can break."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import pytest_asyncio
from aiohttp.http_exceptions import BadHttpMessage
from postgrest import APIError
from structlog.testing import capture_logs
from yarl import URL

from gateway.adapters.postgres import migrations
from gateway.adapters.supabase import SupabaseDatabase, tokens
from gateway.adapters.supabase.database import _DESCRIBE as DESCRIBE
from gateway.adapters.supabase.errors import translate
from gateway.adapters.supabase.http import ForeignAnswerError, Timeouts
from gateway.adapters.supabase.tokens import Signer
from gateway.local.postgres import LocalPostgres
from gateway.rpc.errors import (
    Aborted,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from tests.adapters.databases import AUTHENTICATOR_PASSWORD, login, user
from tests.adapters.postgrest import (
    JWT_SECRET,
    LEGACY,
    OPAQUE,
    Keys,
    Postgrest,
    Postgrests,
    Project,
    postgrests,
)

__all__ = ["postgrests"]

SECRET = "hunter2"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream(superuser_url: URL, postgrests: Postgrests) -> str:
    return (await postgrests.serve(superuser_url)).url


@pytest.fixture
async def project(upstream: str) -> AsyncIterator[Project]:
    async with Project(upstream) as started:
        yield started


@pytest.fixture
async def database(project: Project) -> AsyncIterator[SupabaseDatabase]:
    opened = project.database()
    yield opened
    await opened.close()


def claims_of(authorization: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(
        authorization.removeprefix("Bearer "), JWT_SECRET, algorithms=["HS256"]
    )
    return claims


@pytest.mark.parametrize(
    ("keys", "service"), [(LEGACY, f"Bearer {LEGACY.service}"), (OPAQUE, "")], ids=["JWTs", "sb_ keys"]
)
async def test_each_call_goes_with_its_own_token(
    project: Project, postgrests: Postgrests, keys: Keys, service: str
) -> None:
    database = project.database(keys)
    await database.ping()
    caller = postgrests.user("user_1")
    await database.call("list_organizations", caller)
    await database.call("list_organizations", None)
    key = Principal(Kind.API_KEY, "key", DatabaseRole.AUTHENTICATED, '{"sub": "key:1"}', token="gw_live_1")
    with pytest.raises(Unauthenticated):
        await database.call("list_organizations", key)
    n8n = Principal(Kind.N8N, "n8n", DatabaseRole.SERVICE, "{}")
    await database.call("list_organizations", n8n)
    await database.close()
    assert project.seen[:3] == [
        (keys.service, service),
        (keys.anon, f"Bearer {caller.token}"),
        (keys.service, service),
    ]
    for (apikey, authorization), named in zip(
        project.seen[3:],
        ({"sub": "key:1", "role": "authenticated"}, {"role": "service_role"}),
        strict=True,
    ):
        claims = claims_of(authorization)
        assert apikey == keys.anon
        assert claims.pop("exp") - claims.pop("iat") == 60
        assert claims == named


async def test_functions_are_asked_for_once_however_many_wait(
    project: Project, database: SupabaseDatabase
) -> None:
    await asyncio.gather(*(database.call("list_organizations", None) for _ in range(20)))
    assert len(project.seen) == 21


async def test_who_waits_for_the_functions_may_give_up(database: SupabaseDatabase) -> None:
    calls = [asyncio.create_task(database.call("list_organizations", None)) for _ in range(3)]
    await asyncio.sleep(0)
    calls[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[0]
    assert all(await asyncio.gather(*calls[1:]))


async def test_without_the_secret_only_session_tokens_are_served(
    project: Project, postgrests: Postgrests
) -> None:
    database = project.database(jwt_secret=None)
    await database.call("list_organizations", postgrests.user("user_1"))
    await database.call("list_organizations", None)
    with pytest.raises(FailedPrecondition) as refused:
        await database.call("list_organizations", user())
    assert refused.value.reason == "SUPABASE_JWT_SECRET_MISSING"
    with pytest.raises(FailedPrecondition):
        await database.check_signing()
    await database.close()


async def test_an_expired_token_is_unauthenticated(
    database: SupabaseDatabase, postgrests: Postgrests
) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await database.call("list_organizations", postgrests.user("user_1", timedelta(hours=-1)))
    assert refused.value.reason == "TOKEN_INVALID"


async def test_a_token_of_another_issuer_is_unauthenticated(database: SupabaseDatabase) -> None:
    claims = {"sub": "user_1", "role": "authenticated"}
    token = jwt.encode(claims, "x" * 32, algorithm="HS256")
    forged = Principal(Kind.USER, "user_1", DatabaseRole.AUTHENTICATED, json.dumps(claims), token=token)
    with pytest.raises(Unauthenticated):
        await database.call("list_organizations", forged)


@pytest.mark.parametrize("role", [None, "anon", "nobody", "service_role", 7])
async def test_a_token_of_another_role_is_not_sent(
    project: Project, database: SupabaseDatabase, postgrests: Postgrests, role: Any
) -> None:
    caller = postgrests.user("user_1")
    claims = {**json.loads(caller.claims), "role": role}
    if role is None:
        del claims["role"]
    headers = jwt.get_unverified_header(caller.token or "")
    token = jwt.encode(claims, postgrests.issuer._key, algorithm="RS256", headers=headers)  # type: ignore[arg-type]
    with pytest.raises(Unauthenticated) as refused:
        await database.call("list_organizations", replace(caller, claims=json.dumps(claims), token=token))
    assert refused.value.reason == "TOKEN_WITHOUT_ROLE"
    assert token not in str(project.seen)


async def test_a_secret_that_is_not_the_projects_is_no_callers_fault(project: Project) -> None:
    database = project.database(jwt_secret="another secret of thirty-two bytes")
    with capture_logs() as logs, pytest.raises(Unavailable):
        await database.call("list_organizations", user())
    assert [entry["sqlstate"] for entry in logs] == ["PGRST301"]
    await database.close()


async def test_keys_that_are_not_the_projects_are_no_callers_fault(project: Project) -> None:
    database = project.database(Keys("sb_publishable_wrong", "sb_secret_wrong"))
    with capture_logs() as logs, pytest.raises(Unavailable):
        await database.ping()
    assert [entry["status"] for entry in logs] == [401]
    assert "sb_secret" not in str(logs)
    await database.close()


@pytest.mark.parametrize(
    ("answer", "kind", "retry_after"),
    [
        ((503, {"Content-Type": "text/html", "Retry-After": "7"}, b"<html>"), Unavailable, 7),
        ((503, {"Content-Type": "application/json"}, b'{"message":"no upstream"}'), Unavailable, 1),
        ((429, {"Content-Type": "application/json"}, b'{"code":"over_quota"}'), Unavailable, 1),
        ((540, {"Content-Type": "text/plain", "Retry-After": "soon"}, b"paused"), Unavailable, 1),
        ((404, {"Content-Type": "text/html"}, b"not here"), Unavailable, 1),
        ((200, {"Content-Type": "text/html"}, b"a portal"), Unavailable, 1),
        ((302, {"Location": "https://elsewhere.example"}, b""), Unavailable, 1),
        ((413, {"Content-Type": "text/plain"}, b"too large"), InvalidArgument, None),
        ((400, {"Content-Type": "text/plain"}, b"bad"), Internal, None),
    ],
)
async def test_an_answer_that_is_not_postgrests_has_its_place(
    project: Project, answer: Any, kind: type[Exception], retry_after: float | None
) -> None:
    database = project.database()
    await database.ping()
    project.answer = answer
    with pytest.raises(kind) as raised:
        await database.call("list_organizations", None)
    assert raised.value.retry_after == retry_after  # type: ignore[attr-defined]
    await database.close()


async def test_a_project_without_the_schema_is_not_ready(project: Project) -> None:
    database = project.database()
    body = b'{"code":"PGRST202","message":"no such function","details":null,"hint":null}'
    project.answer = (404, {"Content-Type": "application/json"}, body)
    with pytest.raises(Unavailable, match="The schema is missing: run `n8n-gateway migrate`"):
        await database.ping()
    await database.close()


UNAVAILABLE = ["PGRST000", "PGRST001", "PGRST002", "PGRST003", "PGRST300", "08006", "53300", "57014", "25006"]
INTERNAL = [
    *(f"PGRST{number}" for number in (100, 102, 106, 116, 125, 200, 201, 202, 203, 204, 205)),
    *("PGRSTX00", "42P01", "42883", "P0001", "XX000", "PT404", "", "0"),
]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        *((code, Unavailable) for code in UNAVAILABLE),
        *((code, Internal) for code in INTERNAL),
        *((code, Unauthenticated) for code in ("PGRST301", "PGRST302", "PGRST303")),
        *((code, Aborted) for code in ("40001", "40P01")),
        *((code, InvalidArgument) for code in ("22P02", "22P05", "23502", "23514", "22003")),
        ("42501", PermissionDenied),
        ("GW404", NotFound),
    ],
)
def test_every_code_of_postgrest_has_its_place_and_tells_nothing(code: str, kind: type[Exception]) -> None:
    error = APIError({"code": code, "message": f"about {SECRET}", "details": None, "hint": None})
    if code == "GW404":
        error.message = "None."
    told = translate(error, "f", own_token=True)
    assert type(told) is kind
    assert SECRET not in repr(vars(told))
    if code in {"PGRST301", "PGRST302", "PGRST303"}:
        assert type(translate(error, "f", own_token=False)) is Unavailable


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "refused"),
        TimeoutError(),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError(SECRET),
        aiohttp.ConnectionTimeoutError(),
        aiohttp.ClientConnectionError(),
        BadHttpMessage(SECRET),
        ForeignAnswerError(502, None),
    ],
)
def test_a_broken_connection_is_unavailable(error: Exception) -> None:
    with capture_logs() as logs:
        assert isinstance(translate(error, "f", own_token=True), Unavailable)
    assert SECRET not in str(logs)


def test_anything_else_is_internal() -> None:
    with capture_logs() as logs:
        assert isinstance(translate(KeyError(SECRET), "f", own_token=True), Internal)
    assert SECRET not in str(logs)


def test_a_token_is_kept_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(tokens.time, "time", lambda: now)
    signer, one, other = Signer(JWT_SECRET), user(), user()
    first = signer.token(one)
    assert signer.token(other) != first
    now += 39
    assert signer.token(one) == first
    now += 2
    assert signer.token(one) != first


def test_a_token_takes_no_role_or_time_from_the_claims() -> None:
    principal = Principal(
        Kind.API_KEY,
        "key",
        DatabaseRole.AUTHENTICATED,
        '{"sub": "k", "role": "service_role", "exp": 9999999999, "nbf": 9999999999}',
    )
    claims = claims_of(Signer(JWT_SECRET).token(principal))
    assert claims["role"] == "authenticated"
    assert claims["exp"] <= time.time() + 60
    assert "nbf" not in claims


def test_only_so_many_tokens_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_REMEMBERED", 3)
    signer = Signer(JWT_SECRET)
    for _ in range(10):
        signer.token(user())
    assert len(signer._tokens) == 3


@contextlib.asynccontextmanager
async def raw(handle: Callable[..., Awaitable[None]]) -> AsyncIterator[str]:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def at(url: str, **options: Any) -> SupabaseDatabase:
    return SupabaseDatabase(url, anon_key=LEGACY.anon, service_role_key=LEGACY.service, **options)


async def test_a_server_that_never_answers_is_unavailable() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with raw(silent) as url:
        database = at(url, timeouts=Timeouts(total=0.05))
        with pytest.raises(Unavailable) as raised:
            await database.ping()
        assert raised.value.retry_after
        await database.close()


async def test_an_answer_that_breaks_off_is_unavailable() -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()

    async with raw(broken) as url:
        database = at(url)
        with pytest.raises(Unavailable):
            await database.ping()
        await database.close()


@pytest.mark.parametrize(("function", "asked"), [("look", 2), ("change", 1), ("of_older_schema", 1)])
async def test_a_read_whose_kept_connection_ends_is_made_once_more_and_a_write_is_not(
    function: str, asked: int
) -> None:
    described = {
        name: {"parameters": {}, "roles": ["service_role"], "reads": name == "look"}
        for name in ("look", "change")
    } | {"of_older_schema": {"parameters": {}, "roles": ["service_role"]}}
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    seen: list[str] = []

    async def fleeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request of a connection, and ends it when there is another."""
        for body in (json.dumps(described if not seen else "answer").encode(), None):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            seen.append(head.split(b" ")[1].decode().rpartition("/")[2])
            if body is not None:
                writer.write(answer % (len(body), body))
        writer.close()

    async with raw(fleeting) as url:
        database = at(url)
        await database.ping()
        if asked == 1:
            with pytest.raises(Unavailable):
                await database.call(function, None)
        else:
            assert json.loads(await database.call(function, None)) == "answer"
        await database.close()
    assert seen == ["describe_functions"] + [function] * asked


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nobody tells when it is
        await asyncio.sleep(0)


def spoke_unasked(database: SupabaseDatabase) -> bool:
    """Whether every idle connection has something to read, or there is none left."""
    session: Any = database._http._session
    idle = [protocol for kept in session.connector._conns.values() for protocol, _ in kept]
    return all(protocol.should_close for protocol in idle)


async def test_what_a_server_says_unasked_answers_nobody() -> None:
    """A second answer on the same connection would otherwise be that of the next caller."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    connections = 0

    async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n{}")
                writer.write(answer % (2, b"{}"))
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(answer % (17, b'{"not": "for you"}'[:17]))
                await writer.drain()
        writer.close()

    async with raw(talkative) as url:
        database = at(url)
        for _ in range(5):
            assert await database._rpc("f", DESCRIBE, None, {}) == "{}"
            await until(lambda: spoke_unasked(database))
        assert connections == 5
        await database.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with raw(lambda *_: asyncio.sleep(0)) as url:
        pass
    database = at(url, jwt_secret=JWT_SECRET)
    with capture_logs() as logs, pytest.raises(Unavailable) as raised:
        await database.ping()
    shown = f"{logs} {vars(raised.value)} {database!r}"
    assert not any(secret in shown for secret in (LEGACY.service, LEGACY.anon, JWT_SECRET))
    await database.close()


async def test_postgrest_and_postgres_go_away_and_come_back(tmp_path: Path, postgrests: Postgrests) -> None:
    async with LocalPostgres(tmp_path / "database") as server:
        url = URL(server.superuser_url)
        await migrations.apply(str(url), local=True, authenticator_password=AUTHENTICATOR_PASSWORD)
        async with (
            Postgrest(tmp_path / "rest", login(url), postgrests.jwks) as rest,
            Project(rest.url) as project,
        ):
            database, caller = project.database(), postgrests.user("user_1")
            made = await database.call("create_organization", caller, p_organization={"name": "Kept"})
            for part in (rest, server):
                await part.stop()
                for _ in range(3):
                    with pytest.raises(Unavailable) as raised:
                        await database.call("list_organizations", caller)
                    assert raised.value.retry_after
                await part.start()
                while True:
                    with contextlib.suppress(Unavailable):
                        await database.ping()
                        break
                page = json.loads(await database.call("list_organizations", caller))
                assert [entry["id"] for entry in page["organizations"]] == [json.loads(made)["id"]]
            await database.close()
