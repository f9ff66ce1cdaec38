"""The connections to one n8n: those that are kept for the next run, and new ones."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from functools import cache
from typing import Protocol

from aiohappyeyeballs import start_connection

from gateway.adapters.addresses import AddressRefused, Names, Networks
from gateway.adapters.n8n import faults
from gateway.adapters.n8n.connection import Connection

KEPT_SECONDS = 4.0
"""n8n closes a connection that is idle for 5 s: one that is kept longer may close as it is used."""
_ON_ITS_WAY_SECONDS = 1.0
"""What a request may take to come before its server closes the connection."""
_NEXT_ADDRESS_SECONDS = 0.25
"""RFC 8305, section 5."""


class Origin(Protocol):
    """Where connections go to."""

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        ...

    @property
    def raw_host(self) -> str | None:
        """A name or an address, without brackets."""
        ...

    @property
    def port(self) -> int | None:
        """The port."""
        ...


class Pool:
    """Connections to one origin, as many as are asked for.

    `networks` are where it may be, None for anywhere.
    """

    def __init__(
        self, origin: Origin, *, ssl_context: ssl.SSLContext | None = None, networks: Networks | None = None
    ) -> None:
        self._host, self._port = origin.raw_host or "", origin.port or 0
        self._tls = (ssl_context or _default_tls()) if origin.scheme == "https" else None
        self._networks = networks
        self._names = networks.names if networks else Names()
        self._kept: deque[tuple[float, Connection]] = deque()
        """The one that was used last is last; each with the time until which it is kept."""
        self._used: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def kept(self) -> Connection | None:
        """A kept connection that can take a request."""
        now = asyncio.get_running_loop().time()
        while self._kept:
            until, connection = self._kept.pop()
            if until > now and connection.is_free:
                self._used.add(connection)
                return connection
            connection.abort()
        return None

    async def connect(self, seconds: float) -> Connection:
        """Make a connection within so many seconds. Raises N8N_UNREACHABLE, N8N_ADDRESS_REFUSED."""
        try:
            async with asyncio.timeout(seconds):
                connection = await self._connect()
        except AddressRefused:
            raise faults.address_refused() from None
        # uvloop tells some faults of sockets as RuntimeError; a name may be none to the resolver.
        except (OSError, RuntimeError, UnicodeError, ssl.CertificateError) as error:
            raise faults.unreachable() from error
        if self._is_closed:
            connection.abort()
            raise faults.unreachable()
        self._used.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection that can take another request, and end any other at once."""
        self._used.discard(connection)
        if self._is_closed or not connection.is_free:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        seconds = min(KEPT_SECONDS, connection.idle_seconds - _ON_ITS_WAY_SECONDS)
        self._kept.append((loop.time() + seconds, connection))
        if self._timer is None:
            self._timer = loop.call_later(KEPT_SECONDS, self._let_go)

    def close(self) -> None:
        """End every connection, now and later. Answers under way end with N8N_CONNECTION_LOST."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._kept:
            self._kept.pop()[1].abort()
        for connection in self._used:
            connection.fail(faults.connection_lost())

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        found = await self._names.find(self._host, self._port)
        if self._networks is not None:
            # What is looked at here is what is connected to, whatever the name resolves to the next time.
            found = [info for info in found if self._networks.permit(str(info[4][0]))]
            if not found:
                raise AddressRefused
        connected = await start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS)
        # RFC 6066, section 3: without the dot that a name may end with.
        name = self._host.removesuffix(".") if self._tls else None
        try:
            _, connection = await loop.create_connection(
                Connection, sock=connected, ssl=self._tls, server_hostname=name
            )
        except BaseException:
            connected.close()
            raise
        return connection

    def _let_go(self) -> None:
        """End what was kept for long enough."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        old, self._kept = self._kept, deque(kept for kept in self._kept if kept[0] > now)
        for until, connection in old:
            if until <= now:
                connection.abort()
        self._timer = loop.call_later(KEPT_SECONDS, self._let_go) if self._kept else None


@cache
def _default_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
