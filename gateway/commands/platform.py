"""The command `n8n-gateway platform`: what the operator of the platform alone may do."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeVar, cast
from uuid import UUID

import orjson
import typer
import uvloop
from protobuf import Message
from protovalidate import Validator
from rich.console import Console

from gateway.adapters.postgres import PostgresDatabase, migrations
from gateway.adapters.postgres.migrations import MigrationError
from gateway.adapters.sqlstates import SCHEMA_MISSING
from gateway.chain import validate
from gateway.commands import given
from gateway.gen.n8ngateway.v1.member_pb import Member
from gateway.gen.n8ngateway.v1.organization_pb import Organization as OrganizationMessage
from gateway.gen.n8ngateway.v1.organization_service_pb import CreateOrganizationRequest
from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.gen.n8ngateway.v1.workflow_service_pb import RegisterWorkflowRequest, UpdateWorkflowRequest
from gateway.rpc.errors import Internal, InvalidArgument
from gateway.rpc.resource_json import resource_json
from gateway.settings import parse_rate
from gateway.transcoding import JsonDecoder, JsonError

application = typer.Typer(
    help="Settings of the whole platform, and what it keeps to itself by them.", no_args_is_help=True
)

_NO_SCHEMA = (
    "the schema is missing or of an older version:"
    " set DATABASE_URL to that of its owner, then run `n8n-gateway migrate`"
)

_OPTIONS = {
    "clerk_organization_id": "--clerk-organization",
    "credits_per_execution": "--credits",
    "max_concurrent_executions": "--concurrent-executions",
    "max_open_streams": "--open-streams",
    "profile_id": "--owner",
}

T = TypeVar("T")
M = TypeVar("M", bound=Message)

DatabaseUrl = Annotated[str, given.database_option("its owner or the gateway's own login")]
Organization = Annotated[UUID, typer.Option(help="The organization's id.")]


class Pricing(StrEnum):
    """How the price of a run is found: `PricingMode` of the API."""

    FIXED = "fixed"
    PER_SECOND = "per-second"
    REPORTED_UNITS = "reported-units"


class Response(StrEnum):
    """How n8n answers: `ResponseMode` of the API."""

    AUTO = "auto"
    DOCUMENT = "document"
    STREAMING = "streaming"


COST = "What a run costs; the most that it may cost when it is priced by the second or by units."
CreditsPerUnit = Annotated[
    int | None, typer.Option(help="What a second or a reported unit costs, when that is how runs are priced.")
]
PricingMode = Annotated[
    Pricing | None,
    typer.Option(help="How runs are priced: --credits each, or --credits-per-unit up to --credits."),
]
ResponseMode = Annotated[Response | None, typer.Option(help="How the workflow answers in n8n.")]


@application.command()
def show(*, database_url: DatabaseUrl) -> None:
    """Show the settings."""
    _settings(call(database_url, "list_platform_settings"))


@application.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="workflow_management or organization_creation.")],
    value: Annotated[
        str, typer.Argument(help="organization, anyone or platform; default for as if nobody had decided.")
    ],
    *,
    database_url: DatabaseUrl,
) -> None:
    """Change a setting; it holds at once."""
    _settings(call(database_url, "set_platform_setting", p_name=name, p_value=value))


@application.command()
def create_organization(
    *,
    name: Annotated[str, typer.Option(help="Its name.")],
    owner: Annotated[str, typer.Option(help="Subject of the owner's session tokens, such as user_2abc.")],
    clerk_organization: Annotated[
        str | None, typer.Option(help="The Clerk organization whose tokens act for it.")
    ] = None,
    database_url: DatabaseUrl,
) -> None:
    """Create an organization for a user."""
    organization = {"name": name, "clerk_organization_id": clerk_organization}
    hold(CreateOrganizationRequest, _OPTIONS, organization=organization)
    hold(Member, _OPTIONS, profile_id=owner)
    created = call(database_url, "create_organization_for", p_organization=organization, p_owner=owner)
    _print(OrganizationMessage, created)


@application.command()
def register_workflow(  # noqa: PLR0913 - one parameter for each option
    *,
    organization: Organization,
    name: Annotated[str, typer.Option(help="Its name, one of its own within the organization.")],
    webhook_path: Annotated[str, typer.Option(help="What follows /webhook/ in n8n.")],
    credits_: Annotated[int, typer.Option("--credits", help=COST)] = 0,
    credits_per_unit: CreditsPerUnit = None,
    pricing_mode: PricingMode = None,
    response_mode: ResponseMode = None,
    description: Annotated[str, typer.Option(help="Shown to members.")] = "",
    database_url: DatabaseUrl,
) -> None:
    """Register a workflow for an organization."""
    workflow = {
        "organization_id": str(organization),
        "name": name,
        "description": description,
        "webhook_path": webhook_path,
        "credits_per_execution": credits_,
        **_modes(credits_per_unit, pricing_mode, response_mode),
    }
    hold(RegisterWorkflowRequest, _OPTIONS, workflow=workflow)
    _print(Workflow, call(database_url, "register_workflow", p_workflow=workflow))


@application.command()
def update_workflow(
    *,
    workflow: Annotated[UUID, typer.Option(help="The workflow's id.")],
    webhook_path: Annotated[str | None, typer.Option(help="What follows /webhook/ in n8n.")] = None,
    credits_: Annotated[int | None, typer.Option("--credits", help=COST)] = None,
    credits_per_unit: CreditsPerUnit = None,
    pricing_mode: PricingMode = None,
    response_mode: ResponseMode = None,
    active: Annotated[bool | None, typer.Option("--active/--inactive", help="Whether it can be run.")] = None,
    database_url: DatabaseUrl,
) -> None:
    """Change a workflow's path, price, way of answering or activity. What is not given stays as it is."""
    wanted = {"webhook_path": webhook_path, "credits_per_execution": credits_}
    changes = {name: value for name, value in wanted.items() if value is not None}
    changes |= _modes(credits_per_unit, pricing_mode, response_mode)
    hold(UpdateWorkflowRequest, _OPTIONS, workflow={"id": str(workflow), **changes})
    changed = call(database_url, "update_workflow", p_id=workflow, p_changes=changes)
    if active is not None:
        changed = call(database_url, "set_workflow_active", p_id=workflow, p_active=active)
    _print(Workflow, changed)


@application.command()
def limit(
    *,
    organization: Organization,
    rate: Annotated[
        str | None, typer.Option(help="Calls in a time, such as 500/minute; default for the gateway's.")
    ] = None,
    open_streams: Annotated[
        int | None, typer.Option(min=0, help="Streams open at a time; 0 for the gateway's default.")
    ] = None,
    concurrent_executions: Annotated[
        int | None, typer.Option(min=0, help="Runs under way at a time, further ones wait; 0 for no limit.")
    ] = None,
    database_url: DatabaseUrl,
) -> None:
    """Change what an organization may take, and show it. What is not given stays as it is.

    It holds within five seconds.
    """
    changes: dict[str, Any] = {}
    if rate is not None:
        changes["rate_limit"] = rate_limit(rate)
    if open_streams is not None:
        changes["max_open_streams"] = open_streams
    if concurrent_executions is not None:
        changes["max_concurrent_executions"] = concurrent_executions
    hold(OrganizationMessage, _OPTIONS, **changes)
    changed = call(database_url, "set_limits", p_organization_id=organization, p_changes=changes)
    _print(OrganizationMessage, changed)


def _modes(unit: int | None, pricing: Pricing | None, response: Response | None) -> dict[str, Any]:
    """Those fields of a workflow that were given, as the database takes them."""
    fields: dict[str, Any] = {}
    if unit is not None:
        fields["credits_per_unit"] = unit
    if pricing is not None:
        fields["pricing_mode"] = f"PRICING_MODE_{pricing.name}"
    if response is not None:
        fields["response_mode"] = f"RESPONSE_MODE_{response.name}"
    return fields


def rate_limit(text: str) -> dict[str, int] | None:
    """A rate as the database takes it; None for the gateway's default."""
    if text == "default":
        return None
    try:
        requests, seconds = parse_rate(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rate") from None
    return {"requests": requests, "period_seconds": seconds}


def call(database_url: str, function: str, **arguments: Any) -> Any:
    """Call a function of the database as the platform. Raises RpcError and MigrationError."""

    async def called(database: PostgresDatabase) -> Any:
        return json.loads(await database.call(function, None, **arguments))

    return on_database(database_url, called)


def on_database(database_url: str, work: Callable[[PostgresDatabase], Awaitable[T]]) -> T:
    """Do some work on a database, over one connection. Raises RpcError and MigrationError."""

    async def done() -> T:
        await migrations.reach(database_url)
        database = PostgresDatabase(database_url, max_connections=1)
        try:
            return await work(database)
        except Internal as error:
            if error.reason == SCHEMA_MISSING:
                raise MigrationError(_NO_SCHEMA) from None
            raise
        finally:
            await database.close()

    return uvloop.run(done())


def _settings(settings: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    undecided = settings.pop("undecided", [])
    for name, value in settings.items():
        console.print(f"  {name} {value}" + (" (by default)" if name in undecided else ""))


def hold(request: type[M], options: Mapping[str, str] | None = None, /, **fields: Any) -> M:
    """The API's request of these fields, held to its rules. Raises BadParameter for a wrong option.

    An option has the name of its field, unless `options` names it.
    """
    try:
        held = cast("M", JsonDecoder(request.desc()).from_value(fields))
        validate.check(Validator(), held)
    except InvalidArgument as error:
        path, problem = next(iter(error.fields.items()))
    except JsonError as error:
        path, problem = error.field, error.problem
    else:
        return held
    field = path.rpartition(".")[2].partition("[")[0]
    option = (options or {}).get(field, f"--{field.replace('_', '-')}")
    raise typer.BadParameter(problem, param_hint=option)


def _print(resource: type[Message], row: dict[str, Any]) -> None:
    """Print a resource in the JSON form of the API."""
    sys.stdout.write(f"{orjson.dumps(resource_json(resource)(row), option=orjson.OPT_INDENT_2).decode()}\n")
