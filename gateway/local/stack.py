"""All embedded parts together, less those that are replaced by real ones."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from gateway.local.data_directory import DirectoryLock, private_directory
from gateway.local.demo_n8n import DemoN8n
from gateway.local.errors import LocalError
from gateway.local.issuer import Issuer
from gateway.local.ports import Ports
from gateway.local.postgres import LocalPostgres
from gateway.local.secrets import Secrets
from gateway.local.valkey import LocalValkey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gateway.local.errors import PartFailed


_P = TypeVar("_P")


class _Part(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class LocalStack:
    """Starts and stops Postgres, Valkey, the demo n8n and the issuer on one data directory.

    Each of `database_url`, `redis_url`, `n8n_url` and `issuer_url` names a real part: the embedded one is not
    started then, and the attribute of that name is the given value. `progress` is called with a part
    ("postgres", "valkey", "n8n", "issuer") and its state ("starting", "initialising", "ready", "external",
    "failed", "stopping", "stopped").

    The data directory belongs to one process at a time. Secrets, keys, ports and data are found again by the
    next start, whatever ended the last one. Installs no signal handlers: cancel the task that holds it.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        database_url: str | None = None,
        redis_url: str | None = None,
        n8n_url: str | None = None,
        issuer_url: str | None = None,
        progress: Callable[[str, str], None] | None = None,
    ) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self.secrets = Secrets(self.data_dir)
        self.postgres: LocalPostgres | None = None
        self.valkey: LocalValkey | None = None
        self.n8n: DemoN8n | None = None
        self.issuer: Issuer | None = None
        self._given = {"postgres": database_url, "valkey": redis_url, "n8n": n8n_url, "issuer": issuer_url}
        self._progress = progress or (lambda _part, _state: None)
        self._lock = DirectoryLock(self.data_dir)
        self._parts: dict[str, _Part] = {}

    @property
    def database_url(self) -> str:
        """The database, as its superuser if it is the embedded one."""
        return self._given["postgres"] or _started(self.postgres).superuser_url

    @property
    def redis_url(self) -> str:
        """The Redis, with its password."""
        return self._given["valkey"] or _started(self.valkey).url

    @property
    def n8n_url(self) -> str:
        """Base URL of n8n: webhooks are at `{n8n_url}/webhook/{path}`."""
        return self._given["n8n"] or _started(self.n8n).url

    @property
    def issuer_url(self) -> str:
        """The identity issuer, as in the tokens' `iss`."""
        return self._given["issuer"] or _started(self.issuer).url

    @property
    def jwks_url(self) -> str:
        """Where the issuer publishes its keys; for a real one, where Clerk's does."""
        return f"{self.issuer_url.rstrip('/')}/.well-known/jwks.json"

    @property
    def internal_secret(self) -> str:
        """What n8n and the gateway show each other in X-N8N-Internal-Auth."""
        return self.secrets.get("n8n_internal_secret")

    @property
    def n8n_api_key(self) -> str:
        """Key of the demo n8n's public API."""
        return self.secrets.get("n8n_api_key")

    @property
    def vault_key(self) -> str:
        """Key that seals tenants' secrets: 32 bytes in base64."""
        return base64.b64encode(hashlib.sha256(self.secrets.get("vault_key").encode()).digest()).decode()

    async def start(self) -> None:
        """Start every part at the same time and wait until all answer.

        Raises DataDirectoryBusy with the other process's id if the data directory is in use, and LocalError
        with all that went wrong otherwise; whatever had started is stopped again.
        """
        if self._parts:
            return
        private_directory(self.data_dir)
        self._lock.acquire()
        failures: list[LocalError] = []
        try:
            self._make_parts()
            async with asyncio.TaskGroup() as group:
                for name in self._parts:
                    group.create_task(self._start_part(name, failures))
            _raise_all(failures)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the parts one after the other, Postgres last, and give up the data directory."""
        try:
            while self._parts:
                name, part = self._parts.popitem()
                self._progress(name, "stopping")
                await part.stop()
                self._progress(name, "stopped")
        finally:
            self.postgres = self.valkey = self.n8n = self.issuer = None
            self._lock.release()

    async def died(self) -> PartFailed:
        """Wait until a server ends without having been told to, and return what is known about it."""
        servers = [server for server in (self.postgres, self.valkey) if server is not None]
        watchers = [asyncio.create_task(server.died()) for server in servers]
        if not watchers:
            await asyncio.get_running_loop().create_future()
        try:
            done, _ = await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for watcher in watchers:
                watcher.cancel()

    def _make_parts(self) -> None:
        makers: dict[str, Callable[[], _Part]] = {
            "postgres": self._make_postgres,
            "valkey": self._make_valkey,
            "issuer": self._make_issuer,
            "n8n": self._make_n8n,
        }
        for name, make in makers.items():
            if self._given[name]:
                self._progress(name, "external")
            else:
                self._parts[name] = make()

    def _make_postgres(self) -> _Part:
        self.postgres = LocalPostgres(self.data_dir, progress=partial(self._progress, "postgres"))
        return self.postgres

    def _make_valkey(self) -> _Part:
        self.valkey = LocalValkey(self.data_dir, progress=partial(self._progress, "valkey"))
        return self.valkey

    def _make_issuer(self) -> _Part:
        self.issuer = Issuer(self.data_dir)
        return self.issuer

    def _make_n8n(self) -> _Part:
        port = partial(Ports(self.data_dir).choose, "n8n")
        self.n8n = DemoN8n(self.internal_secret, port, api_key=self.n8n_api_key)
        return self.n8n

    async def _start_part(self, name: str, failures: list[LocalError]) -> None:
        self._progress(name, "starting")
        try:
            await self._parts[name].start()
        except LocalError as error:
            self._progress(name, "failed")
            failures.append(error)
            return
        if self.n8n is not None and name == "n8n":
            Ports(self.data_dir).remember("n8n", self.n8n.port)
        self._progress(name, "ready")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.data_dir)!r})"


def _raise_all(failures: Sequence[LocalError]) -> None:
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise LocalError("\n".join(map(str, failures)))


def _started(part: _P | None) -> _P:
    if part is None:
        msg = "the stack has not been started"
        raise RuntimeError(msg)
    return part
