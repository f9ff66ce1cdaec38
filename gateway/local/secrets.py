"""Secrets of the embedded parts: made at the first start, found again at the next."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from gateway.local.data_directory import read_strings, write_strings

if TYPE_CHECKING:
    from pathlib import Path

_BYTES = 48
"""64 characters in URL-safe base64, what production asks of N8N_INTERNAL_AUTH_SECRET."""


class Secrets:
    """Named secrets in `secrets.json` of the data directory, mode 0600.

    URL-safe text, so that they go into connection URLs, headers and shells as they are.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "secrets.json"

    def get(self, name: str) -> str:
        """Return the secret of that name, made now if there is none: 64 characters, 384 bits.

        Raises DataDirectoryError if the file is damaged.
        """
        values = read_strings(self._path)
        if name not in values:
            values[name] = secrets.token_urlsafe(_BYTES)
            write_strings(self._path, values)
        return values[name]

    def find(self, name: str) -> str | None:
        """Return the secret of that name, None if there is none. Raises DataDirectoryError."""
        return read_strings(self._path).get(name)

    def set(self, name: str, value: str) -> None:
        """Keep a secret that was made elsewhere."""
        write_strings(self._path, read_strings(self._path) | {name: value})

    def __repr__(self) -> str:
        return f"Secrets({str(self._path)!r})"
