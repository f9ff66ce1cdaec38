"""A program that holds a stack until it is told to stop, for the tests of how that ends.

Usage: hold_stack.py DATA_DIR. Writes a JSON array [part, state] a line, and when all is up an object of URLs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

from gateway.local.errors import LocalError
from gateway.local.stack import LocalStack


def tell(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def hold(data_dir: Path) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with LocalStack(data_dir, progress=lambda *state: tell(state)) as stack:
        tell(
            {
                "database_url": stack.database_url,
                "redis_url": stack.redis_url,
                "n8n_url": stack.n8n_url,
                "issuer_url": stack.issuer_url,
            }
        )
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
            asyncio.run(hold(Path(sys.argv[1])))
    except LocalError as error:
        sys.exit(str(error))
