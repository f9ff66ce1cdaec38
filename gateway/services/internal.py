"""InternalService: what n8n calls."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import orjson

from gateway.adapters.n8n import API_KEY, INTERNAL_SECRET
from gateway.executions.credentials import PREFIX, hash_of
from gateway.executions.reported_error import ReportedError
from gateway.executions.token import HEADER as TOKEN_HEADER
from gateway.executions.token import ExecutionTokens, TokenOwner
from gateway.gen.n8ngateway.v1.internal_service_pb import (
    LogErrorRequest,
    LogErrorResponse,
    RedeemCredentialsRequest,
    RedeemCredentialsResponse,
    ReportProgressRequest,
    ReportProgressResponse,
)
from gateway.rpc.errors import InvalidArgument, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.adapters.database import Database
    from gateway.adapters.vault import Vault
    from gateway.executions.reports import Reports
    from gateway.rpc.call import Call

EXECUTION_HEADER = "x-gateway-execution-id"

_SETTLING_PAUSES = (0.2, 0.8, 2.0)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class InternalService:
    """Believes n8n that it is n8n, and a run only what its own tokens prove."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        tokens: ExecutionTokens,
        reports: Reports,
        secrets: Collection[str],
    ) -> None:
        """`secrets` are the gateway's own, which no log is to hold."""
        self._database = database
        self._vault = vault
        self._tokens = tokens
        self._reports = reports
        self._secrets = secrets

    async def log_error(self, request: LogErrorRequest, call: Call) -> LogErrorResponse:
        """Write a failure down for the admins of the organization that it can be proven to be of."""
        error = ReportedError(request)
        owner = self._run_of(request.execution_id, call)
        matched = await self._matched(error, owner, request.org_id, call)
        secrets = await self._secrets_of(matched["organization_id"] or request.org_id)
        text = await self._database.call(
            "log_error",
            None,
            p_error=await error.row(secrets),
            p_organization_id=matched["organization_id"],
            p_execution_id=matched["execution_id"],
        )
        return LogErrorResponse(id=orjson.loads(text)["id"], execution_id=matched["execution_id"] or "")

    async def _matched(
        self, error: ReportedError, owner: TokenOwner | None, claimed: str, call: Call
    ) -> dict[str, str | None]:
        """Whose it is. The run that n8n's id tells of may be about to be settled, and known only then."""
        pauses = iter(_SETTLING_PAUSES if owner is None and error.n8n_execution_id else ())
        while True:
            text = await self._database.call(
                "match_error",
                None,
                p_execution_id=owner.execution_id if owner else None,
                p_organization_id=owner.organization_id if owner else None,
                p_n8n_execution_id=error.n8n_execution_id,
                p_claimed_organization_id=claimed or None,
                p_organization_ids=_speaks_for(call),
            )
            matched: dict[str, str | None] = orjson.loads(text)
            pause = next(pauses, None)
            if matched["execution_id"] is not None or pause is None:
                return matched
            await asyncio.sleep(pause)

    async def report_progress(self, request: ReportProgressRequest, call: Call) -> ReportProgressResponse:
        """Add what a run has done to its events. Raises PermissionDenied without the run's own token."""
        owner = self._run_of(request.execution_id, call)
        speaks_for = call.caller.organizations
        if owner is None or (speaks_for is not None and owner.organization_id not in speaks_for):
            raise _foreign_token()
        return ReportProgressResponse(sequence=await self._reports.take(owner.execution_id, request))

    def _run_of(self, named: str, call: Call) -> TokenOwner | None:
        """The run that the call's token proves; None without one. Raises PermissionDenied."""
        token = call.metadata.get(TOKEN_HEADER, "")
        owner = self._tokens.read(token) if token else None
        if (token and owner is None) or (named and (owner is None or named.lower() != owner.execution_id)):
            raise _foreign_token()
        return owner

    async def _secrets_of(self, organization_id: str) -> list[str]:
        if not organization_id:
            return [*self._secrets]
        own = await self._vault.reveal(organization_id, prefix=PREFIX)
        n8n = await self._vault.reveal(organization_id, names=[INTERNAL_SECRET, API_KEY])
        return [*self._secrets, *own.values(), *n8n.values()]

    async def redeem_credentials(
        self, request: RedeemCredentialsRequest, call: Call
    ) -> RedeemCredentialsResponse:
        """The credentials behind a run's handle, once. The run is that of X-Gateway-Execution-Id."""
        execution_id = call.metadata.get(EXECUTION_HEADER, "")
        if not _UUID.fullmatch(execution_id):
            problem = "must be the run's own, as the gateway sent it"
            raise InvalidArgument(
                f"X-Gateway-Execution-Id {problem}.",
                reason="INVALID_FIELD",
                fields={"X-Gateway-Execution-Id": problem},
            )
        text = await self._database.call(
            "redeem_credential_handle",
            None,
            p_handle_hash=hash_of(request.handle),
            p_execution_id=execution_id,
            p_names=list(request.names),
            p_organization_ids=_speaks_for(call),
        )
        redeemed = orjson.loads(text)
        values = self._vault.open(redeemed["organization_id"], redeemed["secrets"])
        return RedeemCredentialsResponse(
            credentials={name.removeprefix(PREFIX): value for name, value in values.items()}
        )


def _speaks_for(call: Call) -> list[str] | None:
    """The organizations of the n8n that calls; None for the default one."""
    organizations = call.caller.organizations
    return None if organizations is None else sorted(organizations)


def _foreign_token() -> PermissionDenied:
    msg = "X-Gateway-Execution-Token is not that of the run."
    return PermissionDenied(msg, reason="EXECUTION_TOKEN_INVALID")
