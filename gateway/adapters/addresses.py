"""Which addresses the gateway connects to when a tenant has chosen the URL (against SSRF, CWE-918).

An address is looked at after its name has been resolved, and what was looked at is what is connected to: a
name that resolves to something else the next time (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any
from urllib.parse import urlsplit

from gateway.rpc.errors import InvalidArgument
from gateway.rpc.remembered import Remembered

_AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
_Found = Sequence[_AddressInfo]

_RESOLVE_SECONDS = 3.0
_FOUND_SECONDS = 5.0
_THREADS = 64
"""More than the names that one organization can have looked up at a time, should its server be silent."""
_CHECKING_THREADS = 4
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_PORTS = {"http": 80, "https": 443}


class AddressRefused(OSError):
    """The address is not public, and not in an allowed network."""

    def __init__(self) -> None:
        super().__init__("the address is not public")


class Names:
    """Looks names up in threads of its own: each name once at a time, and once in _FOUND_SECONDS.

    Whoever runs a name server may leave a question open for long, and a loop's own threads for all such
    questions are few: nobody else is to wait for them.
    """

    def __init__(self, threads: int = _THREADS) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="names")
        self._found: Remembered[tuple[str, int], _Found] = Remembered(self._ask, fresh=_FOUND_SECONDS)

    async def find(self, host: str, port: int) -> _Found:
        """The addresses of a name; an address is its own. Raises OSError, UnicodeError."""
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            return await self._found.get((host, port))

    async def _ask(self, name: tuple[str, int]) -> _Found:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, *name)


def _look_up(host: str, port: int) -> _Found:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Networks:
    """Addresses that may be connected to: public ones, and those within the networks of `allowed` (CIDR).

    Public is what IANA's registries call globally reachable, without multicast and without IPv6 that
    carries IPv4 (6to4, NAT64); an IPv4 address mapped into IPv6 is judged as itself.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """Raise ValueError for what is no network."""
        self._allowed = tuple(ipaddress.ip_network(network, strict=False) for network in allowed)
        self.names = Names()
        """Where the names of those addresses are looked up."""
        self._checked_names = Names(_CHECKING_THREADS)
        """Apart: whoever sets URLs one after the other keeps no connection waiting."""

    def permit(self, address: str) -> bool:
        """Whether this address, an IPv4 or IPv6 one, may be connected to."""
        parsed = ipaddress.ip_address(address)
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return _is_public(parsed) or any(parsed in network for network in self._allowed)

    async def check(self, url: str, field: str) -> None:
        """Tell early what would be refused at each connection. A name that does not resolve now may later.

        Raises InvalidArgument, naming `field`, when an address of the URL's host may not be connected to.
        """
        parts = urlsplit(url)
        try:
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            raise _refused(field, "has a port that is none") from None
        try:
            async with asyncio.timeout(_RESOLVE_SECONDS):
                found = await self._checked_names.find(parts.hostname or "", port)
        except (OSError, TimeoutError, UnicodeError):
            return
        if not all(self.permit(str(address[0])) for *_, address in found):
            raise _refused(field, "has an address that is not public, which the gateway does not allow")


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return isinstance(address, IPv4Address) or (address in _GLOBAL_UNICAST and address not in _SIX_TO_FOUR)


def _refused(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {problem}.", reason="ADDRESS_REFUSED", fields={field: problem})
