"""Sockets that doors listen on."""

from __future__ import annotations

import socket

_BACKLOG = 2048


def listen(door: str, host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Listen on a host (an address or a name) and a port, 0 for a free one; `::` is both families.

    A `shared` port is that of all who share it, and each gets some of its connections.

    Raises OSError that says for which door, where, and why not.
    """
    try:
        if ":" not in host:
            return socket.create_server((host, port), backlog=_BACKLOG, reuse_port=shared)
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6,
            backlog=_BACKLOG,
            reuse_port=shared,
            dualstack_ipv6=both,
        )
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise OSError(f"cannot listen for {door} on {where}: {reason}") from None
