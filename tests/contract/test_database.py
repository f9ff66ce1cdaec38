"""What every implementation of the port does."""

from __future__ import annotations

import asyncio
import inspect
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs
from yarl import URL

from gateway.adapters.database import Database
from gateway.adapters.postgres import PostgresDatabase
from gateway.rpc.errors import (
    AlreadyExists,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from tests.adapters.databases import login, new_tenant, user


@pytest.fixture(params=["direct", "pooled"])
async def database(request: pytest.FixtureRequest, superuser_url: URL) -> AsyncIterator[Database]:
    opened = PostgresDatabase(login(superuser_url), pooled=request.param == "pooled")
    yield opened
    await opened.close()


def test_the_implementation_has_the_ports_signatures() -> None:
    for name in ("call", "ping", "close"):
        assert inspect.signature(getattr(PostgresDatabase, name)) == inspect.signature(
            getattr(Database, name)
        )


async def test_a_function_answers_with_json(database: Database) -> None:
    text = await database.call("list_organizations", user())
    assert json.loads(text) == {"organizations": [], "next": None}


async def test_it_answers_a_ping(database: Database) -> None:
    await database.ping()


async def test_what_a_function_refuses_comes_as_it_says(database: Database) -> None:
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


async def test_a_function_of_the_gateway_alone_is_denied_to_users(database: Database) -> None:
    with pytest.raises(PermissionDenied):
        await database.call(
            "add_credits", user(), p_organization_id=str(uuid.uuid4()), p_amount=1, p_reference="mine"
        )


async def test_objects_and_json_text_are_the_same_argument(database: Database) -> None:
    for given in ({"name": "Äcme"}, '{"name": "Äcme"}'):
        made = json.loads(await database.call("create_organization", user(), p_organization=given))
        assert made["name"] == "Äcme"


@pytest.mark.parametrize("value", ["", "x", "01890000-0000-7000-8000", 7, True, [], {}, "'; select 1 --"])
async def test_a_value_of_the_wrong_type_is_named(database: Database, value: Any) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await database.call("get_workflow", user(), p_id=value)
    assert list(raised.value.fields) == ["id"]


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, "x"])
async def test_a_number_out_of_range_is_named(database: Database, value: Any) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await database.call("list_organizations", user(), p_limit=value)
    assert list(raised.value.fields) == ["limit"]


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
async def test_text_that_cannot_be_stored_is_refused(database: Database, name: str) -> None:
    with pytest.raises(InvalidArgument):
        await database.call("create_organization", user(), p_organization=json.dumps({"name": name}))


@pytest.mark.parametrize("value", ["{", "", "{'name': 1}"])
async def test_text_that_is_no_json_is_refused(database: Database, value: str) -> None:
    with pytest.raises(InvalidArgument):
        await database.call("create_organization", user(), p_organization=value)


async def test_a_fault_of_the_gateway_has_no_text_and_is_logged(database: Database) -> None:
    with capture_logs() as logs, pytest.raises(Internal) as raised:
        await database.call("no_such_function", user(), p_secret="hunter2")
    assert "no_such_function" not in raised.value.message
    assert [entry["sqlstate"] for entry in logs] == ["42883"]
    assert "hunter2" not in str(logs)


async def test_values_reach_neither_errors_nor_logs(database: Database) -> None:
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
async def test_a_name_that_is_none_is_refused(database: Database, name: str) -> None:
    with pytest.raises(ValueError, match="not a name of SQL"):
        await database.call(name, user())
    with pytest.raises(ValueError, match="not a name of SQL"):
        await database.call("get_workflow", user(), **{name: 1})


async def test_200_calls_of_two_tenants_at_once_never_mix(superuser_url: URL) -> None:
    database = PostgresDatabase(login(superuser_url), max_connections=4)
    tenants = [await new_tenant(database) for _ in range(2)]

    async def listed(number: int) -> bool:
        tenant, other = tenants[number % 2], tenants[1 - number % 2]
        text = await database.call("list_organizations", tenant.owner)
        with pytest.raises(NotFound):
            await database.call("get_workflow", tenant.owner, p_id=other.workflow_id)
        return [entry["id"] for entry in json.loads(text)["organizations"]] == [tenant.organization_id]

    assert all(await asyncio.gather(*(listed(number) for number in range(200))))
    await database.close()


async def test_after_closing_it_is_unavailable(database: Database) -> None:
    await database.ping()
    await database.close()
    await database.close()
    with pytest.raises(Unavailable):
        await database.ping()
