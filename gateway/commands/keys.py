"""The command `n8n-gateway keys`: what the operator of the platform does with organizations' API keys.

The API's own service answers, over the database alone: no gateway has to serve.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer
from protobuf import Message
from rich.console import Console

from gateway.adapters.postgres import PostgresDatabase
from gateway.adapters.vault import SealedVault, SupabaseVault, Vault
from gateway.chain.authenticate import PLATFORM
from gateway.commands import given
from gateway.commands.platform import DatabaseUrl, Organization, call, hold, on_database, rate_limit
from gateway.gen.n8ngateway.v1.api_key_pb import ApiKey, ApiKeyState
from gateway.gen.n8ngateway.v1.api_key_service_pb import (
    CreateApiKeyRequest,
    CreateApiKeyResponse,
    ListApiKeysRequest,
    ListApiKeysResponse,
    RevokeApiKeyRequest,
    RevokeApiKeyResponse,
    RotateApiKeyRequest,
    RotateApiKeyResponse,
)
from gateway.rpc import api
from gateway.rpc.api_keys import parse_key
from gateway.rpc.call import Call
from gateway.rpc.errors import FailedPrecondition, NotFound
from gateway.rpc.methods import MethodTable
from gateway.rpc.scopes import DEFAULT_SCOPES, GRANTABLE
from gateway.services.api_key import ApiKeyService
from gateway.settings import parse_vault_keys
from gateway.transcoding import Options, json_encoder

application = typer.Typer(
    help="API keys of organizations: make, list, rotate and revoke them.", no_args_is_help=True
)

_PAGE = 200
_OPTIONS = {"workflow_ids": "--workflow", "scopes": "--scope", "expires_at": "--expires"}
_DURATION = re.compile(r"(\d{1,5})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PUBLIC_ID = re.compile(r"gw_(live|test)_[a-z2-7]{16}")


class Environment(StrEnum):
    """What a key begins with: `ApiKeyEnvironment` of the API."""

    LIVE = "live"
    TEST = "test"


class State(StrEnum):
    """Which keys are listed: `ApiKeyState` of the API."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


Key = Annotated[str, typer.Argument(help="Its public id, gw_live_…, as `keys list` shows it.")]
VaultKey = Annotated[
    str | None,
    given.secret_option("VAULT_KEY", "The gateway's, if it has one"),
]
Json = Annotated[bool, typer.Option("--json", help="Print what the API answers.")]


@application.command()
def create(  # noqa: PLR0913 - one parameter for each option
    *,
    organization: Organization,
    name: Annotated[str, typer.Option(help="Shown to its admins.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What it may do: {', '.join(sorted(GRANTABLE))}, or executions:* for all of a resource;"
            f" {' and '.join(DEFAULT_SCOPES)} when not given. Can be given again."
        ),
    ] = None,
    workflow: Annotated[
        list[UUID] | None,
        typer.Option(help="The only workflow that it may see and run. Can be given again."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="In how long, such as 90d or 12h, or when: 2027-01-31T12:00:00Z.")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Its own limit, such as 30/minute.")] = None,
    environment: Annotated[Environment, typer.Option(help="What it begins with.")] = Environment.LIVE,
    vault_key: VaultKey = None,
    as_json: Json = False,
    database_url: DatabaseUrl,
) -> None:
    """Make a key and its client secret, and show both this once."""
    key: dict[str, Any] = {
        "name": name,
        "environment": f"API_KEY_ENVIRONMENT_{environment.name}",
        "scopes": scope or [],
        "workflow_ids": [str(id_) for id_ in workflow or []],
    }
    if expires is not None:
        key["expires_at"] = _moment(expires)
    if rate is not None:
        key["rate_limit"] = rate_limit(rate)
    request = hold(CreateApiKeyRequest, _OPTIONS, organization_id=str(organization), api_key=key)
    _show_secrets(_answer(database_url, request, keeps_with=_keys(vault_key)), as_json=as_json)


@application.command("list")
def list_(
    *,
    organization: Organization,
    state: Annotated[State | None, typer.Option(help="Only those; all when not given.")] = None,
    as_json: Json = False,
    database_url: DatabaseUrl,
) -> None:
    """List keys, newest first, without their secrets."""
    wanted = ApiKeyState.UNSPECIFIED if state is None else ApiKeyState[state.name]
    request = ListApiKeysRequest(organization_id=str(organization), state=wanted, page_size=_PAGE)
    listed = ListApiKeysResponse()
    while True:
        page: Any = _answer(database_url, request)
        listed.api_keys.extend(page.api_keys)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    if as_json:
        _print(listed)
        return
    console = Console(highlight=False, soft_wrap=True)
    if not listed.api_keys:
        console.print("There are none.")
    for key in listed.api_keys:
        console.print(f"[bold]{key.public_id}[/]  {key.state.name.lower()}", end="  ")
        console.print(key.name, markup=False)
        for told, value in _facts(key):
            console.print(f"  {told} {value}", markup=False)


@application.command()
def rotate(
    key: Key,
    *,
    overlap: Annotated[
        str, typer.Option(help="For how long the old key and secret still work: 0s to 30d.")
    ] = "1d",
    vault_key: VaultKey = None,
    as_json: Json = False,
    database_url: DatabaseUrl,
) -> None:
    """Give a key another secret and client secret, and show both this once."""
    seconds = _duration(overlap)
    if seconds is None:
        raise typer.BadParameter("must be a time such as 36h, 7d or 0s", param_hint="--overlap")
    options = {"overlap_seconds": "--overlap"}
    request = hold(
        RotateApiKeyRequest,
        options,
        **_named(database_url, key),
        overlap_seconds=int(seconds.total_seconds()),
    )
    _show_secrets(_answer(database_url, request, keeps_with=_keys(vault_key)), as_json=as_json)


@application.command()
def revoke(key: Key, *, as_json: Json = False, database_url: DatabaseUrl) -> None:
    """End a key: every gateway refuses it within five seconds. To revoke it again changes nothing."""
    revoked: Any = _answer(database_url, RevokeApiKeyRequest(**_named(database_url, key)))
    if as_json:
        _print(revoked.api_key)
    else:
        _show(revoked.api_key)


def _answer(
    database_url: str, request: Message, *, keeps_with: list[tuple[str, bytes]] | None = None
) -> Message:
    """What the API answers the platform; `keeps_with` for a request that keeps a secret. Raises RpcError."""

    async def answered(database: PostgresDatabase) -> Message:
        vault = SupabaseVault(database) if keeps_with is None else await _vault(database, keeps_with)
        methods = MethodTable([(api.API_KEY, ApiKeyService(database, vault, _tell_nobody))])
        method = next(method for method in methods if method.input is type(request))
        asked = Call(
            method,
            metadata={},
            body=b"",
            decode=lambda: request,
            http_method="POST",
            target=method.path,
            principal=PLATFORM,
        )
        answer: Message = await method.implementation(request, asked)
        return answer

    return on_database(database_url, answered)


async def _vault(database: PostgresDatabase, keys: list[tuple[str, bytes]]) -> Vault:
    """Where the gateway looks for client secrets. Raises FailedPrecondition where it would not find them."""
    vault: Vault
    if keys:
        vault = SealedVault(database, keys)
    elif (await database.facts()).has_vault:
        vault = SupabaseVault(database)
    else:
        raise FailedPrecondition(
            "VAULT_KEY is missing: set it in the environment, the same as the gateway's.",
            reason="VAULT_MISSING",
        )
    await vault.check()
    return vault


async def _tell_nobody(_public_id: str) -> None:
    """Gateways learn of it when what they remember of the key is five seconds old."""


def _keys(text: str | None) -> list[tuple[str, bytes]]:
    try:
        return parse_vault_keys(text) if text else []
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="VAULT_KEY") from None


def _named(database_url: str, key: str) -> dict[str, str]:
    """The organization and id of a key. Raises BadParameter and NotFound."""
    if parse_key(key) is not None:
        raise typer.BadParameter(
            "is a whole key, secret and all: name it by what comes before its last _", param_hint="KEY"
        )
    if not _PUBLIC_ID.fullmatch(key):
        raise typer.BadParameter("must be a public id such as gw_live_ and 16 characters", param_hint="KEY")
    found = call(database_url, "find_api_key", p_public_id=key)
    if not found:
        raise NotFound("There is no such API key.", reason="API_KEY_NOT_FOUND")
    return {"organization_id": found["organization_id"], "id": found["id"]}


def _moment(text: str) -> str:
    """A time or a duration from now, as RFC 3339 has it. Raises BadParameter."""
    duration = _duration(text)
    try:
        moment = datetime.now(UTC) + duration if duration is not None else datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            "must be a time such as 90d or 12h, or a moment such as 2027-01-31T12:00:00Z",
            param_hint="--expires",
        ) from None


def _duration(text: str) -> timedelta | None:
    match = _DURATION.fullmatch(text)
    return None if match is None else timedelta(**{_UNITS[match[2]]: int(match[1])})


def _show_secrets(made: Any, *, as_json: bool) -> None:
    """Both secrets of a key on standard output, and what goes with them."""
    if as_json:
        _print(made)
        return
    _show(made.api_key)
    sys.stdout.write(f"  key {made.key}\n  client secret {made.client_secret}\n")
    Console(stderr=True, highlight=False, soft_wrap=True).print("Keep both now: nothing shows them again.")


def _show(key: ApiKey) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"  public id {key.public_id}\n  state {key.state.name.lower()}")
    console.print(f"  name {key.name}", markup=False)
    for told, value in _facts(key):
        console.print(f"  {told} {value}", markup=False)


def _facts(key: ApiKey) -> Iterator[tuple[str, str]]:
    """What is known of a key beside its names, those of it that are there."""
    yield "scopes", ", ".join(key.scopes)
    if key.workflow_ids:
        yield "workflows", ", ".join(key.workflow_ids)
    if key.rate_limit is not None:
        yield "limit", f"{key.rate_limit.requests} in {key.rate_limit.period_seconds} s"
    times = {
        "created": key.created_at,
        "last used": key.last_used_at,
        "old key ends": key.previous_expires_at,
        "expires": key.expires_at,
        "revoked": key.revoked_at,
    }
    for told, time in times.items():
        if time is not None:
            yield told, orjson.loads(time.to_json())


def _print(
    answer: CreateApiKeyResponse | RotateApiKeyResponse | RevokeApiKeyResponse | ListApiKeysResponse | ApiKey,
) -> None:
    """Print an answer in the JSON form of the API."""
    told = orjson.loads(json_encoder(answer.desc(), Options())(answer))
    sys.stdout.write(f"{orjson.dumps(told, option=orjson.OPT_INDENT_2).decode()}\n")
