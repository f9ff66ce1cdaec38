"""From whatever asyncpg raises to the tree of errors in `gateway.rpc.errors`; total.

SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html, and GWnnn of gateway.fail().
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import asyncpg
import orjson
import structlog

from gateway.rpc.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RpcError,
    Unauthenticated,
    Unavailable,
)

_log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = 1.0

_RAISED: dict[str, type[RpcError]] = {
    "GW400": InvalidArgument,
    "GW401": Unauthenticated,
    "GW403": PermissionDenied,
    "GW404": NotFound,
    "GW409": AlreadyExists,
    "GW410": Aborted,
    "GW412": FailedPrecondition,
}

_UNAVAILABLE_CLASSES = {
    "08",  # connection exception
    "28",  # invalid authorization: the operator's fault, and no caller's
    "3D",  # invalid catalog name: no such database, at connect
    "53",  # insufficient resources: too many connections, disk full, out of memory
    "57",  # operator intervention: shutdown, starting up, statement timeout
    "58",  # system error: input/output
    "F0",  # configuration file error
}
_UNAVAILABLE = {
    "25006",  # read-only transaction: a replica, or a primary that is being replaced
    "25P03",  # idle in transaction timeout
    "25P04",  # transaction timeout
    "40003",  # statement completion unknown
    "55P03",  # lock not available: lock timeout
}
_LOST_CLASS = "40"

_UNFIT = {
    "22000",  # data exception; asyncpg's own: a value that its parameter cannot take
    "22001",  # string too long
    "22003",  # numeric value out of range
    "22007",  # invalid datetime format
    "22008",  # datetime field overflow
    "22021",  # character not in repertoire: NUL in text
    "22023",  # invalid parameter value
    "22032",  # invalid JSON text
    "22P02",  # invalid text representation
    "22P03",  # invalid binary representation
    "22P05",  # untranslatable character: \u0000 in JSON
    "23502",  # not null
    "23514",  # check
}
_VALUE_CLASS = "22"

_ARGUMENT = re.compile(r"^invalid input for query argument \$(\d+)")


def translate(error: Exception, function: str, parameters: Sequence[str] = ()) -> RpcError:
    """Return what the caller of `function` is told about `error`; log what it is not told.

    `parameters` are the function's parameters in the order of the statement's, from $2 on.
    """
    if not isinstance(error, asyncpg.PostgresError):
        return _of_driver(error, function)
    state = error.sqlstate or ""
    if state in _RAISED:
        return _raised(error, _RAISED[state])
    if _is_unavailable(error, state):
        return unavailable(error, function)
    if state[:2] == _LOST_CLASS:
        return Aborted(
            "The call lost against a concurrent one; it can be repeated.", reason="CONCURRENT_CHANGE"
        )
    if state in _UNFIT:
        return InvalidArgument("A value is not acceptable.", fields=_unfit_field(error, parameters))
    return _internal(error, function)


def unavailable(error: Exception, function: str) -> Unavailable:
    """Return `Unavailable`, and log why."""
    _log.warning("database_unavailable", function=function, **_facts(error))
    return Unavailable(
        "The database cannot be reached at the moment.",
        reason="DATABASE_UNAVAILABLE",
        retry_after=RETRY_AFTER_SECONDS,
    )


def _of_driver(error: Exception, function: str) -> RpcError:
    # An InterfaceError is a connection that was closed under the call; TimeoutError is an OSError.
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return unavailable(error, function)
    return _internal(error, function)


def _is_unavailable(error: asyncpg.PostgresError, state: str) -> bool:
    # FATAL ends the connection, so it is never about the call; poolers report their limits as FATAL XX000.
    severity = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    return severity in {"FATAL", "PANIC"} or state[:2] in _UNAVAILABLE_CLASSES or state in _UNAVAILABLE


def _raised(error: asyncpg.PostgresError, kind: type[RpcError]) -> RpcError:
    hint = orjson.loads(error.hint or "{}")
    return kind(
        error.message or "",
        reason=error.detail,
        metadata=hint.get("metadata"),
        fields=hint.get("fields"),
    )


def _unfit_field(error: asyncpg.PostgresError, parameters: Sequence[str]) -> dict[str, str]:
    if error.column_name:
        return {error.column_name: "is needed"}
    if error.constraint_name and error.table_name:
        # Constraints that Postgres names itself: <table>_<column>_check.
        name = error.constraint_name.removeprefix(f"{error.table_name}_").removesuffix("_check")
        return {name: "is not acceptable"}
    if found := _ARGUMENT.match(str(error)):
        index = int(found[1]) - 2
        if 0 <= index < len(parameters):
            return {parameters[index].removeprefix("p_"): "is not of the right type"}
    return {}


def _internal(error: Exception, function: str) -> Internal:
    _log.error("database_error", function=function, **_facts(error))
    return Internal("The call failed inside the gateway.")


def _facts(error: Exception) -> dict[str, str | None]:
    """What may be logged: names and codes; no DETAIL, which has rows in it, and no text about a value."""
    if not isinstance(error, asyncpg.PostgresError):
        return {"error": type(error).__name__, "text": str(error)}
    state = error.sqlstate or ""
    about_value = state[:2] == _VALUE_CLASS
    return {
        "error": type(error).__name__,
        "sqlstate": state,
        "text": None if about_value else error.message,
        "table": error.table_name,
        "constraint": error.constraint_name,
        "context": None if about_value else error.context,
    }
