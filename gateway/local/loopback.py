"""HTTP servers of this process on a loopback port."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.local.errors import PartFailed
from gateway.local.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable


class LoopbackServer:
    """Serves an aiohttp application on 127.0.0.1 until it is stopped."""

    def __init__(self, name: str, make_application: Callable[[], web.Application]) -> None:
        self._name = name
        self._make_application = make_application
        self._runner: web.AppRunner | None = None
        self._port: int | None = None

    async def start(self, choose_port: Callable[[], int]) -> None:
        """Listen on the chosen port (0: any free one).

        A port that was taken since it was chosen is chosen again once; then PartFailed is raised.
        """
        if self._runner is not None:
            return
        # Answers in progress are cut off by a stop and by the client's going: some would never end.
        runner = web.AppRunner(
            self._make_application(), access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, LOOPBACK, choose_port()).start()
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                await web.TCPSite(runner, LOOPBACK, choose_port()).start()
        except OSError as error:
            await runner.cleanup()
            msg = f"{self._name} cannot listen on a loopback port: {error.strerror}"
            raise PartFailed(msg) from error
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening, and cut off the answers in progress."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._port is None:
            msg = f"{self._name} has not been started"
            raise RuntimeError(msg)
        return self._port

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""
        return f"http://{LOOPBACK}:{self.port}"
