"""Two gateways as their operators run them, on one Postgres, one Valkey, and an n8n that behaves badly."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import asyncpg
from yarl import URL

from gateway.adapters.postgres import PostgresDatabase, migrations
from gateway.local.issuer import Issuer
from gateway.local.postgres import LocalPostgres
from gateway.local.valkey import LocalValkey
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from tests.faults.cutting_proxy import CuttingProxy
from tests.faults.faulty_n8n import FaultyN8n

CREDITS = 1_000_000
START_SECONDS = 120
LEASE_SECONDS = 8
TENANTS = 2
_PASSWORD = "the authenticator's, for faults"
_INTERNAL_SECRET = "n8n and the gateways share this secret of more than sixty-four characters"
_VAULT_KEY = "a2V5IHRoYXQgc2VhbHMgc2VjcmV0cyBvZiBhIHRlc3Q="
_BY_HANDLE_AND_AGAIN = {
    "credential_mode": "CREDENTIAL_MODE_HANDLE",
    "is_idempotent": True,
    "unknown_outcome_policy": "UNKNOWN_OUTCOME_POLICY_RETRY",
}
_OTHER_CLOCK = """
import sys, time
real, off = time.time, float(sys.argv.pop(1))
time.time = lambda: real() + off
sys.argv[0] = "n8n-gateway"
from gateway.__main__ import main
main()
"""


class GatewayProcess:
    """`n8n-gateway serve` on a port that it keeps, its clock off by `clock` seconds."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self._environment = environment | {"HTTP_PORT": str(self.port), "GRPC_PORT": "0"}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.clock = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def resident_mib(self) -> int:
        """Memory that it holds now."""
        assert self._process is not None
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    async def start(self) -> None:
        """Start it and wait until it serves."""
        command = [sys.executable, "-c", _OTHER_CLOCK, str(self.clock), "serve"]
        with self._log.open("ab") as log:
            environment = os.environ | self._environment
            self._process = await asyncio.to_thread(
                subprocess.Popen, command, env=environment, stdout=log, stderr=log
            )
        give_up = time.monotonic() + START_SECONDS
        while not await self._serves():
            if self._process.poll() is not None or time.monotonic() > give_up:
                message = f"a gateway did not start:\n{self._log.read_text()[-3000:]}"
                raise RuntimeError(message)
            await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """End it at once, as a power cut would."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it as a deployment would."""
        await self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Stand still, as a machine that swaps or is moved: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on, as if no time had passed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            await asyncio.to_thread(process.wait, 60)

    async def _serves(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True


class Tenant:
    """An organization with credits and a workflow for each behaviour of n8n, and its owner's token."""

    def __init__(self, organization_id: str, token: str, workflows: dict[str, str]) -> None:
        self.organization_id = organization_id
        self.headers = {"Authorization": f"Bearer {token}"}
        self.workflows = workflows


class System:
    """All of it, as an async context manager. The gateways have `settings` beside those that they need."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self._directory = directory
        self._settings = settings
        self._parts = AsyncExitStack()
        self.postgres = LocalPostgres(directory)
        self.valkey = LocalValkey(directory)
        self.n8n = FaultyN8n()
        self.gateways: list[GatewayProcess] = []
        self.tenants: list[Tenant] = []
        self.cuts = False
        self._proxies: list[CuttingProxy] = []
        self.session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._parts.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._parts.aclose()

    def gateway(self) -> GatewayProcess:
        """Any of them."""
        return random.choice(self.gateways)

    def url(self) -> str:
        """Where callers reach the gateways, as a balancer would send them."""
        return random.choice(self._proxies).url if self.cuts else self.gateway().url

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """What the database says, to its superuser."""
        connection = await asyncpg.connect(self.postgres.superuser_url)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """A transaction of the superuser, whose locks are held as long."""
        connection = await asyncpg.connect(self.postgres.superuser_url)
        try:
            async with connection.transaction():
                yield connection
        finally:
            await connection.close()

    async def platform(self, function: str, **arguments: Any) -> Any:
        """Call a function of the database as the platform."""
        database = PostgresDatabase(self.postgres.superuser_url, max_connections=1)
        try:
            return json.loads(await database.call(function, None, **arguments))
        finally:
            await database.close()

    async def _start(self) -> None:
        enter = self._parts.enter_async_context
        await enter(self.postgres)
        await enter(self.valkey)
        issuer = await enter(Issuer(self._directory))
        await self.n8n.start()
        self._parts.push_async_callback(self.n8n.stop)
        superuser = URL(self.postgres.superuser_url)
        await migrations.apply(str(superuser), local=True, authenticator_password=_PASSWORD)
        login = str(superuser.with_user("authenticator").with_password(_PASSWORD))
        database = PostgresDatabase(login, max_connections=1)
        try:
            self.tenants = [await _tenant(database, issuer, number) for number in range(TENANTS)]
        finally:
            await database.close()
        self.session = await enter(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        environment = self._environment(login, issuer)
        for number in (1, 2):
            gateway = GatewayProcess(environment, self._directory / f"gateway{number}.log")
            self.gateways.append(gateway)
            await gateway.start()
            self._parts.push_async_callback(gateway.stop)
            self._proxies.append(await enter(CuttingProxy(gateway.port)))

    def _environment(self, login: str, issuer: Issuer) -> dict[str, str]:
        return {
            "DATABASE_URL": login,
            "REDIS_URL": self.valkey.url,
            "N8N_BASE_URL": self.n8n.url,
            "N8N_INTERNAL_AUTH_SECRET": _INTERNAL_SECRET,
            "CLERK_JWT_ISSUER": issuer.url,
            "CLERK_JWKS_URL": issuer.jwks_url,
            "VAULT_KEY": _VAULT_KEY,
            "RATE_LIMIT": "1000000/minute",
            "LOG_LEVEL": "WARNING",
            "SHUTDOWN_GRACE_SECONDS": "3",
            "EXECUTION_LEASE_SECONDS": str(LEASE_SECONDS),
        } | self._settings


async def _tenant(database: PostgresDatabase, issuer: Issuer, number: int) -> Tenant:
    user, clerk = f"user_faults{number}", f"org_faults{number}"
    claims = json.dumps({"sub": user, "o": {"id": clerk, "rol": "admin"}})
    owner = Principal(Kind.USER, user, DatabaseRole.AUTHENTICATED, claims)

    async def call(function: str, principal: Principal | None, **arguments: Any) -> Any:
        return json.loads(await database.call(function, principal, **arguments))

    wanted: dict[str, Any] = {"name": f"Tenant {number}", "clerk_organization_id": clerk}
    organization = str((await call("create_organization", owner, p_organization=wanted))["id"])
    await call("add_credits", None, p_organization_id=organization, p_amount=CREDITS, p_reference="faults")
    workflows = {}
    for name in FaultyN8n.WORKFLOWS:
        workflow = {
            "organization_id": organization,
            "name": name,
            "webhook_path": name,
            "credits_per_execution": 1,
            "timeout_seconds": 3 if name == "hang" else 60,
        } | (_BY_HANDLE_AND_AGAIN if name == "handled" else {})
        workflows[name] = str((await call("register_workflow", owner, p_workflow=workflow))["id"])
    # Valid for gateways whose clocks are behind, too.
    early = int(time.time()) - 300
    lifetime = timedelta(hours=3)
    token = issuer.mint(user, organization_id=clerk, lifetime=lifetime, iat=early, nbf=early)
    return Tenant(organization, token, workflows)
