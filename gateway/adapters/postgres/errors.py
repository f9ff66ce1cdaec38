"""From whatever asyncpg raises to the tree of errors in `gateway.rpc.errors`; total."""

from __future__ import annotations

import re
from collections.abc import Sequence

import asyncpg

from gateway.adapters import sqlstates
from gateway.adapters.sqlstates import Failure
from gateway.rpc.errors import RpcError

_ABSENT = {
    "42883",  # undefined function
    "3F000",  # invalid schema name
}
_ARGUMENT = re.compile(r"^invalid input for query argument \$(\d+)")


def translate(error: Exception, function: str, parameters: Sequence[str] = ()) -> RpcError:
    """Return what the caller of `function` is told about `error`; log what it is not told.

    `parameters` are the function's parameters in the order of the statement's, from $3 on.
    """
    if isinstance(error, asyncpg.PostgresError):
        # With a context it is something within a function that is not there.
        if error.sqlstate in _ABSENT and not error.context:
            return sqlstates.schema_missing(function, {"sqlstate": error.sqlstate})
        return sqlstates.translate(_failure(error, parameters), function)
    facts = {"error": type(error).__name__, "text": str(error)}
    # An InterfaceError is a connection that was closed under the call; TimeoutError is an OSError.
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return sqlstates.unavailable(function, facts)
    return sqlstates.internal(function, facts)


def is_one_calls(error: asyncpg.PostgresError) -> bool:
    """Whether several calls in one statement, none of which took effect, failed for one of them.

    A lock that did not come free soon is what one of them waited for.
    """
    return error.sqlstate == sqlstates.LOCK_NOT_AVAILABLE or not sqlstates.is_unavailable(_failure(error, ()))


def _failure(error: asyncpg.PostgresError, parameters: Sequence[str]) -> Failure:
    severity = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    return Failure(
        state=error.sqlstate or "",
        message=error.message or "",
        detail=error.detail,
        hint=error.hint,
        table=error.table_name,
        column=error.column_name,
        constraint=error.constraint_name,
        parameter=_parameter(error, parameters),
        ends_connection=severity in {"FATAL", "PANIC"},
        context={"error": type(error).__name__, "context": error.context},
    )


def _parameter(error: asyncpg.PostgresError, parameters: Sequence[str]) -> str | None:
    found = _ARGUMENT.match(str(error))
    index = int(found[1]) - 3 if found else -1
    return parameters[index] if 0 <= index < len(parameters) else None
