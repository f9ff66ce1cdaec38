"""An identity issuer of one's own: signs tokens shaped as Clerk's session tokens, and publishes its key.

With it the gateway's real verification runs, JWKS and all, without an account anywhere.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Self

import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from gateway.local.data_directory import private_directory, write_private
from gateway.local.errors import DataDirectoryError
from gateway.local.loopback import LoopbackServer
from gateway.local.ports import LOOPBACK, Ports

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ALGORITHM = "RS256"
AUTHORIZED_PARTY = "http://localhost:3000"
"""The `azp` of the tokens: the origin of the front end that asked for them."""
PERMISSIONS: Mapping[str, tuple[str, ...]] = {
    "admin": ("org:workflows:read", "org:workflows:manage", "org:credits:read", "org:credits:manage"),
    "member": ("org:workflows:read", "org:credits:read"),
}
"""Permissions that come with a role, unless `mint` is told others."""

DEV_LIFETIME = timedelta(hours=12)
"""Of tokens for a person at a terminal."""

_PART = "issuer"
_KEY_BITS = 2048


class Issuer:
    """Holds the signing key (`issuer-key.pem` of the data directory, mode 0600) and serves its public half.

    `GET /.well-known/jwks.json` (RFC 7517) and `GET /.well-known/openid-configuration`, both public, on a
    loopback port that stays the same from start to start: tokens name it as their issuer.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.expanduser().absolute()
        self._ports = Ports(self._data_dir)
        self._server = LoopbackServer(_PART, self._application)
        self._key: RSAPrivateKey | None = None
        self._key_id = ""
        self._url = ""
        """Where another process serves."""

    async def start(self) -> None:
        """Load the key or make one, and serve it.

        Raises DataDirectoryError if the key file is damaged, PartFailed if no port can be had.
        """
        private_directory(self._data_dir)
        # Making a key takes 0.1 s or more of computing.
        self._key = await asyncio.to_thread(_load_or_make_key, self._data_dir / "issuer-key.pem")
        self._key_id = _thumbprint(self._key)
        await self._server.start(lambda: self._ports.choose(_PART))
        self._ports.remember(_PART, self._server.port)

    def load(self) -> None:
        """Load the key of an issuer that another process serves, or has served, to mint tokens with it.

        Raises DataDirectoryError when there was none.
        """
        key, port = self._data_dir / "issuer-key.pem", self._ports.remembered(_PART)
        if not port or not key.exists():
            msg = f"no `n8n-gateway dev` has ever served with its data in {self._data_dir}"
            raise DataDirectoryError(msg)
        self._key = _load_or_make_key(key)
        self._key_id = _thumbprint(self._key)
        self._url = f"http://{LOOPBACK}:{port}"

    async def stop(self) -> None:
        """Stop serving the key."""
        await self._server.stop()

    @property
    def url(self) -> str:
        """The issuer, as in the tokens' `iss`."""
        return self._url or self._server.url

    @property
    def jwks_url(self) -> str:
        """Where the public key is."""
        return f"{self.url}/.well-known/jwks.json"

    def mint(
        self,
        subject: str,
        *,
        organization_id: str | None = None,
        organization_slug: str | None = None,
        role: str = "admin",
        permissions: Sequence[str] | None = None,
        version: Literal[1, 2] = 2,
        lifetime: timedelta = timedelta(seconds=60),
        session_id: str | None = None,
        **overrides: object,
    ) -> str:
        """Return a signed session token for the user `subject`.

        `organization_id` is Clerk's (`org_…`), `role` without its `org:`, `permissions` as
        `org:feature:permission` (by default those of the role). Version 2 puts them into `o` and `fea`,
        version 1 into `org_*`. `overrides` are claims set last; None takes the claim away. The claim
        `role: "authenticated"` is what Supabase asks for.
        """
        if self._key is None:
            msg = "the issuer has not been started"
            raise RuntimeError(msg)
        now = int(time.time())
        claims: dict[str, object] = {
            "azp": AUTHORIZED_PARTY,
            "exp": now + int(lifetime.total_seconds()),
            "fva": [0, -1],
            "iat": now,
            "iss": self.url,
            "nbf": now - 10,
            "role": "authenticated",
            "sid": session_id or f"sess_{secrets.token_hex(14)}",
            "sub": subject,
        }
        if version == 2:  # noqa: PLR2004 - the version of the token format
            claims |= {"jti": secrets.token_hex(10), "sts": "active", "v": version}
        if organization_id is not None:
            granted = PERMISSIONS.get(role, ()) if permissions is None else permissions
            slug = organization_slug or organization_id.removeprefix("org_").lower()
            organization = _organization_v2 if version == 2 else _organization_v1  # noqa: PLR2004
            claims |= organization(organization_id, slug, role, granted)
        claims |= overrides
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self._key_id})

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/.well-known/jwks.json", self._serve_keys)
        application.router.add_get("/.well-known/openid-configuration", self._serve_configuration)
        return application

    async def _serve_keys(self, _: web.Request) -> web.Response:
        key = {"use": "sig", "alg": ALGORITHM, "kid": self._key_id}
        if self._key is not None:
            key |= _public_members(self._key)
        return web.json_response({"keys": [key]}, headers={"Cache-Control": "public, max-age=300"})

    async def _serve_configuration(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.url,
                "jwks_uri": self.jwks_url,
                "id_token_signing_alg_values_supported": [ALGORITHM],
                "subject_types_supported": ["public"],
            }
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _organization_v1(
    organization_id: str, slug: str, role: str, permissions: Sequence[str]
) -> dict[str, object]:
    return {
        "org_id": organization_id,
        "org_permissions": list(permissions),
        "org_role": f"org:{role}",
        "org_slug": slug,
    }


def _organization_v2(
    organization_id: str, slug: str, role: str, permissions: Sequence[str]
) -> dict[str, object]:
    """Pack the permissions: `per` names them, `fpm` has a number per feature with bit j for the j-th name."""
    pairs = [permission.removeprefix("org:").split(":", 1) for permission in permissions]
    features = list(dict.fromkeys(feature for feature, _ in pairs))
    names = list(dict.fromkeys(name for _, name in pairs))
    masks = [sum(1 << names.index(name) for owner, name in pairs if owner == feature) for feature in features]
    packed = {"fpm": ",".join(map(str, masks)), "per": ",".join(names)} if pairs else {}
    claims: dict[str, object] = {"o": {"id": organization_id, "rol": role, "slg": slug, **packed}}
    if features:
        claims["fea"] = ",".join(f"o:{feature}" for feature in features)
    return claims


def _load_or_make_key(path: Path) -> RSAPrivateKey:
    if not path.exists():
        key = generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(path, pem)
        return key
    try:
        loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except ValueError:
        loaded = None
    if not isinstance(loaded, RSAPrivateKey):
        msg = f"{path} is damaged: it should hold an RSA key in PEM"
        raise DataDirectoryError(msg)
    return loaded


def _public_members(key: RSAPrivateKey) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "n": _base64url(numbers.n), "e": _base64url(numbers.e)}


def _base64url(number: int) -> str:
    """Encode as Base64urlUInt, RFC 7518 section 2."""
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _thumbprint(key: RSAPrivateKey) -> str:
    """Name the key by its JWK thumbprint, RFC 7638."""
    canonical = json.dumps(_public_members(key), sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).rstrip(b"=").decode()
