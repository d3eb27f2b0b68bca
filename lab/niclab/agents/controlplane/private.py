"""Becomes a program that has a /run of its own; run as a file: `private.py PATH… -- PROGRAM ARGUMENT…`.

Cilium's operator keeps a socket and a directory in /run/cilium of whatever machine it runs on, and no setting of every
version moves them. The PATHs, all below /run, stay visible. Only the standard library: it starts with `-I -S`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18


def hide_run(visible: Sequence[str]) -> None:
    """Give this process a mount namespace whose /run is empty but for `visible`. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int, what: str) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")

    def mount(source: str, target: str, kind: bytes | None, flags: int) -> None:
        check(libc.mount(source.encode(), target.encode(), kind, flags, None), f"mount on {target}")

    check(libc.unshare(_CLONE_NEWNS), "unshare")
    mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    handles = {path: os.open(path, os.O_PATH) for path in visible}
    mount("tmpfs", "/run", b"tmpfs", 0)
    for path, handle in handles.items():
        Path(path).mkdir(parents=True)
        mount(f"/proc/self/fd/{handle}", path, None, _MS_BIND | _MS_REC)
        os.close(handle)


def main(arguments: Sequence[str]) -> None:
    at = arguments.index("--")
    program = list(arguments[at + 1 :])
    try:
        hide_run(arguments[:at])
        os.execvp(program[0], program)
    except OSError as error:
        print(f"error: cannot run {program[0]}: {error}", file=sys.stderr)
        sys.exit(125)


if __name__ == "__main__":
    main(sys.argv[1:])
