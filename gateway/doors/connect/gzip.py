"""gzip as the Connect door uses it: only where it is worth it, and without a word of zlib's to callers."""

from __future__ import annotations

import asyncio
import zlib

from connectrpc.code import Code
from connectrpc.compression.gzip import GzipCompression
from connectrpc.errors import ConnectError

WORTHWHILE = 1024
"""Bytes below which compressing costs more than it saves."""

_IN_THREAD = 128 * 1024
_LEVEL = 6
_FORMAT = 31
"""zlib's window bits for gzip."""


async def compress(data: bytes) -> bytes:
    """The data in gzip; much of it is compressed beside the event loop."""
    return await asyncio.to_thread(_compress, data) if len(data) >= _IN_THREAD else _compress(data)


def _compress(data: bytes) -> bytes:
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _FORMAT)
    return compressor.compress(data) + compressor.flush()


class RequestGzip(GzipCompression):
    """Reads requests in gzip, up to a number of bytes."""

    def decompress(self, data: bytes | bytearray | memoryview, read_max_bytes: int | None = None) -> bytes:
        """The data itself. Raises ConnectError INVALID_ARGUMENT, RESOURCE_EXHAUSTED."""
        try:
            return super().decompress(data, read_max_bytes)
        except (zlib.error, EOFError, OSError):
            raise ConnectError(
                Code.INVALID_ARGUMENT, "the message is not in gzip, or not all of it"
            ) from None
