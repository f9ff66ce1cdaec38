"""What the SQL functions take, and arguments made ready for a JSON body."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from gateway.adapters import sqlstates

if TYPE_CHECKING:
    from gateway.adapters.database import Json

_INTEGER_BITS = {"smallint": 15, "integer": 31, "bigint": 63}


def fitted(arguments: Mapping[str, Json], types: Mapping[str, str]) -> dict[str, Json]:
    """Return the arguments as PostgREST takes them: JSON text for a jsonb parameter as what it stands for.

    `types` has Postgres's name of the type of every parameter. Raises InvalidArgument, which names the field.
    """
    ready: dict[str, Json] = {}
    # Of several that do not fit, a JSON text is told last, as on the way to Postgres itself.
    for name, value in sorted(arguments.items(), key=lambda argument: types[argument[0]] == "jsonb"):
        fit = None if value is None else _FIT.get(types[name])
        try:
            ready[name] = value if fit is None else fit(value, types[name])
        except ValueError:
            raise sqlstates.unfit(sqlstates.wrong_type(name)) from None
    return ready


def _uuid(value: Json, _: str) -> Json:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - one error for all that does not fit
    return str(uuid.UUID(value))


def _integer(value: Json, name: str) -> Json:
    limit = 1 << _INTEGER_BITS[name]
    if not isinstance(value, int) or isinstance(value, bool) or not -limit <= value < limit:
        raise ValueError
    return value


def _boolean(value: Json, _: str) -> Json:
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004
    return value


def _text(value: Json, _: str) -> Json:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004
    value.encode()
    return value


def _jsonb(value: Json, _: str) -> Json:
    if isinstance(value, str):
        try:
            parsed: Json = json.loads(value, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise sqlstates.unfit({}) from None
        return parsed
    if not isinstance(value, Mapping | Sequence):
        raise ValueError  # noqa: TRY004
    return value


def _refuse(constant: str) -> None:
    raise ValueError(constant)


_FIT: dict[str, Callable[[Json, str], Json]] = {
    "uuid": _uuid,
    "smallint": _integer,
    "integer": _integer,
    "bigint": _integer,
    "boolean": _boolean,
    "text": _text,
    "jsonb": _jsonb,
}
