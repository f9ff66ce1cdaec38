"""A session token as the gateway's identity provider would issue it, and the keys to verify it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

ISSUER = "https://issuer.bench.invalid"
_KEY_ID = "bench"
_VALID_SECONDS = 3600


def issue(keys: Path) -> str:
    """Write the public keys (JWKS) to a file and return a token signed by them."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = json.loads(RSAAlgorithm.to_jwk(key.public_key()))
    keys.write_text(json.dumps({"keys": [public | {"kid": _KEY_ID, "use": "sig", "alg": "RS256"}]}))
    now = int(time.time())
    claims = {
        "sub": "user_2bench",
        "iss": ISSUER,
        "iat": now,
        "nbf": now,
        "exp": now + _VALID_SECONDS,
        "sid": "sess_2bench",
        "role": "authenticated",
        "v": 2,
        "o": {"id": "org_2bench", "rol": "admin", "slg": "bench"},
    }
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": _KEY_ID})
