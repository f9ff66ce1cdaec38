"""From whatever a call over Supabase's REST API raises to the tree of errors in `gateway.rpc.errors`; total.

Only codes decide. PostgREST's: https://docs.postgrest.org/en/stable/references/errors.html; versions differ,
so those of 12 and 14 are both here. SQLSTATEs it hands on, with message, detail and hint.
"""

from __future__ import annotations

import re
from http import HTTPStatus

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from postgrest import APIError

from gateway.adapters import sqlstates
from gateway.adapters.sqlstates import RETRY_AFTER_SECONDS, Failure
from gateway.adapters.supabase.http import ForeignAnswerError
from gateway.rpc.errors import InvalidArgument, PermissionDenied, RpcError, Unauthenticated

NO_PRIVILEGE = "42501"
"""SQLSTATE, and the reason of the PermissionDenied made of it: who translates finds out of what."""

_NO_FUNCTION = "PGRST202"
_UNAVAILABLE = {
    "PGRST000",  # no connection to the database
    "PGRST001",  # the connection failed inside PostgREST
    "PGRST002",  # the schema cache could not be built
    "PGRST003",  # no connection of its pool came free in time
    "PGRST300",  # it has no secret to verify tokens with: the operator's fault
}
_UNAUTHENTICATED = {
    "PGRST301",  # the token does not hold; until 12 an expired one, too
    "PGRST302",  # there is no token, and anonymous calls are not allowed
    "PGRST303",  # from 13 on: a claim of the token does not hold, as when it has expired
}
_SQLSTATE_LENGTH = 5
_QUOTED = re.compile(r'"([^"]+)"')


def translate(error: Exception, function: str, *, own_token: bool) -> RpcError:
    """Return what the caller of `function` is told about `error`; log what it is not told.

    `own_token`: the call was made with the caller's own token, and not with one of the gateway's keys.
    """
    if isinstance(error, APIError):
        return _of_postgrest(error, function, own_token=own_token)
    if isinstance(error, ForeignAnswerError):
        return _foreign(error, function)
    facts = {"error": type(error).__name__, "text": str(error) if isinstance(error, OSError) else None}
    # TimeoutError is an OSError.
    if isinstance(error, OSError | aiohttp.ClientError | HttpProcessingError):
        return sqlstates.unavailable(function, facts)
    return sqlstates.internal(function, facts)


def _of_postgrest(error: APIError, function: str, *, own_token: bool) -> RpcError:
    code = error.code or ""
    if code in _UNAUTHENTICATED and own_token:
        return Unauthenticated(
            "The database does not accept the session token: it has expired, or is not trusted there.",
            reason="TOKEN_INVALID",
        )
    if code in _UNAVAILABLE | _UNAUTHENTICATED:
        return sqlstates.unavailable(function, {"sqlstate": code})
    if code == _NO_FUNCTION:
        return sqlstates.schema_missing(function, {"sqlstate": code})
    if code == NO_PRIVILEGE:
        return PermissionDenied("The caller may not do this.", reason=NO_PRIVILEGE)
    if len(code) == _SQLSTATE_LENGTH:
        return sqlstates.translate(_failure(error, code), function)
    return sqlstates.internal(function, {"sqlstate": code})


def _failure(error: APIError, code: str) -> Failure:
    """Read the names that PostgREST leaves in the message; without them the error only says less."""
    message = error.message or ""
    names = dict(enumerate(_QUOTED.findall(message)))
    return Failure(
        state=code,
        message=message,
        detail=error.details if isinstance(error.details, str) else None,
        hint=error.hint,
        # null value in column "…" of relation "…" violates not-null constraint
        column=names.get(0) if code == "23502" else None,
        # new row for relation "…" violates check constraint "…"
        table=names.get(0) if code == "23514" else None,
        constraint=names.get(1) if code == "23514" else None,
    )


def _foreign(error: ForeignAnswerError, function: str) -> RpcError:
    """Tell of Supabase's gateway, a proxy or a wrong address: an outage, or the operator's to mend."""
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return InvalidArgument("The call is larger than the database's API takes.", reason="TOO_LARGE")
    facts = {"status": error.status}
    if error.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNSUPPORTED_MEDIA_TYPE}:
        return sqlstates.internal(function, facts)
    return sqlstates.unavailable(function, facts, retry_after=error.retry_after or RETRY_AFTER_SECONDS)
