"""`python -m gateway`, and the command `n8n-gateway`."""

from __future__ import annotations

import gc
import sys

_SELDOM = 100_000
"""So many more containers than were freed start a collection: more than what is imported makes."""

_INTERRUPTED = 130


def main() -> None:
    """Run the command, which looks for no garbage in what it imports: that takes a quarter of a start."""
    gc.set_threshold(_SELDOM)
    try:
        from gateway.cli import main as command  # noqa: PLC0415 - not before

        command()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
