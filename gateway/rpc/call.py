"""One call on its way through the chain, the same for every door."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.rpc.trace import continued

if TYPE_CHECKING:
    from protobuf import Message

    from gateway.rpc.methods import Method
    from gateway.rpc.policy import Policy
    from gateway.rpc.principal import Principal

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="")
"""Id of the request that a task works for, and the tasks that it starts; empty for the gateway's own work."""


@dataclass(slots=True)
class Call:
    """A request as it came, and what the chain has found out about it.

    `metadata` holds the request headers by lower-case name; several values of one
    name are joined by commas (RFC 9110, 5.3), those of `-bin` names are base64.
    `body` is the request message as sent: uncompressed and unframed, and not yet
    decoded. `target` is what a signature covers: `path?query` over REST,
    `/package.Service/Method` elsewhere. `peer` is the other end of the connection as the
    door knows it, `address` the client's IP address behind trusted proxies (empty where
    there is none), `door` is grpc, connect, grpc-web or rest. `timeout` is the caller's
    deadline in seconds from `started`. `key_id` is the public id of the API key that the
    caller showed, alone or beside a token. `policy` is that of the organization which the
    call acts for, None where it acts for none that the caller belongs to. `organization_id`
    is whose rows a stream tells of, which its service finds out.

    Whatever the outcome, the caller gets `response_metadata` as headers (over gRPC as
    trailers, which cost no write of their own), `leading_metadata` as headers on every
    door if it is set before the first message, and `trailing_metadata` after the last.
    """

    method: Method
    metadata: Mapping[str, str]
    body: bytes
    decode: Callable[[], Message]
    http_method: str
    target: str
    peer: str | None = None
    timeout: float | None = None
    door: str = ""
    started: float = field(default_factory=time.monotonic)
    request_id: str = ""
    address: str = ""
    principal: Principal | None = None
    key_id: str = ""
    policy: Policy | None = None
    organization_id: str = ""
    request: Message | None = None
    response_metadata: list[tuple[str, str]] = field(default_factory=list)
    leading_metadata: list[tuple[str, str]] = field(default_factory=list)
    trailing_metadata: list[tuple[str, str]] = field(default_factory=list)

    @property
    def traceparent(self) -> str:
        """The caller's trace, or a new one, for one request to another server: another span each time."""
        return continued(self.metadata.get("traceparent"))

    @property
    def tenant(self) -> str | None:
        """Id of the organization that the call tells of, or else acts for; None while none is known."""
        if self.organization_id:
            return self.organization_id
        if self.policy is not None:
            return self.policy.organization_id
        return self.principal.tenant if self.principal else None

    @property
    def caller(self) -> Principal:
        """The authenticated principal.

        Raises LookupError on a method that is open to everyone.
        """
        if self.principal is None:
            msg = f"{self.method.path} has no authenticated caller"
            raise LookupError(msg)
        return self.principal
