"""PostgREST in front of the parts' database: ``python -m tests.bench.servers.postgrest_alone DIRECTORY``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.adapters.postgrest import Postgrest
from tests.bench.servers import serving
from tests.bench.servers.parts import Parts


async def main() -> None:
    directory = Path(sys.argv[1])
    parts = Parts.read(directory)
    postgrest = Postgrest(directory / "rest", parts.database_url, parts.jwks)
    await postgrest.start()
    serving.announce({"http": postgrest.port})
    try:
        await asyncio.Event().wait()
    finally:
        await postgrest.stop()


if __name__ == "__main__":
    serving.run(main)
