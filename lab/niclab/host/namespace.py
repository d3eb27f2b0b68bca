"""Named network namespaces, as ip-netns(8) has them: a file in /run/netns on which the namespace is mounted.

[iproute2] `ip netns add` makes /run/netns a shared mount of itself first, unless it is one, and takes along what is
mounted below it: names that were made before are mounted twice from then on, and cannot be unlinked. So the lab makes
the same shared mount before its first name. Names that somebody made without it stay as they are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from pathlib import Path

from niclab.host import syscalls
from niclab.host.waiting import locked

NAMED = Path("/run/netns")
_PATIENCE = 5.0
"""Seconds to wait for others that mount there: iproute2 takes the same lock."""
_MADE, _MOUNTED = "made-netns-directory", "mounted-netns-directory"


def prepare(notes: Path) -> None:
    """Make NAMED a directory and a mount that names can be made in; what was done is noted in `notes` before."""
    if not NAMED.exists():
        (notes / _MADE).touch()
        with contextlib.suppress(FileExistsError):
            NAMED.mkdir(mode=0o755)
    with locked(NAMED, _PATIENCE):
        if not syscalls.mounted_at(str(NAMED)):
            (notes / _MOUNTED).touch()
            syscalls.bind(str(NAMED), str(NAMED), recursive=True)
            syscalls.mount("none", str(NAMED), flags=syscalls.MS_SHARED)


def leave(notes: Path) -> None:
    """Undo `prepare`, unless somebody else's names are there by now."""
    made, mounted = (notes / _MADE).exists(), (notes / _MOUNTED).exists()
    if not (made or mounted) or not NAMED.is_dir():
        return
    with locked(NAMED, _PATIENCE):
        if any(NAMED.iterdir()):
            return
        if mounted and any(one.point == str(NAMED) for one in syscalls.mounted_at(str(NAMED))):
            syscalls.unmount(str(NAMED))
        if made:
            with contextlib.suppress(OSError):
                NAMED.rmdir()


def bind_current(path: Path) -> None:
    """Give the calling thread's network namespace the name of the file at `path`. Raises OSError."""
    syscalls.bind("/proc/thread-self/ns/net", str(path))


def is_mounted(path: Path) -> bool:
    """Whether a file in NAMED is a namespace, and not a file that waits for one."""
    return path.stat().st_dev != path.parent.stat().st_dev


def remove(name: str, inode: int | None) -> bool:
    """Unmount and unlink a name. False when another namespace than `inode` stands under it. Raises OSError."""
    path = NAMED / name
    try:
        current = path.stat().st_ino
    except FileNotFoundError:
        return True
    if inode is not None and current != inode and is_mounted(path):
        return False
    try:
        syscalls.unmount(str(path))
    except OSError as error:
        if error.errno != errno.EINVAL:  # killed between the file and the mount: nothing is mounted
            raise
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        _unlink_covered(path)
    return True


def _unlink_covered(path: Path) -> None:
    """Unlink a name that is mounted once more below a mount that somebody made over NAMED since.

    [kernel] What is unlinked where it is no mount point is unmounted wherever it is one (fs/namespace.c
    __detach_mounts). So it is unlinked in a mount namespace from which all that covers it is removed; what others have
    mounted stays as it is in ours.
    """
    steps: list[syscalls.Step] = [("own_mounts",), ("uncover", str(NAMED)), ("unlink", str(path))]
    line = syscalls.command(steps, ["true"], purpose=f"unlink {path}")
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise OSError(errno.EBUSY, done.stderr.strip() or os.strerror(errno.EBUSY))
