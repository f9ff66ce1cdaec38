"""Signatures of requests: HMAC-SHA256 (RFC 2104) with the client secret of an API key, as lower-case hex.

Version 1 signs `{timestamp}{message}`, with nothing between the two. Version 2 also covers where the request
goes and who sends it; its text has these nine lines, joined by line feeds::

    GW2-HMAC-SHA256
    {X-Timestamp: seconds since 1970}
    {X-Nonce: 16 to 64 letters, digits, _ and -}
    {X-Tenant-ID as sent; empty without it}
    {the public id of the API key: all of it before its last _}
    {HTTP method}
    {target: path?query as sent over REST, /package.Service/Method elsewhere}
    {Content-Type as sent; empty without one; application/grpc over gRPC}
    {SHA-256 of the message, as lower-case hex}

The message is the request message as sent, uncompressed and without a frame: over REST and unary Connect the
body, over gRPC, gRPC-Web and Connect streams the one message, of a Connect GET the decoded `message`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Literal

Version = Literal[1, 2]

ALGORITHM = "GW2-HMAC-SHA256"
MOST_SIGNATURES = 3
"""More than a rotation of secrets ever needs."""

TIMESTAMP = re.compile(r"[1-9][0-9]{8,11}")
NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")
_SIGNATURE = re.compile(r"(?:(v[12])=)?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What a signature of either version can cover."""

    timestamp: str
    nonce: str
    tenant: str
    key_id: str
    http_method: str
    target: str
    content_type: str
    message: bytes

    def text(self, version: Version) -> bytes:
        """The bytes that are signed."""
        if version == 1:
            return self.timestamp.encode() + self.message
        lines = (
            ALGORITHM,
            self.timestamp,
            self.nonce,
            self.tenant,
            self.key_id,
            self.http_method,
            self.target,
            self.content_type,
            hashlib.sha256(self.message).hexdigest(),
        )
        return "\n".join(lines).encode()


def sign(request: SignedRequest, client_secret: str, version: Version = 2) -> str:
    """The value of X-Signature."""
    signature = mac(request.text(version), client_secret.encode()).hex()
    return signature if version == 1 else f"v2={signature}"


def signed_headers(
    request: SignedRequest, api_key: str, client_secret: str, version: Version = 2
) -> dict[str, str]:
    """The headers that a signed request carries, by their names."""
    headers = {"X-API-Key": api_key}
    if request.tenant:
        headers["X-Tenant-ID"] = request.tenant
    if request.content_type and not request.content_type.startswith("application/grpc"):
        headers["Content-Type"] = request.content_type
    headers["X-Timestamp"] = request.timestamp
    if version == 2:  # noqa: PLR2004
        headers["X-Nonce"] = request.nonce
    return headers | {"X-Signature": sign(request, client_secret, version)}


def mac(text: bytes, client_secret: bytes) -> bytes:
    """HMAC-SHA256."""
    return hmac.digest(client_secret, text, "sha256")


def parse_signatures(header: str) -> tuple[Version, list[bytes]] | None:
    """The signatures in X-Signature, joined by commas; they share a version.

    None for what has not this form, or holds more than MOST_SIGNATURES.
    """
    parts = header.split(",", MOST_SIGNATURES)
    matches = [_SIGNATURE.fullmatch(part.strip()) for part in parts]
    versions = {match[1] or "v1" for match in matches if match}
    if None in matches or len(versions) != 1 or len(parts) > MOST_SIGNATURES:
        return None
    signatures = [bytes.fromhex(match[2]) for match in matches if match]
    return (2 if versions == {"v2"} else 1), signatures
