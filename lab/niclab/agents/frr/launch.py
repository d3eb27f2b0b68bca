"""FRR's daemons see nothing of the host's FRR.

A daemon is in the router's network namespace already. What it would write outside its own directory goes to file
systems of its own: below /run (lib/libfrr.c makes /run/frr), to /var/tmp (crash logs, lib/zlog.c), and to /etc/frr and
/var/lib/frr, which the host's FRR may be using. It finds an /etc/group of its own, in which root is of the group that
Debian's FRR insists on (lib/privs.c), so that it can run as the lab's owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from niclab.host import syscalls

_OWN = ("/run", "/etc/frr", "/var/lib/frr", "/var/tmp")
_GROUPS = "root:x:0:\nfrr:x:0:\nfrrvty:x:0:root\n"


def command(directory: Path, program: Sequence[str]) -> list[str]:
    """The argument list that runs a daemon whose files are all in `directory`."""
    groups = f"{_OWN[-1]}/group"
    steps: list[syscalls.Step] = [
        ("own_mounts",),
        # A copy of a named namespace's mount would keep that namespace alive, whosesoever it is.
        ("forget", "nsfs"),
        ("open", str(directory)),
        *(("fresh", "tmpfs", path) for path in _OWN if Path(path).is_dir()),
        ("show", str(directory), str(directory)),
        ("file", groups, _GROUPS),
        ("bind", groups, "/etc/group"),
    ]
    return syscalls.command(steps, program, purpose=f"start {program[0]}")
