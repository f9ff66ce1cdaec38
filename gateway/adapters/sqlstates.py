"""From what Postgres says of a failure to the tree of errors in `gateway.rpc.errors`; total.

SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html, and GWnnn of gateway.fail().
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
SCHEMA_MISSING = "SCHEMA_MISSING"
"""The reason when the database answers, and has not what the migrations of this version make."""

_RAISED: dict[str, type[RpcError]] = {
    "GW400": InvalidArgument,
    "GW401": Unauthenticated,
    "GW403": PermissionDenied,
    "GW404": NotFound,
    "GW409": AlreadyExists,
    "GW410": Aborted,
    "GW412": FailedPrecondition,
}

LOCK_NOT_AVAILABLE = "55P03"
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
    LOCK_NOT_AVAILABLE,  # lock timeout
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


_RULES = {
    "workflows_is_idempotent_check": {
        "is_idempotent": "must be true while unknown_outcome_policy is UNKNOWN_OUTCOME_POLICY_RETRY"
    },
}
"""What constraints on several columns ask for, where only a part of them may be in the request."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as Postgres reports it; `ends_connection` for FATAL and PANIC.

    `parameter` is the name of the SQL parameter whose value does not fit, if that is known.
    `context` is for the log alone.
    """

    state: str
    message: str = ""
    detail: str | None = None
    hint: str | None = None
    table: str | None = None
    column: str | None = None
    constraint: str | None = None
    parameter: str | None = None
    ends_connection: bool = False
    context: Mapping[str, str | None] = field(default_factory=dict)


def translate(failure: Failure, function: str) -> RpcError:
    """Return what the caller of `function` is told about `failure`; log what it is not told."""
    state = failure.state
    if state in _RAISED:
        return _raised(failure, _RAISED[state])
    if is_unavailable(failure):
        return unavailable(function, _facts(failure))
    if state[:2] == _LOST_CLASS:
        return Aborted(
            "The call lost against a concurrent one; it can be repeated.", reason="CONCURRENT_CHANGE"
        )
    if state in _UNFIT:
        return unfit(_unfit_field(failure))
    return internal(function, _facts(failure))


def is_unavailable(failure: Failure) -> bool:
    """Tell whether a failure is the database's own, and not about the call.

    FATAL ends the connection, so it is never about the call; poolers report their limits as FATAL XX000.
    """
    state = failure.state
    return failure.ends_connection or state[:2] in _UNAVAILABLE_CLASSES or state in _UNAVAILABLE


def unfit(fields: Mapping[str, str]) -> InvalidArgument:
    """Return what is told of a value that a function cannot take."""
    told = "; ".join(f"{field}: {problem}" for field, problem in fields.items())
    return InvalidArgument(told or "A value is not acceptable.", fields=fields)


def wrong_type(parameter: str) -> dict[str, str]:
    """Name the field that goes to this SQL parameter as one of the wrong type."""
    return {parameter.removeprefix("p_"): "is not of the right type"}


def unavailable(
    function: str, facts: Mapping[str, object], *, retry_after: float = RETRY_AFTER_SECONDS
) -> Unavailable:
    """Return `Unavailable`, and log why."""
    _log.warning("database_unavailable", function=function, **facts)
    return Unavailable(
        "The database cannot be reached at the moment.",
        reason="DATABASE_UNAVAILABLE",
        retry_after=retry_after,
    )


def internal(function: str, facts: Mapping[str, object]) -> Internal:
    """Return `Internal`, and log why."""
    _log.error("database_error", function=function, **facts)
    return Internal("The call failed inside the gateway.")


def schema_missing(function: str, facts: Mapping[str, object]) -> Internal:
    """Return `Internal` for a function that the database does not have, and log what is to be done."""
    _log.error("database_schema_missing", function=function, mend="run `n8n-gateway migrate`", **facts)
    return Internal("The call failed inside the gateway.", reason=SCHEMA_MISSING)


def schema_unready() -> Unavailable:
    """Return what a look at a database without the schema raises."""
    return Unavailable(
        "The schema is missing: run `n8n-gateway migrate`.",
        reason=SCHEMA_MISSING,
        retry_after=RETRY_AFTER_SECONDS,
    )


def _raised(failure: Failure, kind: type[RpcError]) -> RpcError:
    hint = orjson.loads(failure.hint or "{}")
    return kind(
        failure.message,
        reason=failure.detail,
        metadata=hint.get("metadata"),
        fields=hint.get("fields"),
    )


def _unfit_field(failure: Failure) -> dict[str, str]:
    if failure.column:
        return {failure.column: "is needed"}
    if failure.constraint and failure.table:
        if failure.constraint in _RULES:
            return _RULES[failure.constraint]
        # Constraints that Postgres names itself: <table>_<column>_check.
        name = failure.constraint.removeprefix(f"{failure.table}_").removesuffix("_check")
        return {name: "is missing or has not the form that it needs"}
    return wrong_type(failure.parameter) if failure.parameter else {}


def _facts(failure: Failure) -> dict[str, str | None]:
    """What may be logged: names and codes; no DETAIL, which has rows in it, and no text about a value."""
    facts = {
        "sqlstate": failure.state,
        "text": failure.message,
        "table": failure.table,
        "constraint": failure.constraint,
        **failure.context,
    }
    if failure.state[:2] == _VALUE_CLASS:
        facts |= {"text": None, "context": None}
    return facts
