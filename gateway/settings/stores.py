"""Where the data is: Postgres, Supabase and Redis.

Their URLs are checked here because those who use them would tell of the password in their errors.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

DATABASE_EXAMPLE = "postgresql://user:password@host:5432/postgres"
_REDIS_EXAMPLE = "redis://:password@host:6379/0"


def _url_of(schemes: tuple[str, ...], example: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        if value.get_secret_value().partition("://")[0] not in schemes:
            expected = " or ".join(f"{scheme}://" for scheme in schemes)
            msg = f"must be a URL that begins with {expected}, such as {example}"
            raise ValueError(msg)
        return value

    return AfterValidator(check)


def _whole(value: SecretStr) -> SecretStr:
    try:
        _ = urlsplit(value.get_secret_value()).port
    except ValueError:
        msg = "is not a valid URL: a password in it must be percent-encoded"
        raise ValueError(msg) from None
    return value


def _not_one_of(other: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        if value.get_secret_value().startswith(other):
            msg = f"has the other key's value, {other}…"
            raise ValueError(msg)
        return value

    return AfterValidator(check)


DatabaseUrl = Annotated[SecretStr, _url_of(("postgresql", "postgres"), DATABASE_EXAMPLE)]
RedisUrl = Annotated[SecretStr, _url_of(("redis", "rediss", "unix"), _REDIS_EXAMPLE), AfterValidator(_whole)]
SupabaseAnonKey = Annotated[SecretStr, _not_one_of("sb_secret_")]
SupabaseServiceRoleKey = Annotated[SecretStr, _not_one_of("sb_publishable_")]
