"""`n8n-gateway dev`: the gateway and everything that it needs, on this machine."""

from __future__ import annotations

import base64
import json
import os
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, SecretStr
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase, migrations
from gateway.adapters.vault import SealedVault
from gateway.app import Gateway
from gateway.local import ports
from gateway.local.errors import LocalError
from gateway.local.issuer import DEV_LIFETIME
from gateway.local.seed import CLERK_ORGANIZATION, USER, Seeded, seed
from gateway.local.stack import LocalStack
from gateway.settings import Environment, Rate, RateOrOff, Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

_UNNOTICED = (1_000_000, 60)

SHUTDOWN_GRACE_SECONDS = 2.0
LOOPBACK = ("127.0.0.0/8", "::1/128")
"""What a developer's own n8n and receivers of webhooks listen on."""

_OPTIONS = {
    "HTTP_PORT": "--http-port",
    "GRPC_PORT": "--grpc-port",
    "N8N_BASE_URL": "--n8n-url",
    "CORS_ORIGINS": "--cors-origin",
}
_BEFORE_THE_PARTS = {
    "database_url": "postgresql://",
    "redis_url": "redis://",
    "vault_key": None,
    "platform_token": None,
    "clerk_jwks_url": None,
    "clerk_jwt_issuer": "http://127.0.0.1",
    "n8n_base_url": "http://127.0.0.1",
    "n8n_internal_auth_secret": "not known yet",
}
"""Stands for what the parts will say, while all else is looked at."""


class DevSettings(Settings):
    """Settings whose limits nobody meets at a keyboard or by a test, unless the environment sets them."""

    rate_limit_requests: int = Field(_UNNOTICED[0], ge=1, le=_UNNOTICED[0])
    rate_limit_per_address: RateOrOff = _UNNOTICED
    rate_limit_failed_authentications: Rate = _UNNOTICED
    metrics_port: int | None = Field(0, ge=0, le=65535)


@dataclass(frozen=True, slots=True)
class DevOptions:
    """What can be chosen about `dev`. Ports of 0 are free ones, origins of None those of the environment."""

    data_dir: Path
    http_port: int = 8000
    grpc_port: int = 50051
    n8n_url: str | None = None
    n8n_internal_secret: str | None = None
    cors_origins: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """Where everything is, once it serves; what `--ready-file` holds as JSON."""

    http_url: str
    grpc_url: str
    metrics_url: str
    token: str
    organization_id: str
    api_key: str
    client_secret: str
    workflows: dict[str, str]
    database_url: str
    redis_url: str
    n8n_url: str
    internal_secret: str
    platform_token: str
    settings: dict[str, str]
    """What `serve` needs in its environment to be another replica over the same parts, but for its ports."""

    def write(self, path: Path) -> None:
        """Write it as JSON, all at once, readable by its owner alone: it holds secrets."""
        partial = path.with_name(f"{path.name}.partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(self), file, indent=2)
        partial.replace(path)

    @staticmethod
    def lives(path: Path) -> bool:
        """Whether a file is one that `write` has written for a gateway that still serves."""
        try:
            port = URL(json.loads(path.read_bytes())["http_url"]).port
        except (OSError, ValueError, TypeError, KeyError):
            return False
        return port is not None and not ports.is_free(port)


class Dev:
    """Embedded parts, database schema, seed data and the gateway, as one."""

    def __init__(self, options: DevOptions, progress: Callable[[str, str], None]) -> None:
        self._options = options
        self._progress = progress
        self._parts = AsyncExitStack()
        self.stack = LocalStack(options.data_dir, n8n_url=options.n8n_url, progress=progress)

    async def start(self) -> Ready:
        """Bring everything up. Raises LocalError, SettingsError or OSError with what is wrong."""
        try:
            return await self._start()
        except BaseException:
            await self._parts.aclose()
            raise

    async def stop(self) -> None:
        """Take everything down, the gateway first."""
        await self._parts.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def _check_ports(self) -> None:
        options = self._options
        if options.http_port == options.grpc_port != 0:
            raise LocalError(f"--http-port and --grpc-port cannot both be {options.http_port}")
        for door, option, port in (
            ("HTTP", "--http-port", options.http_port),
            ("gRPC", "--grpc-port", options.grpc_port),
        ):
            if not ports.is_free(port):
                raise LocalError(
                    f"cannot listen for {door} on {ports.LOOPBACK}:{port}: it is in use; "
                    f"choose another with {option}, or 0 for a free one"
                )

    def _settings(self, **parts: Any) -> Settings:
        """The gateway's settings over these parts. Raises LocalError, in the words of the options."""
        options = self._options
        given = {
            "http_port": options.http_port,
            "grpc_port": options.grpc_port,
            "n8n_base_url": options.n8n_url,
            "n8n_internal_auth_secret": options.n8n_internal_secret,
            "cors_origins": options.cors_origins,
        }
        given = {name: value for name, value in given.items() if value is not None}
        always = {
            "environment": Environment.DEVELOPMENT,
            "shutdown_grace_seconds": SHUTDOWN_GRACE_SECONDS,
            "tls_cert_file": None,
            "tls_key_file": None,
            "grpc_client_ca_file": None,
            "n8n_allowed_networks": LOOPBACK,
            "webhook_allowed_networks": LOOPBACK,
        }
        try:
            return DevSettings.load(**(always | parts | given))
        except SettingsError as error:
            names = {name: _OPTIONS[name] if name.lower() in given else name for name in error.faults}
            told = (f"{names[name]} {fault}" for name, fault in error.faults.items())
            raise LocalError("\n".join(told) or str(error)) from None

    async def _start(self) -> Ready:
        self._check_ports()
        self._settings(**_BEFORE_THE_PARTS)
        stack = await self._parts.enter_async_context(self.stack)
        if stack.issuer is None:
            msg = "dev runs with its own issuer"
            raise RuntimeError(msg)
        database_url = await self._migrated()
        seeded = await self._seeded(database_url)
        self._progress("gateway", "starting")
        internal_secret = self._options.n8n_internal_secret or stack.internal_secret
        platform_token = self.stack.secrets.get("platform_token")
        settings = self._settings(
            database_url=database_url,
            redis_url=stack.redis_url,
            clerk_jwt_issuer=stack.issuer.url,
            clerk_jwks_url=stack.issuer.jwks_url,
            n8n_base_url=stack.n8n_url,
            vault_key=self.stack.vault_key,
            n8n_internal_auth_secret=internal_secret,
            platform_token=platform_token,
            **({} if stack.n8n is None else {"n8n_api_key": stack.n8n_api_key}),
        )
        self._check_ports()
        gateway = Gateway(settings)
        await gateway.start()
        self._parts.push_async_callback(gateway.stop)
        self._progress("gateway", "ready")
        return Ready(
            http_url=f"http://127.0.0.1:{gateway.http_port}",
            grpc_url=f"127.0.0.1:{gateway.grpc_port}",
            metrics_url=f"http://127.0.0.1:{gateway.metrics_port}/metrics",
            token=stack.issuer.mint(USER, organization_id=CLERK_ORGANIZATION, lifetime=DEV_LIFETIME),
            organization_id=seeded.organization_id,
            api_key=seeded.api_key,
            client_secret=seeded.client_secret,
            workflows=seeded.workflows,
            database_url=stack.database_url,
            redis_url=stack.redis_url,
            n8n_url=stack.n8n_url,
            internal_secret=internal_secret,
            platform_token=platform_token,
            settings=_of_a_replica(settings),
        )

    async def _migrated(self) -> str:
        """Bring the schema up to date; the URL that the gateway logs in with."""
        self._progress("schema", "migrating")
        password = self.stack.secrets.get("authenticator_password")
        applied = await migrations.apply(self.stack.database_url, local=True, authenticator_password=password)
        self._progress("schema", f"ready, {len(applied)} migrations applied")
        superuser = URL(self.stack.database_url)
        return str(superuser.with_user("authenticator").with_password(password))

    async def _seeded(self, database_url: str) -> Seeded:
        database = PostgresDatabase(database_url, max_connections=1)
        try:
            vault = SealedVault(database, [("1", base64.b64decode(self.stack.vault_key))])
            return await seed(database, vault, self.stack.secrets)
        finally:
            await database.close()


def _of_a_replica(settings: Settings) -> dict[str, str]:
    """The settings by which replicas share their parts, as the environment has them."""
    names = (
        "database_url",
        "redis_url",
        "clerk_jwt_issuer",
        "n8n_base_url",
        "n8n_internal_auth_secret",
        "vault_key",
        "platform_token",
        "n8n_allowed_networks",
        "webhook_allowed_networks",
    )
    shared = {name.upper(): _plain(getattr(settings, name)) for name in names}
    return {"ENVIRONMENT": settings.environment.value, **shared}


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
