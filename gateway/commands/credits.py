"""The command `n8n-gateway credits`: what the operator of the platform does with credits."""

from __future__ import annotations

import sys
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console

from gateway.commands.platform import DatabaseUrl, Organization, call, hold
from gateway.gen.n8ngateway.v1.credit_service_pb import AddCreditsRequest, RefundExecutionRequest
from gateway.rpc.resource_json import time_json

application = typer.Typer(help="Credits: add them, show them, prove them.", no_args_is_help=True)


@application.command()
def add(
    *,
    organization: Organization,
    amount: Annotated[int, typer.Option(help="Credits to add; a negative amount takes them.")],
    reference: Annotated[
        str, typer.Option(help="What makes the command safe to repeat, such as an invoice's number.")
    ],
    description: Annotated[str, typer.Option(help="Shown on the statement.")] = "",
    database_url: DatabaseUrl,
) -> None:
    """Add credits, once for a reference, and say so when they were added before."""
    hold(
        AddCreditsRequest,
        {"idempotency_key": "--reference"},
        organization_id=str(organization),
        amount=amount,
        idempotency_key=reference,
        description=description,
    )
    added = call(
        database_url,
        "add_credits",
        p_organization_id=organization,
        p_amount=amount,
        p_reference=reference,
        p_description=description,
    )
    if added["added_before"]:
        entry = added["entry"]
        Console(highlight=False, soft_wrap=True).print(
            f"This reference was added before, at {time_json(entry['created_at'])}: nothing was added now."
        )
    _balance(added["balance"])


@application.command()
def refund(
    *,
    organization: Organization,
    execution: Annotated[UUID, typer.Option(help="The id of the run that was charged.")],
    amount: Annotated[
        int | None, typer.Option(min=1, help="Credits to give back; all that was charged when not given.")
    ] = None,
    description: Annotated[str, typer.Option(help="Shown on the statement.")] = "",
    database_url: DatabaseUrl,
) -> None:
    """Give back what a run was charged, or a part of it, once."""
    hold(
        RefundExecutionRequest,
        organization_id=str(organization),
        execution_id=str(execution),
        amount=amount,
        description=description,
    )
    refunded = call(
        database_url,
        "refund_execution",
        p_organization_id=organization,
        p_execution_id=str(execution),
        p_amount=amount,
        p_description=description,
    )
    _balance(refunded["balance"])


@application.command()
def balance(*, organization: Organization, database_url: DatabaseUrl) -> None:
    """Show an organization's balance."""
    _balance(call(database_url, "get_credit_balance", p_organization_id=organization))


@application.command()
def check(
    *,
    organization: Annotated[
        UUID | None, typer.Option(help="The id of one organization; all of them when it is not given.")
    ] = None,
    database_url: DatabaseUrl,
) -> None:
    """Prove the ledger, and exit with 1 when it is wrong: balances, reservations, charges, refunds."""
    proof = call(database_url, "check_credits", p_organization_id=organization)
    console = Console(highlight=False, soft_wrap=True)
    for violation in proof["violations"]:
        where = f"organization {violation['organization_id']}"
        if violation["execution_id"]:
            where += f", execution {violation['execution_id']}"
        console.print(f"  wrong: {violation['rule']} ({where})")
    accounts = _counted(proof["accounts"], "account")
    if proof["found"]:
        console.print(f"{_counted(proof['found'], 'violation')} in {accounts}.")
        sys.exit(1)
    console.print(f"{accounts} {'is' if proof['accounts'] == 1 else 'are'} right.")


def _counted(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _balance(told: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for name in ("balance", "reserved", "available"):
        console.print(f"  {name} {told[name]}")
