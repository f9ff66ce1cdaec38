"""Runs a command as an ordinary user. Usage: as_nobody.py COMMAND... Needs to be root.

It is a process of its own because `subprocess` forks for another user, and what gRPC does after a fork of the
process that runs the tests may end the child before it is anything else.
"""

from __future__ import annotations

import os
import sys

NOBODY = 65534

if __name__ == "__main__":
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    os.execv(sys.argv[1], sys.argv[1:])
