"""The settings, by the names that users put in the environment.

What one value must look like is its type's business, which the modules beside this one hold; what settings
need of one another stands here.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
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
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from gateway.settings import clerk, faults
from gateway.settings.addresses import BareHost, Hosts, Networks, Origins, Proxies, http_url, network
from gateway.settings.faults import SettingsError
from gateway.settings.lists import CommaList
from gateway.settings.rates import MOST_REQUESTS, PERIODS, Rate, RateOrOff
from gateway.settings.secrets import (
    MAKE_SECRET,
    BearerToken,
    JwtSecret,
    MacKey,
    NonEmptySecret,
    VaultKeys,
    parse_vault_keys,
)
from gateway.settings.stores import (
    DATABASE_EXAMPLE,
    DatabaseUrl,
    RedisUrl,
    SupabaseAnonKey,
    SupabaseServiceRoleKey,
)

_MINIMUM_INTERNAL_SECRET = 64
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_ISSUER_EXAMPLE = "https://name.clerk.accounts.dev"
_N8N_EXAMPLE = "http://n8n:5678"


class Environment(StrEnum):
    """Where the gateway runs; what is unsafe is refused outside of development."""

    PRODUCTION = "production"
    STAGING = "staging"
    DEVELOPMENT = "development"


def _also(name: str, *aliases: str) -> AliasChoices:
    return AliasChoices(name, *aliases)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Settings(BaseSettings):
    """The gateway's settings. Where one has several names, the first is the documented one."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    environment: Environment = Environment.PRODUCTION
    debug: bool = False
    log_level: str = Field("", validate_default=True)
    log_format: Literal["json", "text"] = "json"

    host: BareHost = "127.0.0.1"
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
    cors_origins: Origins = Field((), validation_alias=_also("CORS_ORIGINS", "ALLOWED_ORIGINS"))
    allowed_hosts: Hosts = ()
    trusted_proxies: Proxies = ()
    forwarded_header: Annotated[Literal["forwarded", "x-forwarded-for"] | None, BeforeValidator(_lower)] = (
        None
    )
    request_timeout_seconds: PositiveFloat = 60
    execution_timeout_seconds: PositiveFloat = 300
    execution_lease_seconds: int = Field(30, ge=1, le=600)
    execution_queue_concurrency: PositiveInt = 1000
    execution_queue_megabytes: int = Field(512, ge=32, le=1 << 20)
    execution_events_megabytes: int = Field(256, ge=1, le=1 << 20)
    shutdown_grace_seconds: PositiveFloat = 20

    supabase_url: Annotated[str | None, http_url("https://project.supabase.co")] = None
    database_url: DatabaseUrl | None = Field(None, validate_default=True)
    database_max_connections: PositiveInt = 10
    database_pooled: bool = False
    vault_key: VaultKeys | None = None
    redis_timeout_seconds: PositiveFloat = 0.1
    redis_url: RedisUrl = SecretStr("redis://localhost:6379/0")

    supabase_anon_key: SupabaseAnonKey | None = Field(None, validate_default=True)
    supabase_service_role_key: SupabaseServiceRoleKey | None = Field(None, validate_default=True)
    supabase_jwt_secret: JwtSecret | None = None

    clerk_secret_key: SecretStr | None = None
    clerk_publishable_key: clerk.PublishableKey | None = None
    clerk_jwt_issuer: Annotated[str, http_url(_ISSUER_EXAMPLE)] = Field(
        "", validate_default=True, validation_alias=_also("CLERK_JWT_ISSUER", "CLERK_ISSUER")
    )
    clerk_jwks_url: Annotated[str | None, http_url(f"{_ISSUER_EXAMPLE}/.well-known/jwks.json")] = None
    clerk_jwt_key: clerk.PublicKey | None = None
    clerk_audience: str | None = None
    clerk_authorized_parties: CommaList = ()

    platform_token: BearerToken | None = None

    n8n_base_url: Annotated[str, http_url(_N8N_EXAMPLE)] = Field(
        validation_alias=_also("N8N_BASE_URL", "N8N_WEBHOOK_URL"),
        description=f"where n8n is, such as {_N8N_EXAMPLE}",
    )
    n8n_internal_auth_secret: NonEmptySecret = Field(
        validation_alias=_also("N8N_INTERNAL_AUTH_SECRET", "N8N_INTERNAL_SECRET"),
        description=f"what n8n's webhooks ask for in X-N8N-Internal-Auth; {MAKE_SECRET}",
    )
    n8n_api_key: SecretStr | None = None
    n8n_allowed_networks: Networks = ()
    webhook_allowed_networks: Networks = ()

    enable_rate_limiting: bool = True
    rate_limit_requests: int = Field(100, ge=1, le=MOST_REQUESTS)
    rate_limit_period: int = Field(60, ge=1, le=PERIODS["day"])
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
    fingerprint_key: MacKey | None = None
    dev_skip_auth: bool = False

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the environment and `.env`; `overrides`, by field name, win.

        Raises SettingsError with one line for each fault, and no value of any.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            told = faults.faults(error, cls)
            slips = {name: f"is no setting: is {near} meant?" for name, near in cls.mistyped().items()}
            raise SettingsError(faults=told | slips) from None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f".env cannot be read: {type(error).__name__}") from None

    @classmethod
    def mistyped(cls) -> dict[str, str]:
        """Names in the environment and `.env` that are probably meant as a setting's, with that one's."""
        given = {**EnvSettingsSource(cls).env_vars, **DotEnvSettingsSource(cls).env_vars}
        known = [faults.names_of(name, field) for name, field in cls.model_fields.items()]
        return faults.mistyped((name.upper() for name in given), known)

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

    @field_validator("log_level", mode="after")
    @classmethod
    def _known_level(cls, value: str, info: ValidationInfo) -> str:
        """LOG_LEVEL; without it INFO, and DEBUG where that is set."""
        level = value.upper() or ("DEBUG" if info.data.get("debug") else "INFO")
        if level not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
            msg = "must be DEBUG, INFO, WARNING, ERROR or CRITICAL"
            raise ValueError(msg)
        return level

    @field_validator("clerk_jwt_issuer", mode="before")
    @classmethod
    def _issuer(cls, value: object, info: ValidationInfo) -> object:
        """CLERK_JWT_ISSUER; without it the instance that CLERK_PUBLISHABLE_KEY is of."""
        key = info.data.get("clerk_publishable_key", "faulty")
        if value or key == "faulty":
            return value or _ISSUER_EXAMPLE
        if key is None:
            msg = (
                f"is missing: who issues session tokens, such as {_ISSUER_EXAMPLE}, or CLERK_PUBLISHABLE_KEY"
            )
            raise ValueError(msg)
        return f"https://{clerk.host_of(key)}"

    @field_validator("database_url", mode="after")
    @classmethod
    def _database_or_supabase(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None and info.data.get("supabase_url", "faulty") is None:
            msg = f"is missing: set it, such as {DATABASE_EXAMPLE}, or SUPABASE_URL with its keys"
            raise ValueError(msg)
        return value

    @field_validator("supabase_anon_key", "supabase_service_role_key", mode="after")
    @classmethod
    def _without_database(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        has_database = info.data.get("database_url", "faulty") is not None
        if value is None and not has_database and info.data.get("supabase_url", "faulty") is not None:
            msg = "is missing: SUPABASE_URL needs it, unless DATABASE_URL is set"
            raise ValueError(msg)
        return value

    @field_validator("n8n_internal_auth_secret", mode="after")
    @classmethod
    def _long_enough(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        short = len(value.get_secret_value()) < _MINIMUM_INTERNAL_SECRET
        if short and info.data.get("environment") is Environment.PRODUCTION:
            msg = f"needs at least {_MINIMUM_INTERNAL_SECRET} characters in production; {MAKE_SECRET}"
            raise ValueError(msg)
        return value

    @field_validator("dev_skip_auth", mode="after")
    @classmethod
    def _development_only(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        if value and info.data.get("environment") is not Environment.DEVELOPMENT:
            msg = "is refused unless ENVIRONMENT=development"
            raise ValueError(msg)
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
        return [network(text) for text in self.trusted_proxies]

    @property
    def vault_keys(self) -> list[tuple[str, bytes]]:
        """Id and key of each in VAULT_KEY, the one that seals first."""
        return parse_vault_keys(self.vault_key.get_secret_value()) if self.vault_key else []

    @property
    def limit(self) -> tuple[int, int]:
        """Requests and seconds: RATE_LIMIT where it is set, else the two settings beside it."""
        return self.rate_limit or (self.rate_limit_requests, self.rate_limit_period)
