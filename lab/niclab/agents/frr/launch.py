"""Becomes an FRR daemon that sees nothing of the host's FRR; run as a file: `launch.py DIRECTORY PROGRAM [ARGUMENT …]`.

The calling process is in the router's network namespace already. DIRECTORY holds all files the daemon is told of; what
it would write elsewhere goes to file systems of its own: below /run (lib/libfrr.c makes /run/frr), to /var/tmp (crash
logs, lib/zlog.c), and to /etc/frr and /var/lib/frr, which the host's FRR may be using. It finds an /etc/group of its
own, in which root is of the group that Debian's FRR insists on (lib/privs.c), so that it can run as the lab's owner.
Only the standard library: it is started with `-I -S`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_OWN = ("/run", "/etc/frr", "/var/lib/frr", "/var/tmp")
_GROUPS = "root:x:0:\nfrr:x:0:\nfrrvty:x:0:root\n"

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    _check(_libc.mount(source.encode(), target.encode(), kind.encode(), flags, None), f"mount {source} on {target}")


def hide(directory: str) -> None:
    """Give this process mounts of its own, but for one directory. Raises OSError with the step that failed."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _mount("none", "/", "none", _MS_REC | _MS_PRIVATE)
    # A copy of a named namespace's mount would keep that namespace alive, whosesoever it is.
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] == "nsfs":
            _libc.umount2(fields.split()[4].encode(), _MNT_DETACH)
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    for path in _OWN:
        if Path(path).is_dir():
            _mount("tmpfs", path, "tmpfs", 0)
    Path(directory).mkdir(parents=True, exist_ok=True)
    _mount(f"/proc/self/fd/{handle}", directory, "none", _MS_BIND)
    os.close(handle)
    groups = Path(_OWN[-1], "group")
    groups.write_text(_GROUPS)
    _mount(str(groups), "/etc/group", "none", _MS_BIND)


def main(directory: str, *program: str) -> None:
    try:
        hide(directory)
        os.execv(program[0], program)
    except OSError as error:
        print(f"cannot start {program[0]}: {error}", file=sys.stderr)
        sys.exit(125)


if __name__ == "__main__":
    main(*sys.argv[1:])
