"""Clerk's keys: the publishable one, which names its instance, and the one that checks its tokens."""

from __future__ import annotations

import base64
from typing import Annotated

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import AfterValidator

from gateway.settings.addresses import ADDRESS_OR_NAME


def host_of(publishable_key: str) -> str:
    """The name of the Clerk instance that a publishable key is of: `pk_test_` and base64 of it and `$`.

    Raises ValueError.
    """
    encoded = publishable_key.removeprefix("pk_test_").removeprefix("pk_live_")
    try:
        host = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode("ascii")
    except ValueError:
        host = ""
    if encoded == publishable_key or not host.endswith("$") or not ADDRESS_OR_NAME.fullmatch(host[:-1]):
        msg = "must be the publishable key of a Clerk instance: pk_test_… or pk_live_…"
        raise ValueError(msg)
    return host[:-1]


def _with_host(value: str) -> str:
    host_of(value)
    return value


def _public_key(value: str) -> str:
    pem = value.replace("\\n", "\n")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey):
        msg = "must be an RSA public key in PEM, which begins with -----BEGIN PUBLIC KEY-----"
        raise ValueError(msg)  # noqa: TRY004 - what pydantic takes for a fault of the setting
    return pem


PublishableKey = Annotated[str, AfterValidator(_with_host)]
PublicKey = Annotated[str, AfterValidator(_public_key)]
r"""In PEM, with its line ends, or with `\n` in their place as in single-line environments."""
