"""Every error that asyncpg can raise has its place in the gateway's tree."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
import pytest
from asyncpg import exceptions

from gateway.adapters.postgres.connections import ClosedError
from gateway.adapters.postgres.errors import translate
from gateway.adapters.sqlstates import RETRY_AFTER_SECONDS
from gateway.rpc.errors import Aborted, Internal, InvalidArgument, NotFound, RpcError, Unavailable

SECRET = "hunter2"


def all_errors() -> Iterator[type[Exception]]:
    for value in vars(exceptions).values():
        if isinstance(value, type) and issubclass(value, Exception) and not issubclass(value, Warning):
            yield value


ERRORS = sorted(set(all_errors()), key=lambda error: error.__name__)

UNAVAILABLE_FAMILIES = (
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.ConfigFileError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.StatementCompletionUnknownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
LOST = asyncpg.TransactionRollbackError
VALUES = (asyncpg.DataError, asyncpg.CheckViolationError, asyncpg.NotNullViolationError)


def test_there_are_many() -> None:
    assert len(ERRORS) > 200


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_mapped_and_tells_nothing(kind: type[Exception]) -> None:
    told = translate(kind(f"about {SECRET}"), "f")
    assert SECRET not in repr(vars(told))
    if issubclass(kind, UNAVAILABLE_FAMILIES):
        assert isinstance(told, Unavailable)
        assert told.retry_after == RETRY_AFTER_SECONDS
    elif issubclass(kind, LOST):
        assert isinstance(told, Aborted)
    elif issubclass(kind, VALUES):
        assert isinstance(told, InvalidArgument | Internal)
    elif told.code is not Internal.code:
        assert kind.__name__ == "TransactionTimeoutError"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "refused"),
        ConnectionResetError(104, "reset"),
        BrokenPipeError(32, "pipe"),
        TimeoutError(),
        OSError(113, "no route"),
        ClosedError("closed"),
    ],
)
def test_a_broken_connection_is_unavailable(error: Exception) -> None:
    assert isinstance(translate(error, "f"), Unavailable)


@pytest.mark.parametrize(
    "error", [ValueError(SECRET), KeyError(SECRET), RuntimeError(SECRET), RecursionError()]
)
def test_anything_else_is_internal(error: Exception) -> None:
    told = translate(error, "f")
    assert isinstance(told, Internal)
    assert SECRET not in told.message


def server_error(**fields: str) -> asyncpg.PostgresError:
    letters = {"severity": "S", "state": "C", "message": "M", "detail": "D", "hint": "H", "table": "t"}
    letters |= {"constraint": "n", "column": "c"}
    return asyncpg.PostgresError.new({letters[name]: value for name, value in fields.items()})


def test_what_ends_the_connection_is_unavailable_whatever_its_code() -> None:
    """Supabase's pooler reports "max clients reached" and unknown tenants as FATAL XX000."""
    for severity in ("FATAL", "PANIC"):
        error = server_error(severity=severity, state="XX000", message="Max client connections reached")
        assert isinstance(translate(error, "f"), Unavailable)
    assert isinstance(translate(server_error(severity="ERROR", state="XX000", message="bug"), "f"), Internal)


def test_a_sqlstate_that_asyncpg_does_not_know_is_mapped() -> None:
    for state, kind in (("08ZZZ", Unavailable), ("40ZZZ", Aborted), ("ZZZZZ", Internal), ("GW999", Internal)):
        assert isinstance(translate(server_error(state=state, message=SECRET), "f"), kind)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (
            {"table": "workflows", "constraint": "workflows_webhook_path_check"},
            {"webhook_path": "is missing or has not the form that it needs"},
        ),
        (
            {"table": "workflows", "constraint": "workflows_is_idempotent_check"},
            {"is_idempotent": "must be true while unknown_outcome_policy is UNKNOWN_OUTCOME_POLICY_RETRY"},
        ),
        ({"table": "workflows", "column": "name"}, {"name": "is needed"}),
        (
            {"table": "workflows", "constraint": "odd"},
            {"odd": "is missing or has not the form that it needs"},
        ),
        ({}, {}),
    ],
)
def test_a_rule_of_a_table_names_its_field(fields: dict[str, str], named: dict[str, str]) -> None:
    told = translate(
        server_error(state="23514", message="violates", detail=f"Failing row ({SECRET})", **fields), "f"
    )
    assert isinstance(told, InvalidArgument)
    assert told.fields == named
    assert all(f"{field}: {problem}" in told.message for field, problem in named.items())
    assert SECRET not in repr(vars(told))


def test_a_refusal_of_a_function_is_taken_as_it_is() -> None:
    hint = '{"metadata": {"balance": "2"}, "fields": {"a.b": "is wrong"}}'
    told = translate(server_error(state="GW404", message="None.", detail="NOTHING", hint=hint), "f")
    assert isinstance(told, NotFound)
    assert (told.message, told.reason) == ("None.", "NOTHING")
    assert (told.metadata, told.fields) == ({"balance": "2"}, {"a.b": "is wrong"})


def test_a_refusal_without_details_has_the_default_reason() -> None:
    told: RpcError = translate(server_error(state="GW404", message="None."), "f")
    assert (told.reason, told.metadata, told.fields) == ("NOT_FOUND", {}, {})
