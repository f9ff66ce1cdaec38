"""Answers of a real n8n, byte for byte, as `tests/data/n8n` keeps them.

Each ``NAME.http`` is what came over the connection in answer to one request, HTTP's chunks
included; ``index.json`` tells the request, the parts as ``[seconds, bytes]`` they came in, and
whether the answer `ended` (else the client left first).
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

_DATA = Path(__file__).parent / "data" / "n8n"


@dataclass(frozen=True)
class Capture:
    """One answer of n8n: `raw` as it came, in `parts`, and read as HTTP."""

    name: str
    ended: bool
    parts: tuple[bytes, ...]

    @property
    def raw(self) -> bytes:
        return b"".join(self.parts)

    @property
    def status(self) -> int:
        return int(self.raw[9:12])

    @property
    def headers(self) -> dict[str, str]:
        """By name in lower case."""
        lines = self.raw.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def body(self) -> bytes:
        """Without HTTP's chunks and gzip."""
        body = self.raw.partition(b"\r\n\r\n")[2]
        if self.headers.get("transfer-encoding") == "chunked":
            body = b"".join(_chunks(body))
        return gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body


def _chunks(body: bytes) -> list[bytes]:
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        parts.append(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]
    return parts


def _load() -> dict[str, Capture]:
    captures = {}
    for case in json.loads((_DATA / "index.json").read_text()):
        raw = (_DATA / f"{case['name']}.http").read_bytes()
        parts, begin = [], 0
        for _, size in case["parts"]:
            parts.append(raw[begin : begin + size])
            begin += size
        captures[case["name"]] = Capture(case["name"], case["ended"], tuple(parts))
    return captures


CAPTURES = _load()
