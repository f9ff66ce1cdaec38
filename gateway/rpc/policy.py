"""What an organization asks of those who act for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.gen.n8ngateway.v1.organization_pb import AuthPolicy, FingerprintPolicy


@dataclass(frozen=True, slots=True)
class Policy:
    """An organization's own rules for its callers.

    `minimum_signature_version` and `max_open_streams` are 0 where the gateway's default holds;
    `rate_limit` is requests and the seconds of their period, None for the gateway's default.
    """

    organization_id: str
    auth_policy: AuthPolicy
    minimum_signature_version: int
    fingerprint_policy: FingerprintPolicy
    rate_limit: tuple[int, int] | None
    max_open_streams: int
    is_active: bool = True

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Policy:
        """The policy in the form that the database gives it (gateway.policy_json)."""
        limit = row["rate_limit"]
        return cls(
            organization_id=row["organization_id"],
            auth_policy=AuthPolicy[row["auth_policy"].removeprefix("AUTH_POLICY_")],
            minimum_signature_version=row["minimum_signature_version"],
            fingerprint_policy=FingerprintPolicy[
                row["fingerprint_policy"].removeprefix("FINGERPRINT_POLICY_")
            ],
            rate_limit=(limit["requests"], limit["period_seconds"]) if limit else None,
            max_open_streams=row["max_open_streams"],
            is_active=row["is_active"],
        )
