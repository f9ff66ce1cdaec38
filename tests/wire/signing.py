"""Signs requests of every door's client, as their users do."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.rpc.signature import SignedRequest, Version, sign
from tests.wire.clients import Client
from tests.wire.conftest import World


@dataclass(frozen=True)
class SigningKey:
    """An API key and its client secret."""

    key: str = field(repr=False)
    client_secret: str = field(repr=False)

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> SigningKey:
        """What CreateApiKey and RotateApiKey answer."""
        return cls(made["key"], made["client_secret"])

    def headers(
        self,
        client: Client,
        method: Any,
        body: bytes,
        *,
        version: Version = 2,
        tenant: str = "",
        **changed: Any,
    ) -> dict[str, str]:
        """The headers of a signed request; `changed` is what another one is signed with."""
        sent = client.sent(method, body)
        request = SignedRequest(
            timestamp=str(int(time.time())),
            nonce=secrets.token_hex(16),
            tenant=tenant,
            key_id=self.key.rpartition("_")[0],
            http_method=sent.http_method,
            target=sent.target,
            content_type=sent.content_type,
            message=sent.message,
        )
        headers = {"X-API-Key": self.key, "X-Timestamp": changed.get("timestamp", request.timestamp)}
        if version == 2:
            headers["X-Nonce"] = changed.get("nonce", request.nonce)
        if tenant:
            headers["X-Tenant-ID"] = tenant
        signed = replace(request, **changed)
        return headers | {"X-Signature": sign(signed, self.client_secret, version)}


def seeded_key(world: World) -> SigningKey:
    """The key that `dev` made."""
    return SigningKey(world.dev.ready["api_key"], world.dev.ready["client_secret"])
