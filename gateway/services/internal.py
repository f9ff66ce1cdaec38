"""InternalService: what n8n calls."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import orjson

from gateway.executions.credentials import PREFIX, hash_of
from gateway.gen.n8ngateway.v1.internal_service_pb import (
    RedeemCredentialsRequest,
    RedeemCredentialsResponse,
)
from gateway.rpc.errors import InvalidArgument

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.adapters.vault import Vault
    from gateway.rpc.call import Call

EXECUTION_HEADER = "x-gateway-execution-id"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class InternalService:
    """Believes n8n that it is n8n, and a run only what its own tokens prove."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

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
        )
        redeemed = orjson.loads(text)
        values = self._vault.open(redeemed["organization_id"], redeemed["secrets"])
        return RedeemCredentialsResponse(
            credentials={name.removeprefix(PREFIX): value for name, value in values.items()}
        )
