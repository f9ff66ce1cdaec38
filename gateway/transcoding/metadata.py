"""What a handler may know of the HTTP request beside the message, and say beside the answer."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, TypeVar, overload

from gateway.transcoding.errors import Code, StatusError

T = TypeVar("T")

_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_GRPC_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_MILLISECONDS = re.compile(rb"[0-9]{1,10}")
_GRPC_PREFIX: Final = "grpc-metadata-"
_USUAL: Final = {
    name.encode(): name
    for name in (
        *("accept", "accept-encoding", "accept-language", "authorization", "cache-control", "connection"),
        *("content-length", "content-type", "cookie", "forwarded", "host", "idempotency-key", "origin"),
        *("priority", "referer", "traceparent", "user-agent", "x-forwarded-for", "x-forwarded-proto"),
    )
}
"""Names that nearly all requests have: one string for all of those that are open."""


class Headers(Mapping[str, str]):
    """Request headers by lower-case name; the first value where a name comes twice.

    `pairs` are all of them in the order sent, `raw` gives the first value as sent, or None.
    """

    __slots__ = ("_first", "pairs", "raw")

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self.pairs: list[tuple[bytes, bytes]] = pairs if isinstance(pairs, list) else list(pairs)
        self._first = dict(self.pairs)
        if len(self._first) < len(self.pairs):
            self._first = dict(reversed(self.pairs))
        self.raw: Callable[[bytes], bytes | None] = self._first.get

    def __getitem__(self, name: str) -> str:
        return self._first[name.encode("latin-1")].decode("latin-1")

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str | T) -> str | T: ...
    def get(self, name: str, default: T | None = None) -> str | T | None:
        """The header, or `default`: without the error that Mapping's own costs where there is none."""
        value = self._first.get(name.encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._first)

    def __len__(self) -> int:
        return len(self._first)

    def has_none(self, names: Collection[bytes]) -> bool:
        """Whether no header has one of the names."""
        return self._first.keys().isdisjoint(names)

    def has_repeated(self) -> bool:
        """Whether some name comes more than once."""
        return len(self._first) < len(self.pairs)

    def items_all(self) -> list[tuple[str, str]]:
        """Every name and value, in the order sent."""
        return [
            (_USUAL.get(name) or name.decode("latin-1"), value.decode("latin-1"))
            for name, value in self.pairs
        ]

    def by_name(self) -> Mapping[str, str]:
        """Every value by name; several of one name are joined by commas (RFC 9110, 5.3)."""
        return {name: ", ".join(self.get_all(name)) for name in self} if self.has_repeated() else self

    def is_ascii(self) -> bool:
        """Whether all values are."""
        return all(value.isascii() for _, value in self.pairs)

    def get_all(self, name: str) -> list[str]:
        """Every value of a header, in the order sent; empty when there is none."""
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for key, value in self.pairs if key == wanted]

    def joined(self, name: bytes) -> bytes:
        """All values of a list header, joined by commas (RFC 9110, 5.3)."""
        value = self._first.get(name)
        if value is None:
            return b""
        if not self.has_repeated():
            return value
        return b", ".join(other for key, other in self.pairs if key == name)


class RequestMetadata:
    """One request's HTTP side.

    Read: `headers`, `http_method`, `raw_target` (path and query as sent),
    `client` (host, port) or None, `timeout` in seconds or None. Write, before
    the first message: `response_headers`, and `http_status` in place of 200.
    Write, before the end: `trailers`, which a unary response carries as
    ``grpc-trailer-`` headers, and a stream as HTTP trailers where the client
    asked for them (``TE: trailers``) and the server can send them.
    """

    __slots__ = (
        "client",
        "headers",
        "http_method",
        "http_status",
        "raw_target",
        "response_headers",
        "timeout",
        "trailers",
    )

    def __init__(
        self,
        headers: Headers,
        http_method: str,
        raw_target: str,
        client: tuple[str, int] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.headers = headers
        self.http_method = http_method
        self.raw_target = raw_target
        self.client = client
        self.timeout = timeout
        self.response_headers: list[tuple[str, str]] = []
        self.http_status: int | None = None
        self.trailers: list[tuple[str, str]] = []

    def grpc_metadata(self, allowed: Collection[str]) -> list[tuple[str, str | bytes]]:
        """The headers that a handler may hand on as gRPC metadata.

        Only lower-case names in `allowed` pass, sent plainly or behind
        ``grpc-metadata-``. Values of ``-bin`` names are base64 and become
        bytes. Raises StatusError INVALID_ARGUMENT when they are not.
        """
        found: list[tuple[str, str | bytes]] = []
        for header, value in self.headers.items_all():
            name = header.removeprefix(_GRPC_PREFIX)
            if name in allowed:
                found.append((name, _binary(name, value) if name.endswith("-bin") else value))
        return found


def _binary(name: str, value: str) -> bytes:
    try:
        return b64decode(value + "=" * (-len(value) % 4), validate=True)
    except ValueError:
        raise StatusError(Code.INVALID_ARGUMENT, f"the header {name} is not base64") from None


def parse_timeout(headers: Headers) -> float | None:
    """The shorter of Grpc-Timeout (``10m`` is 10 milliseconds) and Connect-Timeout-Ms, in seconds.

    Raises StatusError INVALID_ARGUMENT for a value outside of their grammars.
    """
    grpc, connect = headers.raw(b"grpc-timeout"), headers.raw(b"connect-timeout-ms")
    if grpc is None and connect is None:
        return None
    timeouts: list[float] = []
    if grpc is not None:
        match = _GRPC_TIMEOUT.fullmatch(grpc)
        if match is None:
            problem = "the Grpc-Timeout header must be up to 8 digits and one unit of H, M, S, m, u, n"
            raise StatusError(Code.INVALID_ARGUMENT, problem)
        timeouts.append(int(match[1]) * _UNITS[match[2]])
    if connect is not None:
        if _MILLISECONDS.fullmatch(connect) is None:
            raise StatusError(Code.INVALID_ARGUMENT, "the Connect-Timeout-Ms header must be up to 10 digits")
        timeouts.append(int(connect) / 1000)
    return min(timeouts)
