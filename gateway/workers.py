"""Serving by several processes on the same ports: the kernel gives each new connection to one of them."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog

from gateway.doors.listening import listen

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from gateway.settings import Settings

CANNOT_SERVE = 78
"""How a worker exits that has told what is to be mended. At the start, to start it again would not help.

It is EX_CONFIG of sysexits.h: with 1 exits every Python process that an unforeseen exception ends.
"""
_AGAIN_SECONDS = 1.0

log = structlog.get_logger("gateway")


class WorkerError(Exception):
    """A worker cannot serve. It has said why."""


class Workers:
    """Keeps `count` processes at `work`, which serves by the settings it is given until SIGTERM.

    A worker that dies is replaced, and a replacement that cannot serve is tried again. Each is a replica of
    its own, with its own connections to the parts, and its metrics on the port behind that of the one before.
    """

    def __init__(self, work: Callable[[Settings], None], settings: Settings, count: int) -> None:
        self._work = work
        self._settings = settings
        self._count = count
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[int, BaseProcess] = {}
        self._is_stopping = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until `stopping` is set and every worker has drained.

        Raises OSError when a port cannot be had, WorkerError when one of the first workers cannot serve.
        """
        shared = self._shared()
        keepers = [
            asyncio.create_task(self._keep(number, self._own(shared, number)))
            for number in range(self._count)
        ]
        told = asyncio.create_task(stopping.wait())
        await asyncio.wait([told, *keepers], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        self._is_stopping = True
        for process in self._running.values():
            process.terminate()
        await asyncio.wait(keepers)
        for keeper in keepers:
            keeper.result()

    def _shared(self) -> Settings:
        """The settings with ports that nobody has; a free one is looked for once, for all of them."""
        settings = self._settings
        wanted = {"http_port": settings.http_port, "grpc_port": settings.grpc_port}
        with ExitStack() as sockets:
            for name, port in wanted.items():
                try:
                    listener = sockets.enter_context(listen(name[:4].upper(), settings.host, port))
                except OSError as error:
                    raise OSError(f"{error}: choose another port with {name.upper()}") from None
                wanted[name] = listener.getsockname()[1]
        replicas = settings.rate_limit_replicas * self._count
        return settings.model_copy(update={**wanted, "rate_limit_replicas": replicas})

    def _own(self, shared: Settings, number: int) -> Settings:
        port = shared.metrics_port
        return shared.model_copy(update={"metrics_port": port + number}) if port else shared

    async def _keep(self, number: int, settings: Settings) -> None:
        is_replacement = False
        while not self._is_stopping:
            process = self._context.Process(target=self._work, args=(settings,), name=f"worker {number}")
            process.start()
            self._running[number] = process
            await _ended(process)
            del self._running[number]
            if self._is_stopping:
                return
            if process.exitcode == CANNOT_SERVE and not is_replacement:
                raise WorkerError("a worker cannot serve: see above")
            log.warning("worker died", worker=number, exit_code=process.exitcode)
            await asyncio.sleep(_AGAIN_SECONDS)
            is_replacement = True


async def _ended(process: BaseProcess) -> None:
    """Wait until the process is no more."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(process.sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process.sentinel)
    process.join()


def stop_with_parent(stopping: asyncio.Event) -> None:
    """Set `stopping` when the process that started this worker is no more, however it ended."""
    parent, loop = multiprocessing.parent_process(), asyncio.get_running_loop()
    if parent is None:
        return
    sentinel = parent.sentinel

    def stop() -> None:
        loop.remove_reader(sentinel)
        stopping.set()

    loop.add_reader(sentinel, stop)
