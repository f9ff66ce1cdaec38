"""What the suite starts and ends for each configuration, in the place of the server: `launcher.py SOCKET`.

The suite waits a few seconds for a server, and on a busy machine the gateway is not even imported by then.
So a `tests.conformance.server` that is ready at SOCKET serves instead, over the files that the suite gave to
this one, for as long as this one lives.
"""

from __future__ import annotations

import socket
import sys

if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        socket.send_fds(connection, [b"."], [0, 1, 2])
        connection.recv(1)
