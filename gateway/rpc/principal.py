"""Who makes a call."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """How a principal came to be known."""

    USER = "user"
    API_KEY = "api_key"
    N8N = "n8n"
    PLATFORM = "platform"


class DatabaseRole(StrEnum):
    """The fixed list of roles that a principal can have in the database."""

    AUTHENTICATED = "authenticated"
    SERVICE = "service_role"


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    `rate_limit` is the caller's own, requests and the seconds of their period, beside its organization's;
    `permissions` are those that an identity provider granted, as `org:feature:permission`;
    `impersonator` is who acts in the subject's name, where somebody does; `scopes` are what an API
    key was given, None for callers that need none. `claims` is the JSON text that the database reads
    as `request.jwt.claims`; `tenant` the organization that the caller chose with X-Tenant-ID, if it
    did; `held_to` the one whose policy the call was held to, empty for none and None where nobody
    looked; `organizations` those that an n8n of their own speaks for, None where that does not confine
    it; `token` the bearer token as sent, never to be logged.
    """

    kind: Kind
    subject: str
    database_role: DatabaseRole
    claims: str
    tenant: str | None = None
    held_to: str | None = None
    session: str | None = None
    permissions: frozenset[str] = frozenset()
    impersonator: str | None = None
    scopes: frozenset[str] | None = None
    organizations: frozenset[str] | None = None
    rate_limit: tuple[int, int] | None = None
    token: str | None = field(default=None, repr=False)
    name: str = field(init=False, repr=False, compare=False)
    """What logs call it: its kind and subject."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.kind}:{self.subject}")
