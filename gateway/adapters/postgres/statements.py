"""The statements by which `PostgresDatabase` calls SQL functions as their callers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.rpc.principal import DatabaseRole

_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_LOCK_TIMEOUT = "50ms"
"""For calls that go together: what one of them waits for keeps the others waiting."""

PARAMETER_TYPES = """
select coalesce(json_object_agg(parameter.name, parameter.type::regtype), '{}')::text
from pg_catalog.pg_proc p, unnest(p.proargnames, p.proargtypes::oid[]) as parameter (name, type)
where p.oid = ('public.' || $1)::regproc
"""
"""The types of a function's ($1) parameters by name, as JSON."""


def one_call(function: str, role: DatabaseRole, parameters: Sequence[str]) -> str:
    """Return a statement of the claims ($1), the headers ($2) and the function's parameters, by name.

    They are set as PostgREST sets them, until the statement ends, and before the function runs, because the
    row that it runs on comes from setting them. Postgres checks EXECUTE at the start, against the role that
    logged in, so the condition checks it against the role that calls: without it there is no row.
    """
    _check(function, *parameters)
    arguments = ", ".join(f"{name} => ${position}" for position, name in enumerate(parameters, start=3))
    return (
        f"select public.{function}({arguments})"  # noqa: S608 - names only, checked above
        f" from (select set_config('role', '{role}', true), set_config('request.jwt.claims', $1, true),"
        " set_config('request.headers', $2, true)) as c"
        f" where has_function_privilege('{role}', 'public.{function}'::regproc, 'execute')"
    )


def several_calls(
    function: str, role: DatabaseRole, parameters: Sequence[str], types: Mapping[str, str]
) -> str:
    """Return the same for several calls, one after the other: each parameter is an array of theirs.

    Each row of the answer is the number of a call, from 1 on, and what the function returns. The first call
    that fails takes back what those before it did.
    """
    _check(function, *parameters)
    arrays = ["$1::text[]", "$2::text[]"]
    arrays += [f"${position}::{types[name]}[]" for position, name in enumerate(parameters, start=3)]
    arguments = ", ".join(f"{name} => c.{name}" for name in parameters)
    return (
        f"select c.number, public.{function}({arguments})"  # noqa: S608 - names only, checked above
        f" from (select e.*, set_config('role', '{role}', true),"
        " set_config('request.jwt.claims', e.claims, true), set_config('request.headers', e.headers, true),"
        f" set_config('lock_timeout', '{_LOCK_TIMEOUT}', true)"
        f" from unnest({', '.join(arrays)}) with ordinality"
        f" as e ({', '.join(('claims', 'headers', *parameters, 'number'))})) as c"
        f" where has_function_privilege('{role}', 'public.{function}'::regproc, 'execute')"
    )


def _check(*names: str) -> None:
    for name in names:
        if not _IDENTIFIER.fullmatch(name):
            msg = f"not a name of SQL: {name!r}"
            raise ValueError(msg)
