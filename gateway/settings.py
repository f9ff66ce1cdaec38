"""Everything that the environment can say to the gateway. Nothing else reads it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
)

from gateway import settings_faults

MINIMUM_INTERNAL_SECRET = 64
MINIMUM_PLATFORM_TOKEN = 32
_MINIMUM_JWT_SECRET = 32
_MINIMUM_FINGERPRINT_KEY = 32
_OTHER_KEY = {"supabase_anon_key": "sb_secret_", "supabase_service_role_key": "sb_publishable_"}

_MOST_REQUESTS = 1_000_000
_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}

_VAULT_KEY_BYTES = 32
_VAULT_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")

_SCHEMES = {"database_url": ("postgresql", "postgres"), "redis_url": ("redis", "rediss", "unix")}
_EXAMPLES = {
    "database_url": "postgresql://user:password@host:5432/postgres",
    "redis_url": "redis://:password@host:6379/0",
    "clerk_jwt_issuer": "https://name.clerk.accounts.dev",
    "clerk_jwks_url": "https://name.clerk.accounts.dev/.well-known/jwks.json",
    "n8n_base_url": "http://n8n:5678",
    "supabase_url": "https://project.supabase.co",
}
_MAKE_SECRET = "`openssl rand -hex 32` makes one"  # noqa: S105

_HOST = re.compile(r"(\*\.)?[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\]")
_ADDRESS_OR_NAME = re.compile(r"[A-Za-z0-9._-]+")
_ORIGIN = re.compile(r"\*|[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]+")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

CommaList = Annotated[tuple[str, ...], NoDecode]


def parse_rate(text: str) -> tuple[int, int]:
    """`30/minute` as requests and seconds. Raises ValueError."""
    requests, _, period = text.partition("/")
    if not requests.isdecimal() or not 1 <= int(requests) <= _MOST_REQUESTS or period not in _PERIODS:
        msg = f"must look like 30/minute, with one of: {', '.join(_PERIODS)}"
        raise ValueError(msg)
    return int(requests), _PERIODS[period]


def parse_vault_keys(text: str) -> list[tuple[str, bytes]]:
    """`[id:]base64` of 32 bytes, several joined by commas; id is 1 if none is given. Raises ValueError."""
    keys: dict[str, bytes] = {}
    for part in text.split(","):
        key_id, _, encoded = part.strip().rpartition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        key_id = key_id or "1"
        if len(key) != _VAULT_KEY_BYTES or not _VAULT_KEY_ID.fullmatch(key_id) or key_id in keys:
            msg = (
                "must be 32 bytes in base64 (`openssl rand -base64 32`); to change it, NEW_ID:NEW,OLD_ID:OLD"
            )
            raise ValueError(msg)
        keys[key_id] = key
    return list(keys.items())


def _rate(value: object) -> object:
    return parse_rate(str(value)) if isinstance(value, str | int) else value


def _rate_or_off(value: object) -> object:
    return None if value == "off" else _rate(value)


Rate = Annotated[tuple[int, int], NoDecode, BeforeValidator(_rate)]
RateOrOff = Annotated[tuple[int, int] | None, NoDecode, BeforeValidator(_rate_or_off)]


class Environment(StrEnum):
    """Where the gateway runs; what is unsafe is refused outside of development."""

    PRODUCTION = "production"
    STAGING = "staging"
    DEVELOPMENT = "development"


class SettingsError(Exception):
    """The environment does not add up. The message names every fault at once.

    `faults` are those of single settings, by their names.
    """

    def __init__(self, message: str = "", *, faults: Mapping[str, str] | None = None) -> None:
        self.faults = dict(faults or {})
        super().__init__(message or "\n".join(f"{name} {fault}" for name, fault in self.faults.items()))


def _also(name: str, *aliases: str) -> AliasChoices:
    return AliasChoices(name, *aliases)


class Settings(BaseSettings):
    """The gateway's settings, by the names that its users put in the environment.

    Where a setting has several names, the first is the documented one.
    """

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    environment: Environment = Environment.PRODUCTION
    debug: bool = False
    log_level: str = Field("", validate_default=True)
    log_format: Literal["json", "text"] = "json"

    host: str = "127.0.0.1"
    http_port: int = Field(8000, ge=0, le=65535)
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(None, ge=0, le=65535)
    grpc_port: int = Field(50051, ge=0, le=65535)
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = Field(None, validate_default=True)
    grpc_client_ca_file: Path | None = Field(None, validate_default=True)
    http_max_connections: PositiveInt = 10_000
    http_header_timeout_seconds: PositiveFloat = 20
    http_body_timeout_seconds: PositiveFloat = 60
    http_keepalive_seconds: PositiveInt = 75
    grpc_keepalive_seconds: PositiveFloat = 60
    grpc_max_connection_age_seconds: PositiveFloat | None = None
    grpc_max_concurrent_streams: PositiveInt = 1000
    grpc_max_connections: PositiveInt = 10_000
    grpc_channelz: bool = False
    cors_origins: CommaList = Field((), validation_alias=_also("CORS_ORIGINS", "ALLOWED_ORIGINS"))
    allowed_hosts: CommaList = ()
    trusted_proxies: CommaList = ()
    forwarded_header: Literal["forwarded", "x-forwarded-for"] | None = None
    request_timeout_seconds: PositiveFloat = 60
    execution_timeout_seconds: PositiveFloat = 300
    execution_lease_seconds: int = Field(30, ge=1, le=600)
    execution_queue_concurrency: PositiveInt = 1000
    execution_queue_megabytes: int = Field(512, ge=32, le=1 << 20)
    execution_events_megabytes: int = Field(256, ge=1, le=1 << 20)
    shutdown_grace_seconds: PositiveFloat = 20

    supabase_url: str | None = None
    database_url: SecretStr | None = Field(None, validate_default=True)
    database_max_connections: PositiveInt = 10
    database_pooled: bool = False
    vault_key: SecretStr | None = None
    redis_timeout_seconds: PositiveFloat = 0.1
    redis_url: SecretStr = SecretStr("redis://localhost:6379/0")

    supabase_anon_key: SecretStr | None = Field(None, validate_default=True)
    supabase_service_role_key: SecretStr | None = Field(None, validate_default=True)
    supabase_jwt_secret: SecretStr | None = None

    clerk_secret_key: SecretStr | None = None
    clerk_publishable_key: str | None = None
    clerk_jwt_issuer: str = Field(
        "", validate_default=True, validation_alias=_also("CLERK_JWT_ISSUER", "CLERK_ISSUER")
    )
    clerk_jwks_url: str | None = None
    clerk_jwt_key: str | None = None
    clerk_audience: str | None = None
    clerk_authorized_parties: CommaList = ()

    platform_token: SecretStr | None = None

    n8n_base_url: str = Field(
        validation_alias=_also("N8N_BASE_URL", "N8N_WEBHOOK_URL"),
        description=f"where n8n is, such as {_EXAMPLES['n8n_base_url']}",
    )
    n8n_internal_auth_secret: SecretStr = Field(
        validation_alias=_also("N8N_INTERNAL_AUTH_SECRET", "N8N_INTERNAL_SECRET"),
        description=f"what n8n's webhooks ask for in X-N8N-Internal-Auth; {_MAKE_SECRET}",
    )
    n8n_api_key: SecretStr | None = None
    n8n_allowed_networks: CommaList = ()
    webhook_allowed_networks: CommaList = ()

    enable_rate_limiting: bool = True
    rate_limit_requests: int = Field(100, ge=1, le=_MOST_REQUESTS)
    rate_limit_period: int = Field(60, ge=1, le=_PERIODS["day"])
    rate_limit: Rate | None = None
    rate_limit_per_workflow: RateOrOff = None
    rate_limit_per_address: RateOrOff = (6000, 60)
    rate_limit_failed_authentications: Rate = (60, 60)
    rate_limit_replicas: PositiveInt = 1
    max_open_streams: PositiveInt = 1000
    enable_hmac_validation: bool = True
    hmac_timestamp_tolerance: PositiveInt = Field(
        300,
        validation_alias=_also("HMAC_TIMESTAMP_TOLERANCE", "HMAC_MAX_AGE_SECONDS"),
    )
    enable_fingerprinting: bool = True
    fingerprint_key: SecretStr | None = None
    dev_skip_auth: bool = False

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the environment and `.env`; `overrides`, by field name, win.

        Raises SettingsError with one line for each fault, and no value of any.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            told = settings_faults.faults(error, cls)
            slips = {name: f"is no setting: is {near} meant?" for name, near in cls.mistyped().items()}
            raise SettingsError(faults=told | slips) from None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f".env cannot be read: {type(error).__name__}") from None

    @classmethod
    def mistyped(cls) -> dict[str, str]:
        """Names in the environment and `.env` that are probably meant as a setting's, with that one's."""
        given = {**EnvSettingsSource(cls).env_vars, **DotEnvSettingsSource(cls).env_vars}
        known = [settings_faults.names_of(name, field) for name, field in cls.model_fields.items()]
        return settings_faults.mistyped((name.upper() for name in given), known)

    @field_validator("cors_origins", mode="after")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                msg = f"must list origins such as https://app.example.com, without a path: {origin}"
                raise ValueError(msg)
        return value

    @field_validator(
        "cors_origins",
        "allowed_hosts",
        "trusted_proxies",
        "n8n_allowed_networks",
        "webhook_allowed_networks",
        "clerk_authorized_parties",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        """Accept a comma-separated list or a JSON array."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            try:
                return tuple(json.loads(value))
            except json.JSONDecodeError as error:
                msg = f"is neither a comma-separated list nor a JSON array: {error}"
                raise ValueError(msg) from None
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("host", mode="after")
    @classmethod
    def _bare(cls, value: str) -> str:
        """An IPv6 address without the brackets that it has in a URL."""
        host = value.removeprefix("[").removesuffix("]")
        if not (_ADDRESS_OR_NAME.fullmatch(host) or _is_address(host)):
            msg = "must be an address or a name, without a port"
            raise ValueError(msg)
        return host

    @field_validator("tls_key_file", mode="after")
    @classmethod
    def _pair(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) is not (info.data.get("tls_cert_file") is None):
            msg = "and TLS_CERT_FILE go together: set both or none"
            raise ValueError(msg)
        return value

    @field_validator("grpc_client_ca_file", mode="after")
    @classmethod
    def _over_tls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_cert_file") is None:
            msg = "needs TLS_CERT_FILE and TLS_KEY_FILE: clients show certificates over TLS alone"
            raise ValueError(msg)
        return value

    @field_validator("allowed_hosts", mode="after")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not _HOST.fullmatch(host):
                msg = f"must list names such as api.example.com or *.example.com, without ports: {host}"
                raise ValueError(msg)
        return value

    @field_validator("n8n_allowed_networks", "webhook_allowed_networks", mode="after")
    @classmethod
    def _address_ranges(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            _network(text)
        return value

    @field_validator("trusted_proxies", mode="after")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if _network(text).prefixlen == 0:
                msg = f"{text} would believe everyone: name the networks of your proxies"
                raise ValueError(msg)
        return value

    @field_validator("forwarded_header", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("log_level", mode="after")
    @classmethod
    def _known_level(cls, value: str, info: ValidationInfo) -> str:
        """LOG_LEVEL; without it INFO, and DEBUG where that is set."""
        level = value.upper() or ("DEBUG" if info.data.get("debug") else "INFO")
        if level not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
            msg = "must be DEBUG, INFO, WARNING, ERROR or CRITICAL"
            raise ValueError(msg)
        return level

    @field_validator("clerk_publishable_key", mode="after")
    @classmethod
    def _key_with_host(cls, value: str | None) -> str | None:
        if value is not None:
            _clerk_host(value)
        return value

    @field_validator("clerk_jwt_issuer", mode="before")
    @classmethod
    def _issuer(cls, value: object, info: ValidationInfo) -> object:
        """CLERK_JWT_ISSUER; without it the instance that CLERK_PUBLISHABLE_KEY is of."""
        key = info.data.get("clerk_publishable_key", "faulty")
        if value or key == "faulty":
            return value or _EXAMPLES["clerk_jwt_issuer"]
        if key is None:
            example = _EXAMPLES["clerk_jwt_issuer"]
            msg = f"is missing: who issues session tokens, such as {example}, or CLERK_PUBLISHABLE_KEY"
            raise ValueError(msg)
        return f"https://{_clerk_host(key)}"

    @field_validator("clerk_jwt_issuer", "clerk_jwks_url", "n8n_base_url", "supabase_url", mode="after")
    @classmethod
    def _http_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not _is_http_url(value):
            msg = f"must be an http:// or https:// URL, such as {_EXAMPLES[str(info.field_name)]}"
            raise ValueError(msg)
        return value

    @field_validator("clerk_jwt_key", mode="after")
    @classmethod
    def _public_key(cls, value: str | None) -> str | None:
        r"""Accept PEM with its line ends, or with `\n` in their place as in single-line environments."""
        if value is None:
            return None
        pem = value.replace("\\n", "\n")
        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, RSAPublicKey):
            msg = "must be an RSA public key in PEM, which begins with -----BEGIN PUBLIC KEY-----"
            raise ValueError(msg)  # noqa: TRY004 - what pydantic takes for a fault of the setting
        return pem

    @field_validator("database_url", "redis_url", mode="after")
    @classmethod
    def _service_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """Checked here because those who use it would tell of its password in their errors."""
        schemes = _SCHEMES[str(info.field_name)]
        if value is None:
            return value
        if value.get_secret_value().partition("://")[0] not in schemes:
            schemes_ = " or ".join(f"{scheme}://" for scheme in schemes)
            msg = f"must be a URL that begins with {schemes_}, such as {_EXAMPLES[str(info.field_name)]}"
            raise ValueError(msg)
        try:
            _ = info.field_name == "redis_url" and urlsplit(value.get_secret_value()).port
        except ValueError:
            msg = "is not a valid URL: a password in it must be percent-encoded"
            raise ValueError(msg) from None
        return value

    @field_validator("database_url", mode="after")
    @classmethod
    def _database_or_supabase(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None and info.data.get("supabase_url", "faulty") is None:
            msg = f"is missing: set it, such as {_EXAMPLES['database_url']}, or SUPABASE_URL with its keys"
            raise ValueError(msg)
        return value

    @field_validator("supabase_anon_key", "supabase_service_role_key", mode="after")
    @classmethod
    def _key_of_its_kind(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        without_database = info.data.get("database_url", "faulty") is None
        if value is None and without_database and info.data.get("supabase_url", "faulty") is not None:
            msg = "is missing: SUPABASE_URL needs it, unless DATABASE_URL is set"
            raise ValueError(msg)
        other = _OTHER_KEY[str(info.field_name)]
        if value is not None and value.get_secret_value().startswith(other):
            msg = f"has the other key's value, {other}…"
            raise ValueError(msg)
        return value

    @field_validator("supabase_jwt_secret", mode="after")
    @classmethod
    def _long_enough_to_sign(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < _MINIMUM_JWT_SECRET:
            msg = f"needs at least {_MINIMUM_JWT_SECRET} bytes (RFC 7518, section 3.2)"
            raise ValueError(msg)
        return value

    @field_validator("n8n_internal_auth_secret", mode="after")
    @classmethod
    def _long_enough(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        if not value.get_secret_value():
            msg = "must not be empty"
            raise ValueError(msg)
        short = len(value.get_secret_value()) < MINIMUM_INTERNAL_SECRET
        if short and info.data.get("environment") is Environment.PRODUCTION:
            msg = f"needs at least {MINIMUM_INTERNAL_SECRET} characters in production; {_MAKE_SECRET}"
            raise ValueError(msg)
        return value

    @field_validator("platform_token", mode="after")
    @classmethod
    def _long_enough_to_guard(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MINIMUM_PLATFORM_TOKEN:
            msg = f"needs at least {MINIMUM_PLATFORM_TOKEN} characters; {_MAKE_SECRET}"
            raise ValueError(msg)
        return value

    @field_validator("dev_skip_auth", mode="after")
    @classmethod
    def _development_only(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        if value and info.data.get("environment") is not Environment.DEVELOPMENT:
            msg = "is refused unless ENVIRONMENT=development"
            raise ValueError(msg)
        return value

    @field_validator("fingerprint_key", mode="after")
    @classmethod
    def _long_enough_for_macs(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < _MINIMUM_FINGERPRINT_KEY:
            msg = f"needs at least {_MINIMUM_FINGERPRINT_KEY} bytes; {_MAKE_SECRET}"
            raise ValueError(msg)
        return value

    @field_validator("vault_key", mode="after")
    @classmethod
    def _keys_of_32_bytes(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_vault_keys(value.get_secret_value())
        return value

    @property
    def fingerprint_secret(self) -> bytes:
        """FINGERPRINT_KEY, else a key of its own derived from N8N_INTERNAL_AUTH_SECRET (HKDF, RFC 5869)."""
        secret = self.fingerprint_key or self.n8n_internal_auth_secret
        kdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"n8n-gateway fingerprints")
        return kdf.derive(secret.get_secret_value().encode())

    @property
    def served_hosts(self) -> tuple[str, ...]:
        """ALLOWED_HOSTS; without it any host, and in development those of this machine."""
        return self.allowed_hosts or (_LOOPBACK if self.environment is Environment.DEVELOPMENT else ())

    @property
    def proxy_networks(self) -> list[IPv4Network | IPv6Network]:
        """TRUSTED_PROXIES; a single address is a network of one."""
        return [_network(text) for text in self.trusted_proxies]

    @property
    def vault_keys(self) -> list[tuple[str, bytes]]:
        """Id and key of each in VAULT_KEY, the one that seals first."""
        return parse_vault_keys(self.vault_key.get_secret_value()) if self.vault_key else []

    @property
    def limit(self) -> tuple[int, int]:
        """Requests and seconds: RATE_LIMIT where it is set, else the two settings beside it."""
        return self.rate_limit or (self.rate_limit_requests, self.rate_limit_period)


def _clerk_host(publishable_key: str) -> str:
    """The name of the Clerk instance that a publishable key is of: `pk_test_` and base64 of it and `$`."""
    encoded = publishable_key.removeprefix("pk_test_").removeprefix("pk_live_")
    try:
        host = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode("ascii")
    except ValueError:
        host = ""
    if encoded == publishable_key or not host.endswith("$") or not _ADDRESS_OR_NAME.fullmatch(host[:-1]):
        msg = "must be the publishable key of a Clerk instance: pk_test_… or pk_live_…"
        raise ValueError(msg)
    return host[:-1]


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        msg = f"must list IP addresses and networks such as 10.0.0.0/8: {error}"
        raise ValueError(msg) from None


def plain(secret: SecretStr | None) -> str:
    """The secret itself; empty for one that is not set."""
    return "" if secret is None else secret.get_secret_value()
