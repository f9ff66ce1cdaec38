"""Signed requests: who holds the client secret of an API key, sent these very bytes, just now, and once."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from gateway.chain.authenticate import SIGNED_CLAIM
from gateway.gen.n8ngateway.v1.organization_pb import AuthPolicy
from gateway.rpc.errors import InvalidArgument, PermissionDenied, Unauthenticated
from gateway.rpc.principal import Kind
from gateway.rpc.scopes import scope_of
from gateway.rpc.signature import (
    MOST_SIGNATURES,
    NONCE,
    TIMESTAMP,
    SignedRequest,
    Version,
    mac,
    parse_signatures,
)

if TYPE_CHECKING:
    from gateway.rpc.call import Call
    from gateway.rpc.principal import Principal

    ClientSecrets = Callable[[str], Awaitable[Sequence[bytes]]]
    TakeNonce = Callable[[str, int], Awaitable[bool]]

_RUNS = "executions:write"
_HEADERS = {"x-timestamp": "X-Timestamp", "x-signature": "X-Signature", "x-nonce": "X-Nonce"}


class Signatures:
    """Verifies the signature of a call where its key, or the policy of its organization, asks for one.

    `client_secrets` gives those that are valid for the public id of a key. `take` takes a nonce for so
    many seconds, and says whether nobody has it; when it raises, the call is refused. `demand` is whether
    keys sign where their organization leaves it to the gateway, `tolerance` how many seconds a timestamp
    may be off.

    The nonce is taken last, so that who has no secret cannot fill the memory of nonces. It is kept for
    twice the tolerance: as long as the timestamp can be within it.
    """

    def __init__(
        self,
        client_secrets: ClientSecrets,
        take: TakeNonce,
        *,
        demand: bool,
        tolerance: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client_secrets = client_secrets
        self._take = take
        self._demand = demand
        self._tolerance = tolerance
        self._now = now

    async def __call__(self, call: Call) -> None:
        """Let the call on, its principal marked as signed if it is a user who signed.

        Raises Unauthenticated for what is missing or wrong of a signature, PermissionDenied where the policy
        does not let this kind of caller do this, Unavailable when nobody can tell whether a nonce is new.
        """
        principal = call.principal
        if principal is None or principal.kind not in {Kind.USER, Kind.API_KEY}:
            return
        policy = call.policy.auth_policy if call.policy else AuthPolicy.JWT
        is_key = principal.kind is Kind.API_KEY
        if is_key and policy is AuthPolicy.JWT_AND_SIGNED:
            msg = "The organization asks for a session token beside the key and its signature."
            raise Unauthenticated(msg, reason="AUTH_POLICY")
        if not is_key and policy is AuthPolicy.SIGNED_KEY and scope_of(call.method.descriptor) == _RUNS:
            msg = "The organization lets only API keys run workflows, with a signature."
            raise PermissionDenied(msg, reason="AUTH_POLICY")
        if is_key and (self._demand or policy is AuthPolicy.SIGNED_KEY):
            await self._verify(call)
        elif not is_key and call.key_id:
            call.principal = _signed(principal, await self._verify(call))
        elif not is_key and call.metadata.get("x-signature"):
            msg = (
                "X-Signature needs X-API-Key: the key whose client secret made it, beside the session token."
            )
            raise Unauthenticated(msg, reason="SIGNATURE_WITHOUT_KEY")
        elif not is_key and policy is AuthPolicy.JWT_AND_SIGNED:
            msg = "The organization asks for a signature by one of its API keys beside the session token."
            raise Unauthenticated(msg, reason="SIGNATURE_MISSING")

    async def _verify(self, call: Call) -> Version:
        """The version of the call's signature, which holds."""
        version, signatures = self._given(call)
        request = SignedRequest(
            timestamp=call.metadata.get("x-timestamp", ""),
            nonce=call.metadata.get("x-nonce", ""),
            tenant=call.metadata.get("x-tenant-id", ""),
            key_id=call.key_id,
            http_method=call.http_method,
            target=call.target,
            content_type=call.metadata.get("content-type", ""),
            message=call.body,
        )
        self._check_form(request, version)
        text = request.text(version)
        expected = [mac(text, secret) for secret in await self._client_secrets(call.key_id)]
        # Each is compared with each, so that time does not tell which of them held.
        if not sum(hmac.compare_digest(given, mine) for given in signatures for mine in expected):
            msg = "The signature is not that of this request, or not by this key's client secret."
            raise Unauthenticated(msg, reason="SIGNATURE_INVALID")
        # What was signed, not its signature: during a rotation the same request has several of these.
        nonce = request.nonce if version == 2 else hashlib.sha256(text).hexdigest()  # noqa: PLR2004
        if not await self._take(f"{call.key_id}:{nonce}", 2 * self._tolerance):
            msg = "A request with this nonce, or with this version 1 signature, has been made already."
            raise Unauthenticated(msg, reason="SIGNATURE_REPLAYED")
        return version

    def _given(self, call: Call) -> tuple[Version, list[bytes]]:
        header = call.metadata.get("x-signature", "")
        for name in ("x-signature", "x-timestamp"):
            if not call.metadata.get(name):
                msg = f"The request has to be signed: {_HEADERS[name]} is missing."
                raise Unauthenticated(msg, reason="SIGNATURE_MISSING")
        parsed = parse_signatures(header)
        if parsed is None:
            raise _malformed("x-signature", f"is not v2=<64 hex digits>, at most {MOST_SIGNATURES} by commas")
        minimum = call.policy.minimum_signature_version if call.policy else 0
        if parsed[0] < minimum:
            raise Unauthenticated(
                f"The organization asks for signatures of version {minimum} or above.",
                reason="SIGNATURE_VERSION",
                metadata={"minimum_version": str(minimum)},
            )
        return parsed

    def _check_form(self, request: SignedRequest, version: Version) -> None:
        if not TIMESTAMP.fullmatch(request.timestamp):
            raise _malformed("x-timestamp", "is not a number of seconds since 1970")
        if version == 2 and not NONCE.fullmatch(request.nonce):  # noqa: PLR2004
            raise _malformed("x-nonce", "is not 16 to 64 letters, digits, _ and -")
        now = int(self._now())
        if abs(now - int(request.timestamp)) > self._tolerance:
            raise Unauthenticated(
                f"X-Timestamp is more than {self._tolerance} seconds off the gateway's clock.",
                reason="SIGNATURE_EXPIRED",
                metadata={"server_time": str(now), "tolerance_seconds": str(self._tolerance)},
            )


def _signed(principal: Principal, version: Version) -> Principal:
    """The principal with the claim that its call is signed by a key of the organization that it acts for."""
    claims = orjson.loads(principal.claims)
    claims[SIGNED_CLAIM] = {"organization_id": principal.tenant, "version": version}
    # Its own token does not say so: where the database wants one, the gateway makes it.
    return replace(principal, claims=orjson.dumps(claims).decode(), token=None)


def _malformed(name: str, problem: str) -> InvalidArgument:
    header = _HEADERS[name]
    return InvalidArgument(f"{header} {problem}.", reason="SIGNATURE_MALFORMED", fields={header: problem})
