"""Loopback ports that stay the same from one start to the next, as long as nobody else took them."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from gateway.local.data_directory import read_strings, write_strings

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK = "127.0.0.1"


class Ports:
    """Remembers in `ports.json` of the data directory which part had which TCP port."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "ports.json"

    def choose(self, part: str) -> int:
        """Return the part's last port if it is free now, else some free one.

        Somebody may take it before the part binds it: then the part fails to start, and one chooses again.
        """
        remembered = self.remembered(part)
        if remembered and is_free(remembered):
            return remembered
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port: int = probe.getsockname()[1]
            return port

    def remembered(self, part: str) -> int:
        """The port that the part got last; 0 when it never had one."""
        port = read_strings(self._path).get(part, "")
        return int(port) if port.isdigit() else 0

    def remember(self, part: str, port: int) -> None:
        """Keep the port that the part got."""
        values = read_strings(self._path)
        if values.get(part) != str(port):
            write_strings(self._path, values | {part: str(port)})


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
        # As the servers do: without it, connections in TIME_WAIT would make the part move after every stop.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
        return True
    return False
