"""API keys as proof of identity, in X-API-Key."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import structlog

from gateway.chain.authenticate import KEY_SUBJECT
from gateway.rpc.api_keys import client_secret_name, parse_key
from gateway.rpc.errors import InvalidArgument, PermissionDenied, RpcError, Unauthenticated
from gateway.rpc.policy import Policy
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from gateway.rpc.remembered import Remembered
from gateway.rpc.standing import EVERY_SECONDS

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.adapters.vault import Vault
    from gateway.rpc.call import Call

    Authenticator = Callable[[Call], Awaitable[Principal]]

HEADER = "x-api-key"
TOUCH_SECONDS = 60.0
UNKNOWN_REMEMBERED = 1_000
"""Keys that there are not; who tries out many is for the limiter of failed authentications."""
SECRET_SECONDS = 300.0
"""How long a client secret is remembered. It never changes; whether it is valid is looked up with its key."""

log = structlog.get_logger("gateway.api_keys")


class _SecretOf(NamedTuple):
    """Which client secret: the hash of a key's secret goes with exactly one."""

    public_id: str
    organization_id: str
    secret_hash: str


@dataclass(slots=True)
class _Known:
    """A key as the database knew it; times are in seconds since 1970."""

    id: str
    organization_id: str
    secret_hash: str = field(repr=False)
    previous_hash: str = field(repr=False)
    previous_expires_at: float
    expires_at: float
    is_revoked: bool
    last_used_at: float
    policy: Policy
    principal: Principal


class ApiKeys:
    """Authenticates by API keys, which it looks up in the database with their organization's policy.

    `forget` drops a key at once, where a replica tells of a change; when none can, FRESH_SECONDS alone
    bound how long a revoked key is believed.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._vault = vault
        self._now = now
        self._keys: Remembered[str, _Known | None] = Remembered(
            self._ask, keep=lambda key: key is not None, spare=UNKNOWN_REMEMBERED, clock=clock
        )
        self._secrets: Remembered[_SecretOf, bytes | None] = Remembered(
            self._reveal, fresh=SECRET_SECONDS, keep=lambda secret: secret is not None, clock=clock
        )
        self._touching: set[asyncio.Task[None]] = set()

    async def __call__(self, call: Call) -> Principal:
        """The key, in its own organization, whose policy becomes the call's. The call's key_id is set.

        Raises Unauthenticated for what is no valid key, PermissionDenied when X-Tenant-ID names another
        organization than the key's, Unavailable.
        """
        parsed = parse_key(call.metadata.get(HEADER, ""))
        if parsed is None:
            raise _invalid()
        public_id, secret_hash = parsed
        known = await self._keys.get(public_id)
        if known is None:
            raise _invalid()
        self._check(known, secret_hash)
        tenant = call.metadata.get("x-tenant-id", "").lower()
        if tenant and tenant != known.organization_id:
            msg = "The API key belongs to another organization than X-Tenant-ID names."
            raise PermissionDenied(msg, reason="TENANT_MISMATCH")
        self._touch(known)
        call.key_id, call.policy = public_id, known.policy
        return replace(known.principal, tenant=tenant) if tenant else known.principal

    async def still(self, call: Call) -> None:
        """Check again the key of a call that goes on. Raises Unauthenticated, Unavailable."""
        parsed = parse_key(call.metadata.get(HEADER, ""))
        if parsed is not None:
            known = await self._keys.get(parsed[0], ahead=EVERY_SECONDS)
            if known is None:
                raise _invalid()
            self._check(known, parsed[1])

    async def client_secrets(self, public_id: str) -> list[bytes]:
        """The client secrets by which a key signs now: the present one, and within an overlap the one before.

        Raises what the database and the vault raise.
        """
        known = await self._keys.get(public_id)
        if known is None:
            return []
        hashes = [known.secret_hash]
        if known.previous_expires_at > self._now():
            hashes.append(known.previous_hash)
        found = [
            await self._secrets.get(_SecretOf(public_id, known.organization_id, each)) for each in hashes
        ]
        return [secret for secret in found if secret is not None]

    def forget(self, public_id: str | None) -> None:
        """Ask anew for a key and its secrets at its next use; for every key when None."""
        self._keys.forget(public_id)
        self._secrets.forget_where(lambda of, _: public_id in {None, of.public_id})

    def forget_organization(self, organization_id: str | None) -> None:
        """Ask anew for the keys of an organization at their next use; of every one when None."""
        if organization_id is None:
            self._keys.forget()
        else:
            self._keys.forget_where(lambda _, key: key is not None and key.organization_id == organization_id)

    async def close(self) -> None:
        """Wait for what is still being noted."""
        await asyncio.gather(*self._touching, self._keys.close(), return_exceptions=True)
        await self._secrets.close()

    def _check(self, known: _Known, secret_hash: str) -> None:
        # Both are compared whatever the first says, so that time tells nothing.
        is_current = hmac.compare_digest(secret_hash, known.secret_hash)
        is_previous = hmac.compare_digest(secret_hash, known.previous_hash)
        if not is_current and not is_previous:
            raise _invalid()
        if known.is_revoked:
            raise Unauthenticated("The API key has been revoked.", reason="API_KEY_REVOKED")
        if known.expires_at <= self._now():
            raise Unauthenticated("The API key has expired.", reason="API_KEY_EXPIRED")
        if not is_current and known.previous_expires_at <= self._now():
            raise Unauthenticated("The API key has been rotated: use the new one.", reason="API_KEY_ROTATED")

    async def _ask(self, public_id: str) -> _Known | None:
        row = orjson.loads(await self._database.call("find_api_key", None, p_public_id=public_id))
        return _known(row) if row else None

    async def _reveal(self, of: _SecretOf) -> bytes | None:
        name = client_secret_name(of.secret_hash)
        found = await self._vault.reveal(of.organization_id, names=[name])
        return found[name].encode() if name in found else None

    def _touch(self, known: _Known) -> None:
        if known.last_used_at + TOUCH_SECONDS <= self._now():
            known.last_used_at = self._now()
            task = asyncio.create_task(self._note_use(known.id))
            self._touching.add(task)
            task.add_done_callback(self._touching.discard)

    async def _note_use(self, key_id: str) -> None:
        try:
            await self._database.call("touch_api_key", None, p_id=key_id)
        except RpcError as error:
            log.warning("use of a key not noted", key_id=key_id, reason=error.reason)


class TokenOrKey:
    """A session token or an API key: the one that is there decides who acts.

    Both may be there on a signed call: then the token's user acts, for the organization of the key that
    signs.
    """

    def __init__(self, token: Authenticator, key: Authenticator) -> None:
        self._token = token
        self._key = key

    async def __call__(self, call: Call) -> Principal:
        """Raises what the two raise, and InvalidArgument when both are there without a signature."""
        if HEADER not in call.metadata:
            return await self._token(call)
        if "authorization" not in call.metadata:
            return await self._key(call)
        if "x-signature" not in call.metadata:
            problem = "cannot be sent together with Authorization, unless to sign the request"
            raise InvalidArgument(
                f"X-API-Key {problem}.", reason="SEVERAL_IDENTITIES", fields={"X-API-Key": problem}
            )
        await self._key(call)
        signing, call.policy = call.policy, None
        user = await self._token(call)
        return replace(user, tenant=signing.organization_id) if signing else user


def _known(row: dict[str, Any]) -> _Known:
    claims = {
        "sub": f"{KEY_SUBJECT}{row['id']}",
        "role": DatabaseRole.AUTHENTICATED.value,
        "key_id": row["id"],
        "organization_id": row["organization_id"],
        "scopes": row["scopes"],
    }
    if row["workflow_ids"]:
        claims["workflow_ids"] = row["workflow_ids"]
    return _Known(
        id=row["id"],
        organization_id=row["organization_id"],
        secret_hash=row["secret_hash"],
        previous_hash=row["previous_hash"] or "",
        previous_expires_at=row["previous_expires_at"] or 0.0,
        expires_at=row["expires_at"] or float("inf"),
        is_revoked=row["is_revoked"],
        last_used_at=row["last_used_at"] or 0.0,
        policy=Policy.of(row["policy"]),
        principal=Principal(
            kind=Kind.API_KEY,
            subject=row["id"],
            database_role=DatabaseRole.AUTHENTICATED,
            claims=json.dumps(claims, separators=(",", ":")),
            held_to=row["organization_id"],
            scopes=frozenset(row["scopes"]),
            rate_limit=tuple(row["rate_limit"]) if row["rate_limit"] else None,
        ),
    )


def _invalid() -> Unauthenticated:
    return Unauthenticated("The API key is not valid.", reason="API_KEY_INVALID")
