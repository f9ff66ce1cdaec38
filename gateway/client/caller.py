"""Who calls, and where: the headers of a request, its signature, and how its server is known."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from protobuf import DescMethod, Message

from gateway.rpc.api_keys import parse_key
from gateway.rpc.signature import SignedRequest, signed_headers

Trace = Callable[[str, str, Iterable[tuple[str, str]]], None]
"""Is shown the request (`>`) and the answer (`<`): its first line, and the headers that go with it."""

CONNECT_SECONDS = 10.0
"""How long a connection may take to be made."""

MOST_BYTES = 32 << 20
"""Of one message: the gateway takes answers of n8n that are larger than what clients take by themselves."""

TOO_LARGE = f"A message of the answer is over {MOST_BYTES >> 20} MiB."

_SHOWN = {
    *(
        "accept",
        "content-type",
        "user-agent",
        "traceparent",
        "tracestate",
        "idempotency-key",
        "last-event-id",
    ),
    *("x-tenant-id", "x-timestamp", "x-nonce", "x-request-id", "x-dev-user-id", "x-dev-org-id"),
    *("connect-timeout-ms", "host", "connection", "accept-encoding", "content-length"),
}


class Part(NamedTuple):
    """What a signature covers of a request, as it goes over the wire."""

    http_method: str
    target: str
    content_type: str
    message: bytes


@dataclass(frozen=True, slots=True)
class Caller:
    """All that a request says of who makes it; what is not given is not said."""

    token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    client_secret: str | None = field(default=None, repr=False)
    platform_token: str | None = field(default=None, repr=False)
    tenant: str = ""
    headers: Sequence[tuple[str, str]] = field(default=(), repr=False)

    def identify(self, part: Part) -> dict[str, str]:
        """The request's headers, by lower-case name, signed where there is a client secret."""
        found = {"x-tenant-id": self.tenant} if self.tenant else {}
        if self.token is not None:
            found["authorization"] = f"Bearer {self.token}"
        if self.platform_token is not None:
            found["x-platform-token"] = self.platform_token
        if self.api_key is not None:
            found["x-api-key"] = self.api_key
            if self.client_secret is not None:
                found |= self._signature(part, self.api_key, self.client_secret)
        return found | dict(self.headers)

    def _signature(self, part: Part, api_key: str, client_secret: str) -> dict[str, str]:
        request = SignedRequest(
            timestamp=str(int(time.time())),
            nonce=secrets.token_urlsafe(16),
            tenant=self.tenant,
            key_id=api_key.rpartition("_")[0],
            http_method=part.http_method,
            target=part.target,
            content_type=part.content_type,
            message=part.message,
        )
        signed = signed_headers(request, api_key, client_secret)
        signed.pop("Content-Type", None)
        return {name.lower(): value for name, value in signed.items()}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server by its URL (scheme, host, port, a path before all others), and how it is believed.

    `ca_file` holds the authorities in place of the system's; `certificate` and `key` are the caller's own.
    All three are PEM.
    """

    url: str
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def is_encrypted(self) -> bool:
        """Whether it is reached over TLS."""
        return self.url.startswith("https:")

    def tls(self) -> ssl.SSLContext:
        """For clients on Python's own TLS; it trusts nobody where none is spoken. Raises OSError."""
        if not self.is_encrypted:
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context

    def pem(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The contents of the three files, for clients with a TLS of their own. Raises OSError."""
        ca, certificate, key = (
            path.read_bytes() if path is not None else None
            for path in (self.ca_file, self.certificate, self.key)
        )
        return ca, certificate, key


@dataclass(frozen=True, slots=True)
class Request:
    """One call to make. `timeout` is in seconds, None for none."""

    method: DescMethod
    message: Message
    caller: Caller
    endpoint: Endpoint
    timeout: float | None
    trace: Trace


def shown(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """A request's headers without what is or may be a secret; of an API key the public id."""
    told: list[tuple[str, str]] = []
    for name, value in headers.items():
        if name == "x-api-key" and parse_key(value) is not None:
            told.append((name, f"{value.rpartition('_')[0]}_…"))
        else:
            told.append((name, value if name in _SHOWN else "…"))
    return told
