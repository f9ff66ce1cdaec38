"""Where a call comes from: the client's own address, behind proxies that are trusted to tell it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from gateway.rpc.call import Call

    Hops = Iterable[str]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_MOST_HOPS = 32
"""Proxies that one call can pass; what stands left of them is not looked at."""

_LONGEST = 8192
"""Characters of Forwarded, which must be read whole."""
_REMEMBERED = 4096

_GRPC_PEER = re.compile(r"ipv[46]:(.*)", re.DOTALL)
_PORT = r"(?::(?:\d{1,5}|_[\w.-]+))?"
_BRACKETED = re.compile(rf"\[([^\]]*)\]{_PORT}", re.ASCII)
_IPV4 = re.compile(rf"([\d.]+){_PORT}", re.ASCII)

# RFC 7239, section 4: forwarded-pair = token "=" value; value = token / quoted-string.
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = re.compile(rf'({_WORD})=(?:({_WORD})|"((?:[^"\\]|\\.)*)")')
_QUOTED_PAIR = re.compile(r"\\(.)")
_END_OF_PAIR = re.compile(r"[ \t]*([;,]|\Z)[ \t]*")


class ClientAddress:
    """Sets `call.address`, from the connection's peer and what trusted proxies say about it.

    `trusted` are the networks of the operator's own proxies; nobody else is believed. A proxy appends
    the peer that it has seen, so the list is read from its right end: the first address that is no
    trusted proxy's is the client. Where a proxy does not know it, or hides it, the proxy's own
    address stands for it.

    `header` is the one that these proxies write (`forwarded`, RFC 7239, or `x-forwarded-for`). When
    it is None both are read; a client can forge the one that its proxy leaves alone, so if they
    disagree neither is believed.
    """

    def __init__(self, trusted: Collection[Network] = (), header: str | None = None) -> None:
        self._trusted = tuple(trusted)
        self._readers = [reader for name, reader in _READERS.items() if header in {None, name}]
        self._is_trusted = lru_cache(_REMEMBERED)(self._look_up)
        self._peer = lru_cache(_REMEMBERED)(self._look_at_peer)

    async def __call__(self, call: Call) -> None:
        """Set the call's address; it stays empty where the peer has none (a Unix socket)."""
        call.address, proxy = self._peer(call.peer)
        if proxy is not None:
            call.address = str(self._behind(proxy, call))

    def _behind(self, proxy: Address, call: Call) -> Address:
        told = {
            self._client(proxy, hops)
            for reader in self._readers
            if (hops := reader(call.metadata)) is not None
        }
        return told.pop() if len(told) == 1 else proxy

    def _client(self, proxy: Address, hops: Hops) -> Address:
        nearest = proxy
        for hop in islice(hops, _MOST_HOPS):
            address = _node(hop)
            if address is None:
                return nearest
            if not self._is_trusted(address):
                return address
            nearest = address
        return nearest

    def _look_at_peer(self, peer: str | None) -> tuple[str, Address | None]:
        """The address of a peer as text, and the address itself if the peer is a trusted proxy."""
        address = _peer_address(peer)
        if address is None:
            return "", None
        return str(address), address if self._is_trusted(address) else None

    def _look_up(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _x_forwarded_for(metadata: Mapping[str, str]) -> Hops | None:
    """The nodes of X-Forwarded-For, the last first."""
    value = metadata.get("x-forwarded-for")
    return None if value is None else reversed(value.rsplit(",", _MOST_HOPS))


def _forwarded(metadata: Mapping[str, str]) -> Hops | None:
    """The `for` of each element of Forwarded, the last first; none at all of one that is malformed or huge.

    It can only be read from its left end, where a client could leave a quote open.
    """
    value = metadata.get("forwarded")
    if value is None:
        return None
    if len(value) > _LONGEST:
        return ()
    hops: list[str] = []
    names: set[str] = set()
    position, node = 0, ""
    while position < len(value) or names:
        pair = _PAIR.match(value, position)
        end = pair and _END_OF_PAIR.match(value, pair.end())
        if pair is None or end is None or (name := pair[1].lower()) in names:
            return ()
        names.add(name)
        if name == "for":
            node = pair[2] or _QUOTED_PAIR.sub(r"\1", pair[3] or "")
        if end[1] != ";":
            hops.append(node)
            names, node = set(), ""
        position = end.end()
    return reversed(hops)


_READERS: dict[str, Callable[[Mapping[str, str]], Hops | None]] = {
    "forwarded": _forwarded,
    "x-forwarded-for": _x_forwarded_for,
}


def _node(text: str) -> Address | None:
    """An address with or without a port, in brackets or not; None of `unknown`, `_hidden` and nonsense."""
    text = text.strip(" \t")
    match = _BRACKETED.fullmatch(text) or _IPV4.fullmatch(text)
    return _address(match[1] if match else text)


def _peer_address(peer: str | None) -> Address | None:
    """The address of `192.0.2.1:5`, `2001:db8::1:5` (HTTP doors) or `ipv6:[2001:db8::1]:5` (gRPC)."""
    if peer is None:
        return None
    match = _GRPC_PEER.fullmatch(peer)
    host, _, _ = (unquote(match[1]) if match else peer).rpartition(":")
    return _address(host.removeprefix("[").removesuffix("]"))


def _address(text: str) -> Address | None:
    """One address, however it was written: without a zone, and an IPv4 address in IPv6 as what it is."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))
