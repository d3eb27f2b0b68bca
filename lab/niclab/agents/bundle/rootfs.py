"""Looking into an image's root file system from outside, and running a program in it to learn its version.

A path in an image may be a symbolic link to anywhere. Followed by the host it would lead out of the image, so links are
followed here, with the image's root as `/`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from niclab.cilium.version import printed_release
from niclab.errors import LabError
from niclab.host import process, userns

_LINKS = 40
"""As many as the kernel follows before it calls it a loop."""
_ENTER = """\
import os, sys
try:
    os.chroot(sys.argv[1])
    os.chdir("/")
    os.execv(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(error.strerror)
"""
"""Not `unshare --root`: what the kernel cannot execute that hands to a shell, as if a foreign binary were a script."""
_PATIENCE = 20.0
"""Seconds for `--version`: a binary of 130 MB may have to come from a slow disk first."""


def inside(root: Path, path: Path | str) -> Path | None:
    """Where `path` of the image lies on the host, all links followed inside `root`; None when it cannot be reached."""
    try:
        return _walk(root, path)
    except OSError:
        return None


def _walk(root: Path, path: Path | str) -> Path | None:
    waiting = list(reversed(PurePosixPath(path).parts))
    here = root
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "/":
            here = root
        elif part == "..":
            here = here.parent if here != root else root
        elif (here / part).is_symlink():
            links += 1
            if links > _LINKS:
                return None
            waiting += reversed(PurePosixPath((here / part).readlink()).parts)
        else:
            here = here / part
            if not here.exists():
                return None
    return here


def read_version(program: Path, *, root: Path | None) -> str:
    """What `program --version` says, run in `root` without a network. Raises LabError when it does not run."""
    where = f"{program} of the image" if root else str(program)
    try:
        reported = process.run([*_entering(root), str(program), "--version"], timeout=_PATIENCE)
    except LabError as error:
        raise LabError(
            f"{where} does not run",
            why=error.why or error.what,
            fix=f"it must be an executable for {os.uname().machine}",
        ) from None
    found = printed_release(reported)
    if found is None:
        raise LabError(f"{where} tells no version", why=f"--version printed: {reported.strip()[:200] or 'nothing'}")
    return found


def _entering(root: Path | None) -> Sequence[str]:
    """A binary may need its own image's libraries; and what was only just fetched has no business on a network."""
    if root is None:
        return ()
    user = () if userns.is_able() else ("--user", "--map-root-user")
    return ("unshare", *user, "--net", "--", sys.executable, "-I", "-S", "-c", _ENTER, str(root))
