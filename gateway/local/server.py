"""What the embedded servers have in common: lock, recovery, port, readiness, end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

from gateway.local.data_directory import DirectoryLock, private_directory
from gateway.local.errors import PartFailed
from gateway.local.ports import Ports
from gateway.local.process import Process, describe, rotate, stop_orphans
from gateway.local.secrets import Secrets

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from pathlib import Path

    from gateway.local.process import Program

_RETRY_SECONDS = 10.0
_READY_SECONDS = 60.0
_POLL_SECONDS = 0.01
_RETRY_PAUSE_SECONDS = 0.1


class Server(ABC):
    """A server process on a loopback port, with its data in a folder of the data directory.

    Starting it recovers from whatever ended the last one. Use it as an async context manager, or call `start`
    and `stop`; both may be called again.
    """

    part: ClassVar[str]
    """Name of its folder, log, port and secret."""
    executable: ClassVar[str]
    """Name under which the process runs."""
    stop_signals: ClassVar[tuple[signal.Signals, ...]]
    transient: ClassVar[tuple[str, ...]]
    """Words in the log of a start that failed for a reason which passes or which another port avoids."""

    def __init__(self, data_dir: Path, *, progress: Callable[[str], None] | None = None) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self.directory = self.data_dir / self.part
        self.log = self.data_dir / f"{self.part}.log"
        self._progress = progress or (lambda _state: None)
        self._ports = Ports(self.data_dir)
        self._lock = DirectoryLock(self.data_dir, f"{self.part}.lock")
        self._password: str | None = None
        self._port: int | None = None
        self._process: Process | None = None

    async def start(self) -> None:
        """Start the server and wait until it answers.

        Raises DataDirectoryBusy if another process runs one on the same directory, DataDirectoryError,
        PackageMissing, and PartFailed with the last lines of its log.
        """
        if self._process is not None:
            return
        private_directory(self.data_dir)
        self._lock.acquire()
        try:
            rotate(self.log)
            self._password = Secrets(self.data_dir).get(f"{self.part}_password")
            await stop_orphans(self.directory, self.executable, self.stop_signals, _RETRY_SECONDS)
            await self._prepare()
            await self._start_until_it_stays()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the server, wait until it is gone, and give up the directory."""
        process, self._process = self._process, None
        try:
            if process is not None:
                await process.stop()
        finally:
            self._lock.release()

    async def died(self) -> PartFailed:
        """Wait until the server ends without having been told to, and return what is known about it."""
        process = self._running()
        status = await process.wait()
        if self._process is not process:
            # Stopped on purpose: nothing that this call waits for can happen any more.
            await asyncio.get_running_loop().create_future()
        return self._failure(process, f"ended with {describe(status)}")

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running().pid

    @property
    def port(self) -> int:
        """The loopback port it listens on."""
        if self._port is None:
            msg = f"{self.part} has not been started"
            raise RuntimeError(msg)
        return self._port

    @property
    def password(self) -> str:
        """The password that it asks for."""
        if self._password is None:
            msg = f"{self.part} has not been started"
            raise RuntimeError(msg)
        return self._password

    @abstractmethod
    async def _prepare(self) -> None:
        """Make the folder ready for a start; nothing else uses it now."""

    @abstractmethod
    def _program(self, port: int) -> Program:
        """Return what to run."""

    @abstractmethod
    async def _answers(self, pid: int, port: int) -> bool:
        """Whether this very server takes calls now; raises PartFailed if it never will."""

    async def _start_until_it_stays(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _RETRY_SECONDS
        while True:
            port = self._ports.choose(self.part)
            self._process = process = await Process.start(self._program(port))
            if await self._is_ready(process, port):
                self._ports.remember(self.part, port)
                self._port = port
                return
            log = process.log_tail()
            if loop.time() > deadline or not any(words in log for words in self.transient):
                raise self._failure(
                    process, f"did not start: it ended with {describe(process.returncode or 0)}"
                )
            await asyncio.sleep(_RETRY_PAUSE_SECONDS)

    async def _is_ready(self, process: Process, port: int) -> bool:
        """Wait until the server answers (True) or has ended (False)."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while process.returncode is None:
                    if await self._answers(process.pid, port):
                        return True
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise self._failure(process, f"did not answer within {_READY_SECONDS:.0f} seconds") from None
        return False

    def _failure(self, process: Process, what: str) -> PartFailed:
        return PartFailed(f"{self.part} {what}; its last words, from {self.log}:", process.log_tail())

    def _running(self) -> Process:
        if self._process is None:
            msg = f"{self.part} is not running"
            raise RuntimeError(msg)
        return self._process

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.data_dir)!r})"
