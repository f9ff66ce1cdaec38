"""Runs a command as root where no user namespace can be made, as in most containers.

Usage: without_user_namespaces.py COMMAND... Needs to be root. The limit that it sets holds in a user
namespace of its own, in which every user still exists.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
ALL_USERS = "0 0 65536"
PR_SET_PDEATHSIG = 1
SIGKILL = 9


def main(command: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    entered, enter = os.pipe()
    mapped, mark_mapped = os.pipe()
    child = os.fork()
    if child == 0:
        if libc.unshare(CLONE_NEWUSER) != 0:
            os._exit(77)
        os.write(enter, b".")
        os.read(mapped, 1)
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        os.execv(command[0], command)
    os.close(enter)
    if os.read(entered, 1):
        Path(f"/proc/{child}/uid_map").write_text(ALL_USERS)
        Path(f"/proc/{child}/gid_map").write_text(ALL_USERS)
        os.write(mark_mapped, b".")
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(sys.argv[1:])
