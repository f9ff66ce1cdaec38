"""Scopes: what an API key may do, `resource:read` or `resource:write`, `resource:*` for both.

Every method has one. A method without side effects reads, every other one writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protobuf import DescMethod

_OF_SERVICE = {
    "OrganizationService": "organizations",
    "ApiKeyService": "api_keys",
    "CreditService": "credits",
    "WorkflowService": "workflows",
    "ExecutionService": "executions",
    "WebhookService": "webhooks",
}
_WITHIN_ORGANIZATIONS = {
    "Credentials": "credentials",
    "Member": "members",
    "Invitation": "members",
    "SecurityEvents": "security_events",
    "AuditEvents": "audit_events",
    "ErrorLogs": "error_logs",
    "N8nInstance": "n8n_instance",
}

DEFAULT_SCOPES = ("executions:*", "workflows:read")

GRANTABLE = frozenset(
    {
        "organizations:read",
        "members:read",
        "workflows:read",
        "executions:read",
        "executions:write",
        "credits:read",
    }
)
"""What a key can be given. A key has the rights of a member, so that all else would never be allowed."""


def scope_of(method: DescMethod) -> str | None:
    """The scope that a method asks for; None for services that no key calls (health, internal)."""
    resource = _OF_SERVICE.get(method.parent.name)
    if resource is None:
        return None
    if resource == "organizations":
        within = (name for part, name in _WITHIN_ORGANIZATIONS.items() if part in method.name)
        resource = next(within, resource)
    return f"{resource}:{'read' if method.idempotency.name == 'NO_SIDE_EFFECTS' else 'write'}"


def is_grantable(scope: str) -> bool:
    """Whether a key can be given this scope, or some of it where it ends with `*`."""
    resource, _, action = scope.partition(":")
    return scope in GRANTABLE or (action == "*" and any(g.startswith(f"{resource}:") for g in GRANTABLE))


def covers(scopes: frozenset[str], needed: str) -> bool:
    """Whether one of `scopes` is the needed one, or all of its resource."""
    return needed in scopes or f"{needed.partition(':')[0]}:*" in scopes
