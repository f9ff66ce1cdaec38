"""Turns into the command it is given, once the command cannot outlive its parent or run as root.

Run as a program, by `process`: ``python -I -S launcher.py SIGNAL PARENT USER DIRECTORY -- COMMAND...``.
A program of its own, because between fork and exec of a process with threads nothing of this is safe to do.

- SIGNAL: number that is sent to the command when the parent dies: by the kernel on Linux (prctl(2),
  PR_SET_PDEATHSIG; the parent is the thread that started this program), elsewhere by a process that watches.
- PARENT: the parent's process id; if it is already gone, the command is not run.
- USER: `same`, or `nobody` for a command that refuses to run as root or as a user without a name.
- DIRECTORY: what the command writes to; made over to the user it runs as.

Standard library only, and none of the gateway: it starts in some 15 ms.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

NOBODY = 65534

_WATCH_SECONDS = 0.2

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522


def main(arguments: list[str]) -> None:
    """Become the command; returns only by an exception."""
    signal, parent, user, directory, _, *command = arguments
    linux = sys.platform == "linux"
    if user == "nobody":
        if not linux:
            sys.exit(f"{command[0]} cannot run as user {os.geteuid()} here: start as an ordinary user")
        _become_nobody(Path(directory), Path(command[0]))
    if linux:
        # After the change of user, which clears it.
        _call("prctl", _PR_SET_PDEATHSIG, int(signal), 0, 0, 0)
    else:
        watch(int(parent), int(signal))
    if os.getppid() != int(parent):
        sys.exit("the parent is gone")
    os.umask(0o077)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def watch(parent: int, signal: int) -> None:
    """Leave a process behind that sends this one the signal when the parent dies."""
    command = os.getpid()
    if os.fork() > 0:
        return
    while os.getppid() == command:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os.kill(command, signal)
            break
        time.sleep(_WATCH_SECONDS)
    os._exit(0)


def _become_nobody(directory: Path, program: Path) -> None:
    """Be a user without privileges, by the first way that this machine allows.

    A user namespace changes nothing on disk: files stay this user's own. Containers often forbid it; there
    root becomes nobody for good and keeps the one capability to reach a directory under, say, /root.
    """
    root = os.geteuid() == 0
    if not root or (_reachable(directory) and _reachable(program)):
        try:
            if root:
                _give(directory, 0)
            _enter_user_namespace()
        except OSError as error:
            if not root:
                sys.exit(f"user {os.geteuid()} has no name on this machine, and no user namespace: {error}")
        else:
            return
    try:
        _give(directory, NOBODY)
        _drop_root()
    except OSError as error:
        sys.exit(
            f"{program.name} refuses to run as root, and this machine lets root become nobody else: {error}"
        )


def _reachable(path: Path) -> bool:
    """Whether root without its privileges gets to the path: each directory above is its or open to all."""
    statuses = [parent.stat() for parent in path.parents]
    return all(status.st_mode & (0o100 if status.st_uid == 0 else 0o001) for status in statuses)


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", _CLONE_NEWUSER)
    # user_namespaces(7): a process without privileges may map its groups only after giving up setgroups.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")


def _drop_root() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    _call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    bit = 1 << _CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # effective, permitted, inheritable; of capabilities 0-31, then of 32-63
    _call("capset", header, (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0))
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


def _give(directory: Path, uid: int) -> None:
    if directory.stat().st_uid == uid:
        return
    # Bottom up: the directory itself comes last, so that a walk that was cut short is done again.
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            os.chown(Path(folder, name), uid, -1, follow_symlinks=False)
        os.chown(folder, uid, -1)


def _call(function: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(item) if isinstance(item, int) else item for item in arguments]
    if getattr(libc, function)(*words) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")


if __name__ == "__main__":
    main(sys.argv[1:])
