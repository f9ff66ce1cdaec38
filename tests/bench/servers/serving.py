"""How every HTTP peer is served: by uvicorn on httptools and uvloop, as the gateway is at heart."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import uvicorn
import uvloop


def announce(ports: Mapping[str, int]) -> None:
    """Tell the parent that everything listens."""
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run on uvloop until the parent ends the process."""
    uvloop.run(main())  # type: ignore[arg-type]


def serve(applications: Mapping[str, Any], *, start: Callable[[], Awaitable[None]] | None = None) -> None:
    """Serve ASGI applications by name, each on a free port, after `start` in the same loop."""

    async def main() -> None:
        if start is not None:
            await start()
        listeners = {name: socket.create_server(("127.0.0.1", 0), backlog=512) for name in applications}
        servers = []
        for name, application in applications.items():
            config = uvicorn.Config(
                application, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False
            )
            servers.append(uvicorn.Server(config).serve(sockets=[listeners[name]]))
        announce({name: listener.getsockname()[1] for name, listener in listeners.items()})
        await asyncio.gather(*servers)

    run(main)
