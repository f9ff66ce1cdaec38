"""Addresses: hosts, origins, networks and the URLs of other servers."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from gateway.settings.lists import CommaList

ADDRESS_OR_NAME = re.compile(r"[A-Za-z0-9._-]+")

_HOST = re.compile(r"(\*\.)?[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\]")
_ORIGIN = re.compile(r"\*|[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]+")


def http_url(example: str) -> AfterValidator:
    """What holds a setting to be a URL of HTTP; `example` shows in the fault."""

    def check(value: str | None) -> str | None:
        if value is not None and not _is_http_url(value):
            msg = f"must be an http:// or https:// URL, such as {example}"
            raise ValueError(msg)
        return value

    return AfterValidator(check)


def network(text: str) -> IPv4Network | IPv6Network:
    """A network; a single address is a network of one. Raises ValueError."""
    try:
        return ip_network(text)
    except ValueError as error:
        msg = f"must list IP addresses and networks such as 10.0.0.0/8: {error}"
        raise ValueError(msg) from None


def _bare_host(value: str) -> str:
    host = value.removeprefix("[").removesuffix("]")
    if not (ADDRESS_OR_NAME.fullmatch(host) or _is_address(host)):
        msg = "must be an address or a name, without a port"
        raise ValueError(msg)
    return host


def _hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    for host in value:
        if not _HOST.fullmatch(host):
            msg = f"must list names such as api.example.com or *.example.com, without ports: {host}"
            raise ValueError(msg)
    return value


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    for origin in value:
        if not _ORIGIN.fullmatch(origin):
            msg = f"must list origins such as https://app.example.com, without a path: {origin}"
            raise ValueError(msg)
    return value


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        network(text)
    return value


def _proxies(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        if network(text).prefixlen == 0:
            msg = f"{text} would believe everyone: name the networks of your proxies"
            raise ValueError(msg)
    return value


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


BareHost = Annotated[str, AfterValidator(_bare_host)]
"""An address or a name to listen on; an IPv6 address loses the brackets that it has in a URL."""
Hosts = Annotated[CommaList, AfterValidator(_hosts)]
"""Names that a request's Host may have; `*.` stands for any one below."""
Origins = Annotated[CommaList, AfterValidator(_origins)]
"""Origins of the web (RFC 6454), or `*`."""
Networks = Annotated[CommaList, AfterValidator(_networks)]
"""Addresses and networks, in CIDR notation."""
Proxies = Annotated[CommaList, AfterValidator(_proxies)]
"""Networks that are believed what they say of others; so not all there are."""
