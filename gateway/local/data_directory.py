"""The directory that everything embedded lives in: created private, held by one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from pathlib import Path
from typing import Self, cast

from gateway.local.errors import DataDirectoryBusy, DataDirectoryError

_WRITABLE_BY_OTHERS = 0o022


def private_directory(path: Path) -> Path:
    """Return `path` as an absolute directory of ours, created with mode 0700 if it is missing.

    A directory with something in it keeps its mode: somebody chose it.

    Raises DataDirectoryError if it cannot be created, is no directory, belongs to another user, or if other
    users may write to it.
    """
    path = path.expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.geteuid():
            msg = f"{path} belongs to user {status.st_uid}, and this process runs as user {os.geteuid()}"
            raise DataDirectoryError(msg)
        if not any(path.iterdir()):
            path.chmod(0o700)
        elif status.st_mode & _WRITABLE_BY_OTHERS:
            msg = f"{path} can be written to by other users: chmod 700 it, or choose another data directory"
            raise DataDirectoryError(msg)
    except OSError as error:
        msg = f"{path} cannot be used as a data directory: {error.strerror or error}"
        raise DataDirectoryError(msg) from error
    return path


def write_private(path: Path, data: bytes) -> None:
    """Replace the file in one step; only its owner can read it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_strings(path: Path) -> dict[str, str]:
    """Return the JSON object of strings in `path`; empty if there is no such file.

    Raises DataDirectoryError if it cannot be read, or holds anything else: replacing it would lose that.
    """
    try:
        value: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        msg = f"{path} is damaged: it should hold a JSON object of strings"
        raise DataDirectoryError(msg)
    return cast("dict[str, str]", value)


def write_strings(path: Path, values: dict[str, str]) -> None:
    """Replace the file by the JSON object, as `write_private` does."""
    write_private(path, json.dumps(values, indent=2, sort_keys=True).encode() + b"\n")


class DirectoryLock:
    """An flock on a file in a directory, with the holder's process id in it.

    The kernel drops it when the holder dies, however it dies: whoever holds it knows that servers still
    running on the directory are orphans.
    """

    def __init__(self, directory: Path, name: str = "lock") -> None:
        self._path = directory / name
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise DataDirectoryBusy; taking a lock one already has does nothing."""
        if self._descriptor is not None:
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).strip()
            os.close(descriptor)
            pid = int(holder) if holder.isdigit() else None
            by = f"process {pid}" if pid else "another process"
            msg = f"{self._path.parent} is in use by {by}: stop it, or choose another data directory"
            raise DataDirectoryBusy(msg, pid) from None
        except OSError as error:
            os.close(descriptor)
            msg = f"{self._path} cannot be locked: {error.strerror}"
            raise DataDirectoryError(msg) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock up, if one has it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
