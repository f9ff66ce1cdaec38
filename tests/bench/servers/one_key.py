"""A database that knows one API key and says so at once: what its answer costs is measured elsewhere."""

from __future__ import annotations

import json
import time

from gateway.adapters.database import Json
from gateway.adapters.vault import SealedVault
from gateway.chain.api_key import ApiKeys
from gateway.rpc.api_keys import new_key
from gateway.rpc.principal import Principal

KEY = new_key()
_ORGANIZATION = "0190a5b2-7c3d-7e4f-8a1b-2c3d4e5f6a7b"
_POLICY = {
    "organization_id": _ORGANIZATION,
    "auth_policy": "AUTH_POLICY_JWT",
    "minimum_signature_version": 0,
    "fingerprint_policy": "FINGERPRINT_POLICY_LOG",
    "rate_limit": None,
    "max_open_streams": 0,
    "is_active": True,
}


def api_keys() -> ApiKeys:
    """What authenticates by the one key, and knows its client secret."""
    database = _OneKey()
    vault = SealedVault(database, [("1", b"k" * 32)])
    database.secrets[KEY.client_secret_name] = vault.seal(
        _ORGANIZATION, KEY.client_secret_name, KEY.client_secret
    )
    return ApiKeys(database, vault)


class _OneKey:
    def __init__(self) -> None:
        self.secrets: dict[str, Json] = {}

    async def call(self, function: str, principal: Principal | None, /, **_arguments: Json) -> str:
        del principal
        answers: dict[str, Json] = {"find_api_key": _row(), "reveal_secrets": self.secrets}
        return json.dumps(answers.get(function, {}))

    async def ping(self) -> None:
        """It is there."""

    async def close(self) -> None:
        """Nothing is open."""


def _row() -> Json:
    return {
        "id": "0190a5b2-7c3d-7e4f-8a1b-2c3d4e5f6a7c",
        "organization_id": _ORGANIZATION,
        "secret_hash": KEY.secret_hash,
        "previous_hash": None,
        "previous_expires_at": None,
        "expires_at": None,
        "last_used_at": time.time(),
        "is_revoked": False,
        "scopes": ["executions:*"],
        "workflow_ids": [],
        "rate_limit": None,
        "policy": _POLICY,
    }
