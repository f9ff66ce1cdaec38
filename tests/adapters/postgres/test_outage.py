"""Postgres goes away under the gateway and comes back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase, migrations
from gateway.local.postgres import LocalPostgres
from gateway.rpc.errors import Unavailable
from tests.adapters.databases import AUTHENTICATOR_PASSWORD, login, new_tenant


async def test_a_stopped_server_is_unavailable_until_it_is_back(tmp_path: Path) -> None:
    async with LocalPostgres(tmp_path) as server:
        url = URL(server.superuser_url)
        await migrations.apply(str(url), local=True, authenticator_password=AUTHENTICATOR_PASSWORD)
        database = PostgresDatabase(login(url), min_connections=3)
        await database.start()
        tenant = await new_tenant(database, balance=13)
        lock = await asyncpg.connect(str(url))
        await lock.execute("begin; lock table credit_accounts in exclusive mode")
        under_way = [asyncio.create_task(tenant.begin()) for _ in range(3)]
        while await lock.fetchval("select count(*) from pg_locks where not granted") < 3:
            pass
        await server.stop()
        # Who held the lock may be ended first: then one that waited for it may still get through.
        ends = await asyncio.gather(*under_way, return_exceptions=True)
        broken = [end for end in ends if isinstance(end, BaseException)]
        assert broken
        for end in broken:
            assert isinstance(end, Unavailable)
            assert end.retry_after
        for _ in range(3):
            with pytest.raises(Unavailable):
                await database.ping()
        await server.start()
        assert URL(server.superuser_url) == url
        begun = await asyncio.gather(*(tenant.begin() for _ in range(10)))
        left = sorted(answer["credits_remaining"] for answer in begun)
        assert left == list(range(left[0], left[0] + 10))
        assert len(broken) >= left[0] >= 0
        assert json.loads(await database.call("list_organizations", tenant.owner))["organizations"]
        lock.terminate()
        await database.close()
